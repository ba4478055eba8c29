"""The holdings of a version, and the search for remains of deleted sources in each of its parts."""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import chromadb
import orjson
import pytest
from chromadb.config import Settings

from tests.vectorstore.sample_index import animals, document, publish
from vectorstore.errors import DamagedIndexError
from vectorstore.stores.chroma import COLLECTION
from vectorstore.versions import DeletionReport, Document, Holding, IndexRoot, holdings, remains

GONE = "dogs.md"
NOTHING = DeletionReport(0, 0, 0, 0, 0, 0, 0, 0, 0)


def horses() -> Document:
    """As many chunks as the dogs have."""
    text = "Horses sleep on their legs. A horse gallops for hours. Horses eat grass."
    return document("horses", text, legs=4, kind="mammal", wild=False, weight=500.0)


def without_dogs() -> list[Document]:
    return [horses() if each.source == GONE else each for each in animals()]


@pytest.fixture
def versions(tmp_path: Path) -> tuple[Path, Path]:
    """Folders of a version with dogs, and of one with horses instead. Both have as many rows in every part."""
    before = publish(tmp_path, bits=2)
    after = publish(tmp_path, without_dogs(), bits=2)
    return tmp_path / "default" / before, tmp_path / "default" / after


def look(root: Path, version: str, before: str | None = None) -> DeletionReport:
    index = IndexRoot(root, "default")
    with index.open(version) as opened:
        if before is None:
            return remains(opened, [GONE])
        with index.open(before) as earlier:
            return remains(opened, [GONE], earlier)


def complete(folder: Path) -> None:
    """Writes the current sizes of the files into the manifest."""
    path = folder / "manifest.json"
    manifest = orjson.loads(path.read_bytes())
    manifest["files"] = {name: (folder / name).stat().st_size for name in manifest["files"]}
    path.write_bytes(orjson.dumps(manifest))


def test_a_field_named_source_is_not_taken_for_the_file(tmp_path: Path) -> None:
    """Records have one to name the place that they were copied from."""
    docs = [document("cats", "Cats sleep. Cats purr", source=GONE, document_id="dogs"), horses()]
    publish(tmp_path, docs)
    with IndexRoot(tmp_path, "default").open() as opened:
        assert {holding.source: holding.chunks for holding in holdings(opened)} == {"cats.md": 2, "horses.md": 3}
        assert remains(opened, [GONE]).found() == 0
        assert remains(opened, ["cats.md"]).metadata == 1
        mask = opened.exact.fields.mask
        assert mask({"source": {"$eq": "cats.md"}}).tolist() == [True, True, False, False, False]
        assert not mask({"document_id": {"$eq": "dogs"}}).any()
        assert opened.document("cats").metadata == {"source": GONE, "document_id": "dogs"}


def test_holdings_count_what_each_source_became(tmp_path: Path) -> None:
    more = dataclasses.replace(document("cats-2", "Cats climb trees. A cat hides."), source="cats.md")
    more = dataclasses.replace(more, source_sha256=animals()[0].source_sha256)
    version = publish(tmp_path, [*animals(), more, document("empty", "")])
    with IndexRoot(tmp_path, "default").open(version) as opened:
        held = {holding.source: holding for holding in holdings(opened)}
    assert list(held) == ["birds.md", "cats.md", "dogs.md", "empty.md", "fish.md"]
    assert held["cats.md"] == Holding("cats.md", more.source_sha256, None, 2, 5)
    assert held["dogs.md"] == Holding("dogs.md", animals()[1].source_sha256, "Dogs", 1, 3)
    assert (held["empty.md"].documents, held["empty.md"].chunks) == (1, 0)


def test_an_empty_version_holds_nothing(tmp_path: Path) -> None:
    version = publish(tmp_path, [])
    with IndexRoot(tmp_path, "default").open(version) as opened:
        assert holdings(opened) == []
        assert remains(opened, [GONE]) == dataclasses.replace(NOTHING, sparse=None, multi_vector=None)


def test_a_version_built_without_a_source_has_no_remains(tmp_path: Path, versions: tuple[Path, Path]) -> None:
    before, after = versions
    assert look(tmp_path, after.name, before.name) == NOTHING
    assert look(tmp_path, after.name).found() == 0


def test_everything_is_found_in_a_version_that_has_it(tmp_path: Path, versions: tuple[Path, Path]) -> None:
    before, _ = versions
    found = look(tmp_path, before.name, before.name)
    assert all(dataclasses.asdict(found).values())
    assert (found.dense, found.store, found.multi_vector) == (3, 3, 3)
    assert all(dataclasses.asdict(look(tmp_path, before.name)).values())


def in_manifest(_: Path, after: Path) -> None:
    manifest = orjson.loads((after / "manifest.json").read_bytes())
    manifest["sources"][GONE] = {"sha256": "0" * 64, "document_ids": []}
    (after / "manifest.json").write_bytes(orjson.dumps(manifest))


def in_documents(_: Path, after: Path) -> None:
    with sqlite3.connect(after / "documents.sqlite") as database:
        database.execute("UPDATE documents SET id = 'dogs' WHERE id = 'horses'")
    database.close()


def in_chunks(_: Path, after: Path) -> None:
    lines = (after / "chunks.jsonl").read_bytes()
    # The length stays, so that line offsets stay.
    assert b'"horses.md"' in lines
    (after / "chunks.jsonl").write_bytes(lines.replace(b'"source":"horses.md"', b'"source":  "dogs.md"'))


def in_metadata(before: Path, after: Path) -> None:
    line = next(line for line in (before / "exact" / "metadata.jsonl").read_bytes().splitlines() if b"dogs" in line)
    with (after / "exact" / "metadata.jsonl").open("ab") as lines:
        lines.write(line + b"\n")


def in_dense(before: Path, after: Path) -> None:
    shutil.copy(before / "exact" / "metadata.jsonl", after / "exact" / "metadata.jsonl")


def in_store(_: Path, after: Path) -> None:
    client = chromadb.PersistentClient(str(after / "store"), Settings(anonymized_telemetry=False))
    client.get_collection(COLLECTION, embedding_function=None).update(ids=["4"], metadatas=[{"source": GONE}])
    client.close()


def in_lexical(before: Path, after: Path) -> None:
    shutil.rmtree(after / "lexical")
    shutil.copytree(before / "lexical", after / "lexical")


def in_sparse(before: Path, after: Path) -> None:
    for name in ("starts.i64", "rows.i32", "weights.f32"):
        shutil.copy(before / "sparse" / name, after / "sparse" / name)


@pytest.mark.parametrize(
    ("leave", "parts"),
    [
        (in_manifest, {"manifest"}),
        (in_documents, {"documents"}),
        # A row belongs to the chunk that it is a row of.
        (in_chunks, {"chunks", "dense", "lexical", "sparse", "multi_vector"}),
        (in_metadata, {"metadata"}),
        (in_dense, {"metadata", "dense"}),
        (in_store, {"store"}),
        (in_lexical, {"lexical"}),
        (in_sparse, {"sparse"}),
    ],
)
def test_remains_are_found_in_each_part(
    tmp_path: Path, versions: tuple[Path, Path], leave: Callable[[Path, Path], None], parts: set[str]
) -> None:
    before, after = versions
    leave(before, after)
    complete(after)
    found = dataclasses.asdict(look(tmp_path, after.name, before.name))
    assert {part for part, count in found.items() if count} == parts


@pytest.mark.parametrize("part", ["exact/vectors.f32", "multi_vectors", "store"])
def test_rows_without_a_document_are_found(tmp_path: Path, part: str) -> None:
    before = tmp_path / "default" / publish(tmp_path, bits=2)
    after = tmp_path / "default" / publish(tmp_path, [each for each in animals() if each.source != GONE], bits=2)
    if (after / part).is_dir():
        shutil.rmtree(after / part)
        shutil.copytree(before / part, after / part)
    else:
        shutil.copy(before / part, after / part)
    complete(after)
    with pytest.raises(DamagedIndexError):
        look(tmp_path, after.name, before.name)
