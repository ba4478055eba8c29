"""Renders the chart with a real Helm, without a cluster."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from frontend.package_chart import CHART, HELM, environment

Document = dict[str, Any]

VALUES = Path(__file__).parent / "values"
NAMES = ("defaults", *sorted(path.stem for path in VALUES.glob("*.yaml")))

RELEASE, NAMESPACE = "page", "web"


class RenderError(Exception):
    """Helm refused. The message is Helm's."""


def helms() -> list[str]:
    """The Helm that `make chart` puts here, and another one that is on the PATH."""
    found = [str(HELM)] if HELM.is_file() else []
    other = shutil.which("helm")
    return [*found, other] if other is not None and other != str(HELM) else found


def values_of(name: str) -> list[str]:
    """Options that choose a values file. The chart's own values want a domain."""
    return ["--set=ezua.domainName=apps.example.com"] if name == "defaults" else [f"--values={VALUES / name}.yaml"]


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as home:
        return subprocess.run(
            [program, *arguments], env=environment(Path(home)), capture_output=True, text=True, check=False
        )


def render(
    program: str, *options: str, chart: Path = CHART, release: str = RELEASE, namespace: str = NAMESPACE
) -> list[Document]:
    """`helm template`.

    Raises:
        RenderError: Helm refused.
    """
    done = run(program, "template", release, str(chart), f"--namespace={namespace}", *options)
    if done.returncode != 0:
        raise RenderError(done.stderr)
    return [document for document in yaml.safe_load_all(done.stdout) if document is not None]


def notes(program: str, *options: str, scratch: Path) -> str:
    """The notes that Helm prints after an installation, rendered as a document: `helm template` omits them."""
    chart = scratch / "chart"
    shutil.copytree(CHART, chart)
    (chart / "templates" / "NOTES.txt").rename(chart / "notes.tpl")
    (chart / "templates" / "notes.yaml").write_text(
        'kind: Notes\nmetadata: {name: notes}\ntext: {{ tpl (.Files.Get "notes.tpl") . | quote }}\n', encoding="utf-8"
    )
    (text,) = (str(document["text"]) for document in render(program, *options, chart=chart) if "text" in document)
    return text


def only(documents: list[Document], kind: str) -> Document:
    """The one document of a kind."""
    (found,) = (document for document in documents if document["kind"] == kind)
    return found
