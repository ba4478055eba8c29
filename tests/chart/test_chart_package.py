"""The archive that clusters import."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from dockerfiles.build import version
from frontend.package_chart import CHART, PackageError, package
from tests.chart.rendering import render, run, values_of


@pytest.fixture
def archive(program: str, tmp_path: Path) -> Path:
    return package(program, CHART, tmp_path / "dist")


def test_the_versions_are_the_projects() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["version"] == chart["appVersion"] == version()


def test_the_icon_is_the_drawing() -> None:
    drawing = (CHART / "icon.svg").read_bytes()
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    kind, _, data = chart["icon"].partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(data) == drawing
    assert ElementTree.fromstring(drawing).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - our own file


def test_packages_are_reproducible(program: str, archive: Path, tmp_path: Path) -> None:
    """Whatever the files' times and permissions are, and wherever they lie."""
    copy = tmp_path / "elsewhere" / "the-chart"
    shutil.copytree(CHART, copy, copy_function=shutil.copyfile)
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
        if path.is_file():
            path.chmod(0o600)
    assert package(program, copy, tmp_path / "other").read_bytes() == archive.read_bytes()


def test_the_time_is_that_of_the_source(
    program: str, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    other = package(program, CHART, tmp_path / "other")
    assert other.read_bytes() != archive.read_bytes()
    with tarfile.open(other) as opened:
        assert {member.mtime for member in opened} == {1700000000}


def test_contents_of_the_package(archive: Path) -> None:
    assert archive.name == f"kserve-rag-frontend-{version()}.tgz"
    with tarfile.open(archive) as opened:
        names = {member.name.removeprefix("kserve-rag-frontend/") for member in opened}
    assert names == {path.relative_to(CHART).as_posix() for path in CHART.rglob("*") if path.is_file()}


@pytest.mark.parametrize("values", ["defaults", "ezua"])
def test_the_package_renders_like_its_folder(program: str, archive: Path, values: str) -> None:
    assert render(program, *values_of(values), chart=archive) == render(program, *values_of(values))
    assert run(program, "lint", "--strict", str(archive), *values_of(values)).returncode == 0


def test_a_chart_that_helm_refuses_is_not_packed(program: str, tmp_path: Path) -> None:
    chart = tmp_path / "chart"
    chart.mkdir()
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: x\n")
    with pytest.raises(PackageError, match=r"version"):
        package(program, chart, tmp_path / "dist")
    assert not (tmp_path / "dist").exists()


def test_the_command(archive: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "frontend.package_chart", str(tmp_path / "made")]
    done = subprocess.run(command, cwd=CHART.parents[1], capture_output=True, text=True, check=True)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert done.stdout == f"{tmp_path / 'made' / archive.name}\nsha256:{digest}\n"


def test_without_helm_the_command_says_so(tmp_path: Path) -> None:
    script = tmp_path / "frontend" / "package_chart.py"
    script.parent.mkdir()
    shutil.copyfile(CHART.parent / "package_chart.py", script)
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "There is no helm" in done.stderr
