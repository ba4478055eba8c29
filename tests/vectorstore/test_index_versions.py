"""Index versions: exact quotes, publishing in one step, and no unfinished version visible."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.errors import ServiceError
from tests.fakes.embedder import DIMENSION, FINGERPRINT, embed
from tests.vectorstore.running import ROOT, environment
from tests.vectorstore.sample_index import animals, document, publish, sentences
from vectorstore.errors import (
    BuilderClosedError,
    DamagedIndexError,
    InvalidContentError,
    NoIndexError,
    UnknownDocumentError,
    UnknownVersionError,
    UnsupportedFormatError,
)
from vectorstore.versions import Chunk, Document, IndexRoot, VersionBuilder, content_key


def begin(path: Path, **more: Any) -> VersionBuilder:
    return IndexRoot(path, "default").begin(
        embedder_fingerprint=FINGERPRINT, dimension=DIMENSION, settings={"size": 1}, **more
    )


def add(builder: VersionBuilder, doc: Document) -> None:
    chunks = sentences(doc)
    builder.add(doc, chunks, embed([chunk.text for chunk in chunks]))


def test_a_version_returns_its_content(tmp_path: Path) -> None:
    version = publish(tmp_path)
    root = IndexRoot(tmp_path, "default")
    assert root.current() == version
    assert root.versions() == [version]
    with root.open() as opened:
        assert list(opened.documents()) == animals()
        assert opened.document("fish") == animals()[3]
        chunks = list(opened.chunks())
        assert chunks == [chunk for doc in animals() for chunk in sentences(doc)]
        for row, chunk in enumerate(chunks):
            line = json.loads(opened.lines()[row])
            assert line["chunk_id"] == chunk.id
            assert (
                opened.document(line["document_id"]).text[line["span"]["start"] : line["span"]["end"]] == line["text"]
            )
        manifest = opened.manifest
    assert (manifest.version, manifest.name, manifest.format) == (version, "default", 3)
    assert (manifest.embedder.fingerprint, manifest.embedder.dimension) == (FINGERPRINT, DIMENSION)
    assert (manifest.counts.documents, manifest.counts.chunks) == (4, 12)
    assert manifest.sources["cats.md"].document_ids == ["cats"]
    assert manifest.sources["cats.md"].sha256 == animals()[0].source_sha256
    assert manifest.settings == {"by": "sentence"}
    assert manifest.metadata_fields == {
        "document_id": ["str"],
        "kind": ["str"],
        "legs": ["int"],
        "source": ["str"],
        "weight": ["float"],
        "wild": ["bool"],
    }


text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(text, st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), max_size=4)), max_size=4))
def test_every_span_quotes_whatever_the_text(sample: list[tuple[str, list[tuple[int, int]]]]) -> None:
    documents, chunks_of = [], {}
    for number, (body, spans) in enumerate(sample):
        doc = document(f"d{number}", body)
        documents.append(doc)
        chunks_of[doc.id] = [
            Chunk(f"{doc.id}/{i}", doc.id, body[start : start + length], start, min(start + length, len(body)))
            for i, (start, length) in enumerate(spans)
            if start < len(body)
        ]
    with tempfile.TemporaryDirectory() as path:
        with begin(Path(path)) as builder:
            for doc in documents:
                builder.add(doc, chunks_of[doc.id], embed([c.text for c in chunks_of[doc.id]]))
            builder.publish()
        with IndexRoot(Path(path), "default").open() as version:
            assert list(version.documents()) == documents
            stored = list(version.chunks())
            assert stored == [chunk for doc in documents for chunk in chunks_of[doc.id]]
            for chunk in stored:
                assert version.document(chunk.document_id).text[chunk.start : chunk.end] == chunk.text
            order = version.lines().order
            assert [stored[row].id for row in np.argsort(order)] == sorted(c.id for c in stored)


def test_vectors_are_found_again_by_content(tmp_path: Path) -> None:
    doc = document("a", "one. two. two", source="s")
    with begin(tmp_path) as builder:
        chunks = sentences(doc)
        headed = Chunk("h", "a", "one", 0, 3, embedding_text="Title: one")
        builder.add(doc, [*chunks, headed], embed([c.text for c in chunks] + ["Title: one"]))
        builder.publish()
    with IndexRoot(tmp_path, "default").open() as version:
        vectors = version.vectors_by_content()
        for content in ("one", "two", "Title: one"):
            np.testing.assert_array_equal(vectors[content_key(FINGERPRINT, content)].dense, embed([content])[0])
        assert content_key("another embedder", "one") not in vectors
        assert "not a key" not in vectors
        assert len(vectors) == len(list(vectors)) == 3


def test_vectors_are_stored_at_length_one(tmp_path: Path) -> None:
    doc = document("a", "one. two")
    with begin(tmp_path) as builder:
        builder.add(doc, sentences(doc), embed(["one", "two"]) * np.float32(3))
        builder.publish()
    with IndexRoot(tmp_path, "default").open() as version:
        np.testing.assert_allclose(version.exact.vectors, embed(["one", "two"]), atol=1e-6)


@pytest.mark.parametrize(
    ("vectors", "told"),
    [
        (np.full((3, DIMENSION), np.nan), "not finite"),
        (np.full((3, DIMENSION), np.inf), "not finite"),
        (np.zeros((3, DIMENSION)), "zeros"),
        (np.ones((3, DIMENSION + 1)), f"[n, {DIMENSION}]"),
        (np.ones((2, DIMENSION)), "3 chunks came with 2 vectors"),
        (np.ones(DIMENSION), f"[n, {DIMENSION}]"),
        ([["a"] * DIMENSION] * 3, "numbers"),
    ],
)
def test_bad_vectors_are_refused(tmp_path: Path, vectors: Any, told: str) -> None:
    doc = animals()[0]
    with begin(tmp_path) as builder:
        with pytest.raises(InvalidContentError) as error:
            builder.add(doc, sentences(doc), vectors)
        assert told in error.value.message
        add(builder, doc)  # what was refused left nothing behind
        builder.publish()
    with IndexRoot(tmp_path, "default").open() as version:
        assert version.manifest.counts.chunks == 3


good = document("a", "some text", year=2020)


@pytest.mark.parametrize(
    ("doc", "chunk", "field"),
    [
        (good, Chunk("c", "a", "some", 0, 5), "chunk.start"),
        (good, Chunk("c", "a", "some", 1, 4), "chunk.start"),
        (good, Chunk("c", "a", "text", -4, 9), "chunk.start"),
        (good, Chunk("c", "a", "", 2, 2), "chunk.start"),
        (good, Chunk("c", "b", "some", 0, 4), "chunk.document_id"),
        (good, Chunk("", "a", "some", 0, 4), "chunk.id"),
        (good, Chunk("c", "a", "some", 0, 4, ("\ud800",)), "chunk.heading_path"),
        (document("a", "half \ud800 pair"), Chunk("c", "a", "half", 0, 4), "document.text"),
        (document("a", "some", when=float("nan")), Chunk("c", "a", "some", 0, 4), "document.metadata"),
        (document("a", "some", size=2**63), Chunk("c", "a", "some", 0, 4), "document.metadata"),
        (document("a", "some", tags=["x"]), Chunk("c", "a", "some", 0, 4), "document.metadata"),
        (document("a", "some", **{"$eq": 1}), Chunk("c", "a", "some", 0, 4), "document.metadata"),
        (document("", "some"), Chunk("c", "", "some", 0, 4), "document.id"),
    ],
)
def test_bad_content_is_refused_and_leaves_nothing(tmp_path: Path, doc: Document, chunk: Chunk, field: str) -> None:
    with begin(tmp_path) as builder:
        with pytest.raises(InvalidContentError) as error:
            builder.add(doc, [chunk], embed([chunk.text]))
        assert error.value.field == field
        add(builder, good)
        builder.publish()
    with IndexRoot(tmp_path, "default").open() as version:
        assert [doc.id for doc in version.documents()] == ["a"]


def test_ids_are_unique_and_refused_documents_can_be_corrected(tmp_path: Path) -> None:
    one, two = animals()[:2]
    with begin(tmp_path) as builder:
        add(builder, one)
        with pytest.raises(InvalidContentError, match="already added"):
            add(builder, one)
        stolen = Chunk("cats-0", two.id, two.text[:4], 0, 4)
        with pytest.raises(InvalidContentError, match="already used"):
            builder.add(two, [stolen], embed(["x"]))
        changed = Document("other", "x", "", None, one.source, "f" * 64)
        with pytest.raises(InvalidContentError, match="two different hashes"):
            builder.add(changed, [], [])
        add(builder, two)
        builder.publish()
    with IndexRoot(tmp_path, "default").open() as version:
        assert [doc.id for doc in version.documents()] == ["cats", "dogs"]
        assert version.manifest.counts.chunks == len(list(version.chunks())) == 6


def test_documents_without_chunks_and_empty_indexes(tmp_path: Path) -> None:
    with begin(tmp_path) as builder:
        builder.publish()
    with begin(tmp_path) as builder:
        builder.add(document("empty", ""), [], np.empty((0, DIMENSION)))
        builder.publish()
    root = IndexRoot(tmp_path, "default")
    for version, documents in zip(root.versions(), (0, 1), strict=True):
        with root.open(version) as opened:
            assert (opened.manifest.counts.documents, opened.manifest.counts.chunks) == (documents, 0)
            assert len(opened.lines()) == len(opened.lexical()) == opened.exact.count() == 0
            assert list(opened.chunks()) == []


def test_nothing_is_visible_before_publishing(tmp_path: Path) -> None:
    root = IndexRoot(tmp_path, "default")
    with begin(tmp_path) as builder:
        add(builder, animals()[0])
        assert root.versions() == []
        assert root.current() is None
    assert [path.name for path in root.folder.iterdir()] == [".lock"]
    with pytest.raises(BuilderClosedError):
        builder.publish()
    with pytest.raises(BuilderClosedError):
        add(builder, animals()[0])


def test_an_error_in_the_block_discards_the_version(tmp_path: Path) -> None:
    def fails() -> None:
        with begin(tmp_path) as builder:
            add(builder, animals()[0])
            raise RuntimeError("the embedder is gone")

    with pytest.raises(RuntimeError):
        fails()
    assert [path.name for path in (tmp_path / "default").iterdir()] == [".lock"]


def test_a_killed_builder_is_cleaned_up(tmp_path: Path) -> None:
    before = publish(tmp_path)
    program = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path; import test_index_versions as t\n"
        "builder = t.begin(Path(sys.argv[1])); t.add(builder, t.animals()[0])\n"
        "print('added', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), *map(str, Path(__file__).parents[:2])],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"added\n"
        (theirs,) = (tmp_path / "default").glob(".building-*")
        with begin(tmp_path):
            assert theirs.exists(), "a living builder's work was removed"
        os.kill(process.pid, signal.SIGKILL)
    root = IndexRoot(tmp_path, "default")
    assert root.versions() == [before]
    assert root.current() == before
    assert theirs.exists()
    with begin(tmp_path):
        assert not theirs.exists()


def test_versions_sort_by_creation_and_roll_back(tmp_path: Path) -> None:
    names = [publish(tmp_path, animals()[:count]) for count in (1, 2, 3)]
    root = IndexRoot(tmp_path, "default")
    assert root.versions() == names == sorted(names)
    assert root.current() == names[-1]
    root.set_current(names[0])
    assert root.current() == names[0]
    with root.open() as version:
        assert version.manifest.counts.documents == 1
    with root.open(names[1]) as version:
        assert version.manifest.counts.documents == 2
    with pytest.raises(UnknownVersionError):
        root.set_current("20000101T000000-000000")
    with pytest.raises(UnknownVersionError):
        root.open("../default")
    assert root.current() == names[0]


def test_the_same_content_has_the_same_digest(tmp_path: Path) -> None:
    one, two, three = publish(tmp_path), publish(tmp_path), publish(tmp_path, animals()[:2])
    assert one.split("-")[1] == two.split("-")[1] != three.split("-")[1]


def test_pruning_keeps_the_newest_and_the_current(tmp_path: Path) -> None:
    names = [publish(tmp_path, animals()[:1]) for _ in range(4)]
    root = IndexRoot(tmp_path, "default")
    root.set_current(names[0])
    with root.open(names[1]) as held:
        assert root.prune(1) == names[1:3]
        assert held.document("cats").text == animals()[0].text
        assert len(held.exact.vectors) == 3
    assert root.versions() == [names[0], names[3]]
    assert root.current() == names[0]
    with pytest.raises(InvalidContentError):
        root.prune(0)


def test_a_reader_sees_one_version_or_the_other(tmp_path: Path) -> None:
    """While one process points back and forth, every read of the pointer names a version that opens."""
    names = [publish(tmp_path, animals()[:count]) for count in (1, 2)]
    program = (
        "import itertools, sys; from pathlib import Path; from vectorstore.versions import IndexRoot\n"
        "root, enough = IndexRoot(Path(sys.argv[1]), 'default'), Path(sys.argv[2])\n"
        "for name in itertools.cycle(sys.argv[3:]):\n"
        "    root.set_current(name)\n"
        "    if enough.exists(): break\n"
    )
    root, enough = IndexRoot(tmp_path, "default"), tmp_path / "enough"
    seen: list[str] = []
    command = [sys.executable, "-c", program, str(tmp_path), str(enough), *names]
    with subprocess.Popen(command, cwd=ROOT, env=environment()) as process:
        while len(seen) < 20 or set(seen) != set(names):
            with root.open() as version:
                seen.append(version.name)
        enough.touch()
        assert process.wait() == 0


def manifest_with(path: Path, **changes: Any) -> None:
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, **changes}))


def test_damaged_files_are_errors(tmp_path: Path) -> None:
    root = IndexRoot(tmp_path, "default")
    with pytest.raises(NoIndexError, match="kserve-rag ingest"):
        root.open()
    version = publish(tmp_path)
    folder = root.folder / version
    intact = (folder / "manifest.json").read_text()

    (folder / "manifest.json").write_text(intact[: len(intact) // 2])
    with pytest.raises(DamagedIndexError, match="manifest"):
        root.open()
    (folder / "manifest.json").write_text('{"format": 3}')
    with pytest.raises(DamagedIndexError, match="version"):
        root.open()
    (folder / "manifest.json").write_text(intact)
    for written, step in ((4, "upgrade"), (2, "kserve-rag ingest")):
        manifest_with(folder / "manifest.json", format=written)
        with pytest.raises(UnsupportedFormatError, match=f"format {written}.*{step}"):
            root.open()
    (folder / "manifest.json").unlink()
    assert root.versions() == []
    with pytest.raises(DamagedIndexError, match="manifest"):
        root.open()
    (folder / "manifest.json").write_text(intact)

    vectors = (folder / "exact" / "vectors.f32").read_bytes()
    (folder / "exact" / "vectors.f32").write_bytes(vectors[:-100])
    with pytest.raises(DamagedIndexError, match=r"exact/vectors\.f32"):
        root.open()
    (folder / "exact" / "vectors.f32").write_bytes(vectors)

    (root.folder / "current").write_text("20000101T000000-000000\n")
    with pytest.raises(DamagedIndexError, match="does not exist"):
        root.open()
    (root.folder / "current").write_text("")
    with pytest.raises(DamagedIndexError, match=version):
        root.open()
    root.set_current(version)
    with root.open() as opened, pytest.raises(UnknownDocumentError, match="'nope'"):
        opened.document("nope")


def test_a_copied_version_is_served_only_under_its_own_name(tmp_path: Path) -> None:
    version = publish(tmp_path)
    root = IndexRoot(tmp_path, "default")
    (root.folder / version).rename(root.folder / "20300101T000000-abcdef")
    with pytest.raises(DamagedIndexError, match="must not be renamed"):
        root.open("20300101T000000-abcdef")


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "x" * 64, "a b"])
def test_index_names_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ServiceError):
        IndexRoot(tmp_path, name)
