"""The service without HTTP: results, their order, and the version that answers."""

from __future__ import annotations

import asyncio
import gc
import shutil
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from chassis.errors import NotReadyError
from embedder.client import EmbedderClient
from tests.fakes.embedder import DIMENSION, FINGERPRINT, MODEL, OTHER_FINGERPRINT, LoopbackEmbedder, embed
from tests.processes import until
from tests.vectorstore.sample_index import ANIMALS, animals, document, publish, sentences
from tests.vectorstore.searching import find, ids, serving, within
from vectorstore.errors import (
    DamagedIndexError,
    EmbedderMismatchError,
    InvalidCollectionError,
    InvalidFilterError,
    UnknownDocumentError,
    UnknownVersionError,
)
from vectorstore.search.index import LoadedIndex
from vectorstore.search.passages import QueryResult
from vectorstore.search.scoring import Weights
from vectorstore.search.searchable import Query, Ranked, Search
from vectorstore.service import VectorstoreService
from vectorstore.versions import IndexRoot
from vectorstore.wire import Prediction, SearchInstance


def prediction(found: QueryResult) -> Prediction:
    return Prediction.model_validate_json(found.json())


def nothing(version: str) -> Prediction:
    return Prediction(passages=[], index_version=version, index_versions={"default": version})


@pytest.mark.parametrize("store", ["exact", "chroma"])
async def test_passages_are_whole_and_quote_their_document(
    tmp_path: Path, embedder: LoopbackEmbedder, store: str
) -> None:
    version = publish(tmp_path)
    async with serving(tmp_path, embedder, store=store) as service:
        found = await find(service, "do cats purr", num_docs=3)
        assert found.index_version == version
        assert found.query_tokens == 5
        assert not found.query_truncated
        assert len(found.passages) == 3
        first = found.passages[0]
        assert first.chunk_id == "cats-1"
        assert (first.title, first.url) == ("Cats", "https://example.org/cats")
        assert first.heading_path == ["Animals", "Cats"]
        assert first.metadata == {"legs": 4, "kind": "mammal", "wild": False, "weight": 4.5}
        assert first.index_version == version
        expected = float(embed([first.text])[0] @ embed(["do cats purr"])[0])
        assert first.similarity == pytest.approx(expected, abs=1e-6)
        assert first.lexical_score is not None
        assert first.lexical_score > 0
        with IndexRoot(tmp_path, "default").open() as opened:
            greatest = opened.lexical().analyse("do cats purr").greatest
        assert first.support == pytest.approx(first.similarity + first.lexical_score / greatest, abs=1e-6)
        share = first.support - first.similarity
        weights = Weights().of(("dense", "lexical"), "fused")
        assert first.score == pytest.approx(weights["dense"] * first.similarity + weights["lexical"] * share)
        for passage in found.passages:
            doc = await service.document(passage.document_id, within())
            assert doc.index_version == version
            assert doc.text[passage.span.start : passage.span.end] == passage.text
        assert [p.score for p in found.passages] == sorted((p.score for p in found.passages), reverse=True)


async def test_both_searches_find_the_same_with_either_store(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    publish(tmp_path)
    queries = ["cats", "birds that swim", "animals kept by people", "zebra"]
    filters = [None, {"legs": {"$gte": 2}}, {"$or": [{"kind": "fish"}, {"wild": False}]}, {"weight": {"$lt": 4.25}}]
    instances = [SearchInstance(input=q, num_docs=12, filters=f) for q in queries for f in filters]
    answers = []
    for store in ("exact", "chroma"):
        async with serving(tmp_path, embedder, store=store) as service:
            answers.append([ids(prediction(found)) for found in await service.search(instances, within())])
    assert answers[0] == answers[1]


async def test_a_batch_equals_single_queries_and_is_one_call(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    publish(tmp_path)
    async with serving(tmp_path, embedder) as service:
        instances = [
            SearchInstance(input="cats", num_docs=2),
            SearchInstance(input="fish", num_docs=0),
            SearchInstance(input="birds", num_docs=5, filters={"kind": "bird"}),
            SearchInstance(input="dogs"),
        ]
        embedder.calls.clear()
        together = await service.search(instances, within())
        assert [sorted(call) for call in embedder.calls] == [["birds", "cats", "dogs"]]
        for instance, found in zip(instances, together, strict=True):
            (alone,) = await service.search([instance], within())
            assert (found.passages, found.query_tokens) == (alone.passages, alone.query_tokens)
            assert set(found.timings_ms) == ({"embed", "search"} if instance.num_docs != 0 else set())
        assert [len(found.passages) for found in together] == [2, 0, 3, 4]


async def test_zero_documents_need_no_embedder(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    version = publish(tmp_path)
    async with serving(tmp_path, embedder, num_docs=0) as service:
        embedder.calls.clear()
        embedder.fault = "failure"
        assert await find(service, "cats") == nothing(version)
        assert embedder.calls == []


async def test_ties_follow_chunk_ids(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    names = ["d", "a", "c", "b"]
    expected = [f"{name}-0" for name in sorted(names)]
    for number, order in enumerate((names, names[::-1])):
        publish(tmp_path / str(number), [document(name, "the same text") for name in order])
        async with serving(tmp_path / str(number), embedder) as service:
            for depth in (4, 2):
                found = await find(service, "the same text", num_docs=depth)
                assert ids(found) == expected[:depth]


async def test_filters_narrow_both_searches(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    publish(tmp_path)
    async with serving(tmp_path, embedder) as service:
        found = await find(service, "cats", num_docs=100, filters={"legs": {"$lt": 4}})
        assert {p.document_id for p in found.passages} == {"birds", "fish"}
        found = await find(service, "cats", num_docs=100, filters={"document_id": "dogs"})
        assert {p.document_id for p in found.passages} == {"dogs"}
        assert ids(await find(service, "cats", filters={"legs": 99})) == []
        with pytest.raises(InvalidFilterError) as error:
            await find(service, "cats", filters={"$and": [{"legs": 4}, {"colour": "red"}]})
        assert error.value.field == "instances[0].filters.$and[1].colour"


async def test_no_index_and_empty_indexes(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    async with serving(tmp_path, embedder) as service:
        reason = service.whole_status().reason
        assert "kserve-rag ingest" in reason
        missing = {"index": None, "reason": reason}
        assert service.whole_status().model_dump(mode="json") == {
            **missing,
            "default": "default",
            "collections": {"default": missing},
        }
        assert service.not_ready_reason() == service.whole_status().reason
        with pytest.raises(NotReadyError, match="kserve-rag ingest"):
            await find(service, "cats")
        with pytest.raises(NotReadyError):
            await service.document("cats", within())
        version = publish(tmp_path, [])
        await service.refresh()
        assert service.not_ready_reason() is None
        empty = {
            "index": {
                "name": "default",
                "version": version,
                "documents": 0,
                "chunks": 0,
                "embedder": FINGERPRINT,
                "parts": ["dense", "lexical"],
                "weights": {"dense": 0.4, "lexical": 0.6},
                "languages": {},
                "calibration": None,
                "examples": [],
            },
            "reason": None,
        }
        assert service.whole_status().model_dump(mode="json") == {
            **empty,
            "default": "default",
            "collections": {"default": empty},
        }
        assert await find(service, "cats") == nothing(version)
        assert ids(await find(service, "cats", filters={"anything": 1})) == []
        with pytest.raises(InvalidFilterError):
            await find(service, "cats", filters={"anything": {"$near": 1}})


async def test_a_new_version_takes_over_and_rollback_works(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    old = publish(tmp_path, animals()[:2])
    async with serving(tmp_path, embedder) as service:
        assert ids(await find(service, "sharks", num_docs=1)) != ["fish-2"]
        new = publish(tmp_path)
        assert (await find(service, "sharks")).index_version == old
        await service.refresh()
        found = await find(service, "sharks", num_docs=1)
        assert (found.index_version, ids(found)) == (new, ["fish-2"])
        assert (await service.document("cats", within(), version=old)).index_version == old
        with pytest.raises(UnknownDocumentError):
            await service.document("fish", within(), version=old)
        with pytest.raises(UnknownVersionError):
            await service.document("fish", within(), version="20000101T000000-000000")
        IndexRoot(tmp_path, "default").set_current(old)
        await service.refresh()
        assert (await find(service, "sharks")).index_version == old


async def test_the_watcher_follows_new_versions(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    publish(tmp_path, animals()[:1])
    client = EmbedderClient(embedder.url, model=MODEL)
    service = VectorstoreService([IndexRoot(tmp_path, "default")], client, reload_interval_s=0.01)
    async with service.running():
        new = publish(tmp_path)

        async def followed() -> None:
            while (await find(service, "cats")).index_version != new:
                pass

        await asyncio.wait_for(followed(), 20)


async def test_a_request_keeps_the_version_it_began_with(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    """The old version is pruned while a request that began on it still waits for the embedder."""
    old = publish(tmp_path, animals()[:2])
    root = IndexRoot(tmp_path, "default")
    async with serving(tmp_path, embedder, store="chroma") as service:
        embedder.hold()
        waiting = asyncio.create_task(find(service, "cats purr", num_docs=1, filters={"kind": "mammal"}))
        await asyncio.to_thread(embedder.held.wait, 10)
        new = publish(tmp_path)
        embedder.pass_new()
        await service.refresh()
        assert root.prune(1) == [old]
        assert (await find(service, "cats")).index_version == new
        embedder.release()
        found = await waiting
        assert (found.index_version, ids(found)) == (old, ["cats-1"])


async def test_bad_new_versions_are_refused_and_the_old_one_stays(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    good = publish(tmp_path)
    folder = tmp_path / "default"
    async with serving(tmp_path, embedder) as service:
        foreign = publish(tmp_path, fingerprint=OTHER_FINGERPRINT)
        await service.refresh()
        reason = service.whole_status().reason
        assert foreign in reason
        assert OTHER_FINGERPRINT in reason
        assert FINGERPRINT in reason
        assert service.not_ready_reason() is None
        assert (await find(service, "cats")).index_version == good

        damaged = publish(tmp_path)
        (folder / damaged / "lexical" / "terms.txt").write_text("")
        await service.refresh()
        assert damaged in service.whole_status().reason
        assert (await find(service, "cats")).index_version == good

        (folder / "current").write_text("rubbish")
        await service.refresh()
        assert "rubbish" in service.whole_status().reason
        (folder / "current").unlink()
        await service.refresh()
        assert (await find(service, "cats")).index_version == good

        IndexRoot(tmp_path, "default").set_current(good)
        await service.refresh()
        assert service.whole_status().reason is None


async def test_the_calibration_is_that_of_the_served_version(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    root = IndexRoot(tmp_path, "default")
    good = publish(tmp_path)
    root.calibration_file(good).write_text('{"of": "good"}')
    async with serving(tmp_path, embedder) as service:
        assert service.whole_status().index.calibration == {"of": "good"}
        foreign = publish(tmp_path, fingerprint=OTHER_FINGERPRINT)
        root.calibration_file(foreign).write_text('{"of": "foreign"}')
        await service.refresh()
        assert service.whole_status().index.version == good
        assert service.whole_status().index.calibration == {"of": "good"}
        new = publish(tmp_path)
        await service.refresh()
        assert service.whole_status().index.version == new
        assert service.whole_status().index.calibration is None
        root.calibration_file(new).write_text('{"of": "new"}')
        await service.refresh()
        assert service.whole_status().index.calibration == {"of": "new"}


async def test_a_prediction_carries_the_calibration_of_its_version_and_embedder(
    tmp_path: Path, embedder: LoopbackEmbedder
) -> None:
    root = IndexRoot(tmp_path, "default")
    version = publish(tmp_path)
    valid = {"index_version": version, "embedder": FINGERPRINT, "threshold": 0.25}
    async with serving(tmp_path, embedder) as service:
        assert (await find(service, "cats")).calibration is None
        for change in ({"index_version": "20000101T000000-000000"}, {"embedder": OTHER_FINGERPRINT}, {}):
            root.calibration_file(version).write_bytes(orjson.dumps({**valid, **change}))
            await service.refresh()
            expected = None if change else valid
            assert (await find(service, "cats")).calibration == expected
            assert (await find(service, "cats", num_docs=0)).calibration == expected


async def test_a_version_that_cannot_be_opened_is_refused(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    version = publish(tmp_path)
    folder = tmp_path / "default" / version
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    # As when it is pruned between two steps of opening it.
    del manifest["files"]["exact/vectors.f32"]
    (folder / "manifest.json").write_bytes(orjson.dumps(manifest))
    (folder / "exact" / "vectors.f32").unlink()
    async with serving(tmp_path, embedder) as service:
        assert version in (service.not_ready_reason() or "")
        old, new = version, publish(tmp_path)
        await service.refresh()
        assert (await find(service, "cats")).index_version == new
        with pytest.raises(DamagedIndexError, match=old):
            await service.document("cats", within(), version=old)


async def test_a_version_with_a_broken_store_is_served_without_it(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    version = publish(tmp_path)
    database = tmp_path / "default" / version / "store" / "chroma.sqlite3"
    database.write_bytes(b"x" * database.stat().st_size)
    async with serving(tmp_path, embedder, store="chroma") as service:
        assert "Chroma" in (service.not_ready_reason() or "")
    async with serving(tmp_path, embedder) as service:
        assert service.not_ready_reason() is None  # at this size every vector is compared


async def test_an_index_of_another_embedder_is_refused_until_it_fits(
    tmp_path: Path, embedder: LoopbackEmbedder
) -> None:
    publish(tmp_path, fingerprint=OTHER_FINGERPRINT)
    async with serving(tmp_path, embedder) as service:
        assert OTHER_FINGERPRINT in (service.not_ready_reason() or "")
        with pytest.raises(EmbedderMismatchError, match="kserve-rag ingest"):
            await find(service, "cats")
        embedder.fingerprint = OTHER_FINGERPRINT
        await service.refresh()
        assert service.not_ready_reason() is None
        await find(service, "cats")


async def test_an_exchanged_embedder_is_noticed(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    publish(tmp_path)
    async with serving(tmp_path, embedder) as service:
        await find(service, "cats")
        embedder.fingerprint = OTHER_FINGERPRINT
        with pytest.raises(EmbedderMismatchError):
            await find(service, "cats")
        assert OTHER_FINGERPRINT in (service.not_ready_reason() or "")
        await service.refresh()
        assert service.not_ready_reason() is not None
        embedder.fingerprint = FINGERPRINT
        await service.refresh()
        assert service.not_ready_reason() is None
        await find(service, "cats")


async def test_an_embedder_that_starts_later(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    publish(tmp_path)
    embedder.fault = "unavailable"
    async with serving(tmp_path, embedder) as service:
        assert "embedder" in (service.not_ready_reason() or "")
        embedder.fault = None
        await service.refresh()
        assert service.not_ready_reason() is None


async def test_many_requests_at_once_share_searches_and_stay_apart(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    publish(tmp_path)
    async with serving(tmp_path, embedder, store="chroma") as service:
        texts = [text.split(". ")[number % 3] for number in range(60) for _, text in [ANIMALS[number % 4]]]
        found = await asyncio.gather(*(find(service, text, num_docs=1) for text in texts))
        assert [f.passages[0].text.rstrip(".") for f in found] == [text.rstrip(".") for text in texts]


async def test_large_searches_leave_the_event_loop(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    """Above the inline limit, the worker thread gives the same answers."""
    texts = [f"word{number} and word{number + 1}" for number in range(1000)]
    publish(tmp_path, [document(f"{number:04}", text) for number, text in enumerate(texts)])
    async with serving(tmp_path, embedder) as service:
        instances = [SearchInstance(input=text, num_docs=1) for text in texts[:64]]
        assert 64 * 1000 * DIMENSION > 2_000_000
        expected = [[f"{number:04}-0"] for number in range(64)]
        for found in await asyncio.gather(*(service.search(instances, within()) for _ in range(3))):
            assert [ids(prediction(one)) for one in found] == expected
        single = [ids(await find(service, text, num_docs=1)) for text in texts[:64]]
        assert single == expected


async def test_long_queries_leave_the_event_loop(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    """Stemming the words of a full request takes seconds, even with a small index."""
    threads: list[str] = []

    class Told(LoadedIndex):
        def rank_now(self, searches: Sequence[Search]) -> list[Ranked]:
            threads.append(threading.current_thread().name)
            return super().rank_now(searches)

    publish(tmp_path)
    with IndexRoot(tmp_path, "default").open() as version:
        index = Told(version, store="exact", candidates=50)
        short = Query("cats", 1, vector=embed(["cats"])[0])
        await index.rank([Search(short, index.visibility.everything)], within())
        assert threads.pop() == threading.current_thread().name
        long = replace(short, text="cats " * 6000)
        await index.rank([Search(long, index.visibility.everything)] * 64, within())
        assert threads.pop() != threading.current_thread().name
        index.close()


async def test_a_closed_index_is_freed_without_a_garbage_collection(tmp_path: Path) -> None:
    """The disk space of removed files is free only when their mappings end."""
    publish(tmp_path)
    gc.disable()
    try:
        index = LoadedIndex(IndexRoot(tmp_path, "default").open(), store="chroma", candidates=50)
        query = Query("cats", 1, vector=embed(["cats"])[0])
        await index.rank([Search(query, index.visibility.everything)], within())
        index.close()
        freed = weakref.ref(index)
        del index
        until(lambda: freed() is None)
    finally:
        gc.enable()


def test_a_removed_version_answers_its_last_requests(tmp_path: Path) -> None:
    """Chroma opens its database once more when many search at once."""
    publish(tmp_path)
    index = LoadedIndex(IndexRoot(tmp_path, "default").open(), store="chroma", candidates=50)
    cats = np.asarray(embed(["cats"]), np.float32)
    where = {"kind": {"$eq": "mammal"}}
    query = Search(Query("cats", 2, where, cats[0], mode="dense"), index.visibility.everything)
    (expected,) = index.rank_now([query])
    shutil.rmtree(index.version.folder)
    with ThreadPoolExecutor(24) as pool:
        for (found,) in pool.map(lambda _: index.rank_now([query]), range(200)):
            assert found.rows.tolist() == expected.rows.tolist()
    index.close()


def test_the_json_of_an_answer_is_the_wire() -> None:
    values: dict[str, Any] = {
        "query_tokens": 3,
        "query_truncated": True,
        "timings_ms": {"embed": 1.5},
        "calibration": {"x": 1},
    }
    found = QueryResult([], {"default": "v"}, **values)
    expected = Prediction(passages=[], index_version="v", index_versions={"default": "v"}, **values)
    assert orjson.loads(found.json()) == expected.model_dump()
    assert found.texts() == []
    assert sentences(animals()[0])[0].text == "Cats sleep for most of the day"


def damage(file: Path) -> None:
    """Flips the bits of the byte in the middle. The size stays."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


async def test_a_changed_byte_in_any_file_is_found_and_the_last_good_version_serves(
    tmp_path: Path, embedder: LoopbackEmbedder
) -> None:
    good = publish(tmp_path)
    async with serving(tmp_path, embedder) as service:
        folder = tmp_path / "default" / publish(tmp_path)
        intact = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.stat().st_size}
        assert {"manifest.json", "manifest.sha256", "vectors.f32", "chunks.jsonl"} <= {path.name for path in intact}
        for path, content in intact.items():
            damage(path)
            await service.refresh()
            assert folder.name in (service.whole_status().reason or ""), path
            assert (await find(service, "cats")).index_version == good
            path.write_bytes(content)
        await service.refresh()
        assert (service.whole_status().reason, (await find(service, "cats")).index_version) == (None, folder.name)


async def test_a_damaged_version_at_the_start_is_replaced_by_an_older_one(
    tmp_path: Path, embedder: LoopbackEmbedder
) -> None:
    good, damaged = publish(tmp_path), publish(tmp_path)
    vectors = tmp_path / "default" / damaged / "exact" / "vectors.f32"
    damage(vectors)
    async with serving(tmp_path, embedder) as service:
        assert "SHA-256 of exact/vectors.f32 differs" in (service.whole_status().reason or "")
        assert service.not_ready_reason() is None
        assert (await find(service, "cats")).index_version == good
        damage(vectors)  # and so repairs it
        await service.refresh()
        assert (await find(service, "cats")).index_version == damaged


async def test_documents_of_a_damaged_older_version_are_not_shown(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    old, _ = publish(tmp_path), publish(tmp_path)
    damage(tmp_path / "default" / old / "documents.sqlite")
    async with serving(tmp_path, embedder) as service:
        with pytest.raises(DamagedIndexError):
            await service.document("cats", within(), version=old)


async def test_a_version_with_digests_of_texts_only_is_served(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    """As earlier releases wrote them."""
    version = publish(tmp_path)
    folder = tmp_path / "default" / version
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    texts = ("documents.sqlite", "chunks.jsonl", "chunks.i64")
    manifest["sha256"] = {name: manifest["sha256"][name] for name in texts}
    (folder / "manifest.json").write_bytes(orjson.dumps(manifest))
    (folder / "manifest.sha256").unlink()
    async with serving(tmp_path, embedder) as service:
        assert (await find(service, "cats")).index_version == version


async def test_indexes_are_served_while_they_exist(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    publish(tmp_path)
    async with serving(tmp_path, embedder, discover=lambda: IndexRoot.all(tmp_path)) as service:
        assert set(service.whole_status().collections) == {"default"}
        version = publish(tmp_path, animals()[:1], name="pets")
        await service.refresh()
        found = await find(service, "do cats purr", collections=["pets"])
        assert found.index_version == version
        IndexRoot(tmp_path, "pets").delete()
        IndexRoot(tmp_path, "default").delete()
        await service.refresh()
        assert set(service.whole_status().collections) == {"default"}
        with pytest.raises(InvalidCollectionError):
            await find(service, "do cats purr", collections=["pets"])
