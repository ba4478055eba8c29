"""The Dockerfiles' instructions, without building an image."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker.utils.build import PatternMatcher
from packaging.requirements import Requirement

from dockerfiles.build import ROOT, SERVICES, command, version
from tests.images.recipes import LIGHT, ON_GPUS, WITH_TRITON, Recipe
from tests.images.staging import PYTHON

BUILT = (*LIGHT, *WITH_TRITON, ON_GPUS)
"""The images that install something; `predictor` is NVIDIA's image under another user."""


@pytest.fixture(params=SERVICES)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return Recipe.read(request.param)


@pytest.fixture(params=BUILT)
def built(request: pytest.FixtureRequest) -> Recipe:
    return Recipe.read(request.param)


def ignored() -> PatternMatcher:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return PatternMatcher([line for line in lines if line and not line.startswith("#")])


def files_of(source: str) -> list[str]:
    """Files of a COPY source, relative to the root."""
    path = ROOT / source
    found = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return [str(file.relative_to(ROOT)) for file in found if "__pycache__" not in file.parts]


def pins(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^\s;]+)", lock.read_text(encoding="utf-8"), re.MULTILINE))


def test_every_service_has_an_image() -> None:
    assert set(SERVICES) == {*BUILT, "predictor"}


def test_copied_files_exist_and_are_in_the_build_context(recipe: Recipe) -> None:
    matcher = ignored()
    for stage in recipe.stages:
        for step in stage.all("COPY"):
            *sources, _ = [word for word in step.words if not word.startswith("--")]
            if any(word.startswith("--from=") for word in step.words):
                continue
            for source in sources:
                files = files_of(source)
                assert files, f"{recipe.path.name}: there is no {source}"
                assert not [file for file in files if matcher.matches(file)], f".dockerignore leaves out {source}"


def test_the_build_context_has_no_other_files() -> None:
    matcher = ignored()
    others = (
        ".git/config",
        ".venv/bin/python",
        "tests/conftest.py",
        "docs/api.md",
        ".env",
        "id_rsa",
        "kserve_rag/cli/app.py",
        "frontend/page/node_modules/react/index.js",
        "frontend/chart/values.yaml",
        "frontend/dist/index.html",
    )
    for path in (*others, "chassis/__pycache__/http.cpython-311.pyc", "build/x", "manifests/base/rag.yaml"):
        assert matcher.matches(path), path


def test_a_stage_is_an_earlier_one_or_a_pinned_image(recipe: Recipe) -> None:
    earlier: set[str] = set()
    for stage in recipe.stages:
        if stage.base not in earlier:
            image, _, tag = stage.base.partition(":")
            assert image, stage.base
            assert re.match(r"\d+\.\d+", tag), f"{stage.base} is not pinned"
        for step in stage.all("COPY"):
            assert {word.removeprefix("--from=") for word in step.words if word.startswith("--from=")} <= earlier
        if stage.name:
            earlier.add(stage.name)


def test_stages_have_one_base_with_the_python_that_is_tested(built: Recipe) -> None:
    assert [stage.name for stage in built.stages if stage.name != "page"] == ["build", None]
    (base,) = {stage.base for stage in built.stages if stage.name != "page"}
    assert re.fullmatch(rf"python:{re.escape(PYTHON)}\.\d+-slim-bookworm", base)


def test_all_images_share_their_python() -> None:
    assert len({Recipe.read(service).final.base for service in BUILT}) == 1


def test_the_user_is_a_number_and_not_root(recipe: Recipe) -> None:
    user, _, group = recipe.final.only("USER").value.partition(":")
    assert int(user) >= 1000
    assert int(group) >= 1000
    # Some libraries look up the user's name; nobody logs in.
    assert any(f"useradd --uid {user} " in step.value for step in recipe.final.all("RUN"))


def test_the_program_is_in_exec_form_and_gets_signals(recipe: Recipe) -> None:
    final = recipe.final
    assert final.only("ENTRYPOINT").arguments
    for step in final.all("CMD"):
        assert step.arguments
    assert final.only("STOPSIGNAL").value == "SIGTERM"
    kinds = {step.instruction for stage in recipe.stages for step in stage.steps}
    assert kinds <= {
        *("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE"),
        *("LABEL", "RUN", "STOPSIGNAL", "USER", "WORKDIR"),
    }  # no HEALTHCHECK: probes belong to the manifests; no ADD: nothing comes from a URL


def test_nothing_writes_into_the_image(recipe: Recipe) -> None:
    variables = recipe.final.pairs("ENV")
    assert variables["HOME"] == "/tmp"  # noqa: S108 - a bounded volume in the manifests
    assert variables["PYTHONDONTWRITEBYTECODE"] == "1"
    assert variables["USER"]
    assert not recipe.final.all("VOLUME")


def test_the_standard_library_is_compiled(built: Recipe) -> None:
    (line,) = (step.value for step in built.final.all("RUN") if "compileall" in step.value)
    assert f"/usr/local/lib/python{PYTHON}" in line
    assert line.index("rm -rf") < line.index("compileall")


def test_build_tools_are_not_in_the_image(built: Recipe) -> None:
    (copied,) = built.final.all("COPY")
    assert copied.words == ["--from=build", "/opt", "/opt"]
    said = " ".join(step.value for step in built.final.all("RUN"))
    assert "/usr/local/bin/pip*" in said  # the base image's own
    assert not re.search(r"\b(apt|apt-get|uv|pip3? install|curl|wget)\b", said)


def test_only_wheels_with_known_hashes_are_installed(built: Recipe) -> None:
    installs = [step.value for step in built.build.all("RUN") if re.search(r"pip (install|sync)", step.value)]
    assert len(installs) == 2
    for line in installs:
        assert "--require-hashes --only-binary :all:" in line
        (lock,) = re.findall(r"locks/\S+\.txt", line)
        assert any(lock in step.words for step in built.build.all("COPY"))
        assert set(pins(ROOT / lock))


def test_labels(recipe: Recipe) -> None:
    labels = {
        name.removeprefix("org.opencontainers.image."): text for name, text in recipe.final.pairs("LABEL").items()
    }
    assert labels.keys() == {"title", "description", "licenses", "vendor", "base.name"}
    assert labels["title"] == f"kserve-rag-{recipe.service}"
    assert labels["base.name"].removeprefix("docker.io/library/") == recipe.final.base
    line = command("podman", recipe.service, prefix="", tag=version(), revision="0a1b")
    assert f"--tag=docker.io/library/kserve-rag-{recipe.service}:{version()}" in line
    assert f"--label=org.opencontainers.image.version={version()}" in line
    assert "--label=org.opencontainers.image.revision=0a1b" in line
    assert not recipe.final.all("ARG"), "podman would take labels with an old value from its cache"


# ── locks ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("service", LIGHT)
def test_an_image_installs_what_is_tested(service: str) -> None:
    tested = pins(ROOT / "locks" / "dev.txt")
    assert not pins(ROOT / "locks" / f"{service}.txt").items() - tested.items(), "run `make lock`"


def test_unused_packages_are_in_no_lock() -> None:
    lines = (ROOT / "locks" / "unused.in").read_text(encoding="utf-8").splitlines()
    names = {Requirement(line.split("#")[0]).name for line in lines if line and not line.startswith("#")}
    assert names <= pins(ROOT / "locks" / "dev.txt").keys()
    for service in LIGHT:
        assert not names & pins(ROOT / "locks" / f"{service}.txt").keys()


# ── with the manifests ────────────────────────────────────────────────────────────────────────────────────────────────


def containers() -> Iterator[dict[str, Any]]:
    """Every container of the manifests that runs one of our images."""

    def walk(node: Any) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict):
            if str(node.get("image", "")).startswith("kserve-rag-"):
                yield node
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    for path in sorted((ROOT / "manifests").rglob("*.yaml")):
        if path.name != "kustomization.yaml":
            for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
                yield from walk(document)


def test_every_image_of_the_manifests_is_one_of_these() -> None:
    named = {container["image"].removeprefix("kserve-rag-") for container in containers()}
    # Operators select the GPU image of the embedder with `images:` in a kustomization. The page has a chart.
    assert named == set(SERVICES) - {ON_GPUS, "frontend"}
    values = yaml.safe_load((ROOT / "frontend" / "chart" / "values.yaml").read_text(encoding="utf-8"))
    assert values["image"]["repository"] == "kserve-rag-frontend"
    assert values["service"]["targetPort"] == int(Recipe.read("frontend").final.only("EXPOSE").value)


BESIDE = (["python", "-m", "ingest.server"], {8080})
"""The second program of the image `ingest`, and the port that the manifests have it listen on."""


def keyless(arguments: list[str]) -> list[str]:
    """Arguments without the key of Triton's restricted APIs: a pod has one of its own."""
    return [argument.partition(":key=")[0] for argument in arguments]


def test_the_manifests_run_what_the_images_run() -> None:
    for container in containers():
        if container["image"] == "kserve-rag-ingest" and container.get("ports"):
            assert (container["command"], {port["containerPort"] for port in container["ports"]}) == BESIDE
            continue
        final = Recipe.read(container["image"].removeprefix("kserve-rag-")).final
        entry = final.only("ENTRYPOINT").arguments
        assert container.get("command", entry) == entry
        exposed = {int(port) for step in final.all("EXPOSE") for port in step.words}
        assert {port["containerPort"] for port in container.get("ports", [])} == exposed
        if final.all("CMD"):
            assert keyless(final.only("CMD").arguments) == keyless(container["args"])


def test_volumes_can_be_written_by_the_images_user() -> None:
    (group,) = {Recipe.read(service).final.only("USER").value.partition(":")[2] for service in SERVICES}
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "manifests").rglob("*.yaml"))
    assert set(re.findall(r"fsGroup: (\d+)", text)) == {group}


# ── make images ───────────────────────────────────────────────────────────────────────────────────────────────────────


def build(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `dockerfiles.build` with only this folder on the PATH."""
    return subprocess.run(
        [sys.executable, "-m", "dockerfiles.build", *arguments],
        cwd=ROOT,
        env={"PATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )


def engine(path: Path, name: str, script: str) -> None:
    (path / name).write_text(f"#!/bin/sh\n{script}\n")
    (path / name).chmod(0o755)


def test_without_an_engine_the_candidates_are_listed(tmp_path: Path) -> None:
    engine(tmp_path, "docker", "echo 'Cannot connect to the Docker daemon.' >&2; exit 1")
    done = build(tmp_path)
    assert done.returncode == 1
    assert "No container engine responds, so no image was built" in done.stderr
    assert "docker: `docker info` says: Cannot connect to the Docker daemon." in done.stderr
    for name in ("podman", "nerdctl", "buildah"):
        assert f"{name}: not on the PATH" in done.stderr


def test_the_first_engine_that_answers_builds_every_image(tmp_path: Path) -> None:
    engine(tmp_path, "docker", "exit 1")
    engine(tmp_path, "podman", f'echo "$@" >> {tmp_path}/asked')
    done = build(tmp_path, "--prefix", "registry.example.com/")
    assert done.returncode == 0, done.stderr
    info, *builds = (tmp_path / "asked").read_text().splitlines()
    assert info == "info"
    assert len(builds) == len(SERVICES)
    for service, line in zip(SERVICES, builds, strict=True):
        assert line.startswith(f"build --file=dockerfiles/{service}.Dockerfile ")
        assert f" --tag=registry.example.com/kserve-rag-{service}:{version()} " in line
        assert line.endswith(" .")


def test_a_failed_build_ends_it(tmp_path: Path) -> None:
    engine(tmp_path, "buildah", 'test "$1" = info || exit 3')
    done = build(tmp_path, "ingest", "transformer")
    assert done.returncode == 3
    assert "ingest: the build failed with status 3." in done.stderr


def test_an_unknown_service_is_named(tmp_path: Path) -> None:
    done = build(tmp_path, "gateway")
    assert done.returncode == 2
    assert "there is no gateway" in done.stderr
