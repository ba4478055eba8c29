"""Ingestion on a cluster's workers writes the version that it writes without them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.fakes.embedder import LoopbackEmbedder
from vectorstore.versions import IndexRoot

if TYPE_CHECKING:
    from tests.with_ray.conftest import Cluster

DOCUMENTS = Path(__file__).parents[1] / "ingest" / "files"


@pytest.fixture
def embedder() -> Iterator[LoopbackEmbedder]:
    with LoopbackEmbedder() as server:
        server.whole = True
        yield server


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """Documents of every format, some that say the same, and files that cannot be used."""
    folder = tmp_path / "docs"
    shutil.copytree(DOCUMENTS, folder, ignore=shutil.ignore_patterns("golden"))
    shutil.copy(folder / "guide.md", folder / "zz-guide-again.md")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    (folder / "picture.svg").write_text("<svg/>")
    for number in range(20):
        (folder / f"note-{number}.md").write_text(f"# Note {number}\n\nPot {number} is glazed on shelf {number % 7}.\n")
    return folder


class Ingestion:
    """`python -m ingest` or `python -m scaleout`, each with its own index."""

    def __init__(self, program: str, folder: Path, environ: dict[str, str]) -> None:
        self._command = [sys.executable, "-m", program, "--json"]
        self._environ = {**environ, "INGEST_INDEX_ROOT": str(folder / program)}
        self.index = IndexRoot(folder / program, "default")

    def start(self, docs: Path) -> subprocess.Popen[str]:
        return subprocess.Popen([*self._command, docs], env=self._environ, stderr=subprocess.PIPE, text=True)

    def run(self, docs: Path, *, status: int = 0) -> tuple[dict[str, Any], str]:
        """The summary without fields that differ between runs, and the program's output."""
        done = subprocess.run([*self._command, docs], env=self._environ, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        summary = json.loads(done.stdout) if status == 0 else {}
        return {name: value for name, value in summary.items() if name not in _OF_ONE_RUN}, done.stderr


_OF_ONE_RUN = ("version", "seconds", "chunks_per_s")


@pytest.fixture
def ingestions(
    cluster: Cluster, embedder: LoopbackEmbedder, tokenizer: Path, tmp_path: Path
) -> tuple[Ingestion, Ingestion]:
    """Without Ray, and with it on two workers."""
    environ = {
        **cluster.environ,
        "INGEST_TOKENIZER": str(tokenizer),
        "INGEST_EMBEDDER_URL": embedder.url,
        "INGEST_BATCH_SIZE": "8",
        "INGEST_EMBED_ATTEMPTS": "2",
        "INGEST_RETRY_WAIT_S": "0",
        "SCALEOUT_WORKERS": "2",
        "SCALEOUT_FILES_PER_TASK": "4",
    }
    return Ingestion("ingest", tmp_path, environ), Ingestion("scaleout", tmp_path, environ)


def same(one: IndexRoot, other: IndexRoot) -> None:
    """Asserts that the current versions of both are equal, byte for byte."""
    with one.open() as first, other.open() as second:
        assert first.name.rpartition("-")[2] == second.name.rpartition("-")[2]
        own = {"version": "", "build_id": "", "created_at": ""}
        manifests = [{**version.manifest.model_dump(mode="json"), **own} for version in (first, second)]
        assert manifests[0] == manifests[1]
        assert first.manifest.parts == ["dense", "lexical", "sparse", "multi_vector"]
        for path in first.manifest.files:
            made = [
                (index.folder / version.name / path).read_bytes() for index, version in ((one, first), (other, second))
            ]
            assert made[0] == made[1], path


def test_many_workers_write_the_version_that_one_process_writes(
    ingestions: tuple[Ingestion, Ingestion], embedder: LoopbackEmbedder, docs: Path
) -> None:
    alone, on_ray = ingestions
    expected, _ = alone.run(docs)
    assert set(expected["skipped"]) == {"broken.pdf", "picture.svg", "zz-guide-again.md"}
    sent = embedder.texts.copy()
    embedder.forget()
    summary, said = on_ray.run(docs)
    assert summary == expected
    assert "published version" in said
    # Each text is embedded once, by any actor, even if two documents contain it.
    assert embedder.texts == sent
    same(alone.index, on_ray.index)

    (docs / "note-7.md").write_text("# Note 7\n\nPot 7 broke.\n")
    (docs / "note-8.md").unlink()
    embedder.forget()
    expected, _ = alone.run(docs)
    sent = embedder.texts.copy()
    embedder.forget()
    summary, _ = on_ray.run(docs)
    assert summary == expected
    assert (summary["embedded"], summary["deleted"]) == (1, 1)
    assert embedder.texts == sent
    same(alone.index, on_ray.index)


def test_a_failing_embedder_leaves_nothing(
    ingestions: tuple[Ingestion, Ingestion], embedder: LoopbackEmbedder, docs: Path
) -> None:
    embedder.fails_after = 16
    _, on_ray = ingestions
    _, said = on_ray.run(docs, status=1)
    assert f"The embedder at {embedder.url} failed 2 times: " in said
    assert "Traceback" not in said
    assert on_ray.index.current() is None
    assert not list(on_ray.index.folder.glob("*T*")) + list(on_ray.index.folder.glob(".building-*"))
