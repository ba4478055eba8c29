"""Every notebook runs from top to bottom against the running graph, and is stored without outputs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

if TYPE_CHECKING:
    from conftest import PeopleGraph

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
ALL = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
WITH_TORCH = ("06-fine-tune-the-embedder.ipynb",)
"""Run by tests/with_torch, which has their packages."""
RUN = [name for name in ALL if name not in WITH_TORCH]
LONGEST_CELL_S = 240


@pytest.fixture(scope="module")
def kernel(graph: PeopleGraph, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a kernel on this graph: nothing of the user's own settings."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("KSERVE_RAG_")}
    runtime = tmp_path_factory.mktemp("jupyter")
    return {
        **variables,
        "KSERVE_RAG_HOME": str(graph.home),
        "KSERVE_RAG_MODELS_DIR": str(graph.settings.models),
        "KSERVE_RAG_ENVS_DIR": str(graph.settings.envs),
        "IPYTHONDIR": str(runtime),
        "MPLCONFIGDIR": str(runtime),
    }


@pytest.fixture(scope="module")
def executed() -> dict[str, Any]:
    """Notebooks that have run, by name: 02 and 03 serve the index that 01 builds."""
    return {}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", RUN)
def test_a_notebook_runs_from_top_to_bottom(name: str, kernel: dict[str, str], executed: dict[str, Any]) -> None:
    for needed in (RUN[0], name) if name in RUN[1:3] else (name,):
        if needed not in executed:
            executed[needed] = _run(needed, kernel)
    for cell in executed[name].cells:
        for output in cell.get("outputs", ()):
            assert output.output_type != "error"
            assert "Warning" not in output.get("text", ""), f"{name}, cell {cell.id}: {output.text}"


def _run(name: str, variables: dict[str, str]) -> Any:
    """The notebook with its outputs. A cell that fails is the test's failure, with its source and traceback."""
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=LONGEST_CELL_S, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOKS)}}
    )
    client.execute(env=variables)
    return notebook


def test_there_are_seven() -> None:
    assert [name[:3] for name in ALL] == [f"0{number}-" for number in range(1, 8)]


@pytest.mark.parametrize("name", ALL)
def test_a_notebook_is_kept_without_outputs(name: str) -> None:
    text = (NOTEBOOKS / name).read_text("utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert [cell.id for cell in notebook.cells] == [f"{name[:2]}-{place:02d}" for place in range(len(notebook.cells))]
    for cell in notebook.cells:
        assert not cell.metadata
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    # As Jupyter writes it, so that saving an unchanged notebook changes nothing.
    assert text == nbformat.writes(notebook) + "\n"


@pytest.mark.parametrize("name", ALL)
def test_a_notebook_ends_with_what_it_claims(name: str) -> None:
    code = [cell.source for cell in _cells(name) if cell.cell_type == "code"]
    assert "\nassert " in code[-1]


@pytest.mark.parametrize("name", ALL)
def test_notebooks_use_public_names_only(name: str) -> None:
    for cell in _cells(name):
        if cell.cell_type != "code":
            continue
        for line in cell.source.splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]):
                names = [part for word in words for part in word.strip(",()").split(".")]
                assert not [part for part in names if part.startswith("_")], line
    source = "\n".join(cell.source for cell in _cells(name))
    assert not ("import kserve" in source or "from kserve " in source) or "tritonclient.grpc" not in source


@pytest.mark.parametrize("name", ALL)
def test_links_between_notebooks_resolve(name: str) -> None:
    for cell in _cells(name):
        for target in cell.source.split("](")[1:] if cell.cell_type == "markdown" else ():
            path = target.partition(")")[0].partition("#")[0]
            assert path.startswith("http") or not path or (NOTEBOOKS / path).exists(), path


@pytest.mark.parametrize("name", RUN)
def test_one_cell_turns_to_a_cluster(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It then names Services of the manifests, and takes a token from the environment."""
    monkeypatch.setenv("KSERVE_RAG_NAMESPACE", "questions")
    monkeypatch.setenv("KSERVE_RAG_TOKEN", "a-token")
    (cell,) = (cell for cell in _cells(name) if "This is the one cell to change" in cell.source)
    found: dict[str, Any] = {}
    exec(compile(cell.source, name, "exec"), found)  # noqa: S102 - our own
    documents = yaml.safe_load_all((NOTEBOOKS.parent / "manifests/base/services.yaml").read_text("utf-8"))
    hosts = {f"{document['metadata']['name']}.questions.svc.cluster.local" for document in documents}
    urls = found["URLS"].values() if "URLS" in found else [found["EMBEDDER"]]
    assert {urlsplit(url).hostname for url in urls} <= hosts
    if "TOKEN" in found:
        assert found["HEADERS"] == {"authorization": "Bearer a-token"}


def test_the_questions_are_about_documents_that_are_there() -> None:
    documents = "".join(path.read_text("utf-8") for path in (NOTEBOOKS / "documents").rglob("*") if path.is_file())
    rows = (NOTEBOOKS / "questions.csv").read_text("utf-8").splitlines()[1:]
    assert len(rows) > 20
    for row in rows:
        assert row.rpartition(",")[2] in documents, row


def _cells(name: str) -> list[Any]:
    return list(nbformat.read(NOTEBOOKS / name, as_version=4).cells)
