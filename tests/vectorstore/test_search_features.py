"""The options of a search: modes, thresholds, diversity, neighbours, collections, reasons."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chassis.errors import NotReadyError
from tests.fakes.embedder import LoopbackEmbedder, embed
from tests.vectorstore.sample_index import animals, document, publish
from tests.vectorstore.searching import find, ids, serving, within
from vectorstore.errors import (
    InvalidCollectionError,
    InvalidFilterError,
    MissingPartError,
    UnknownCollectionError,
    UnknownDocumentError,
)
from vectorstore.search.scoring import Weights
from vectorstore.service import VectorstoreService
from vectorstore.versions import Document
from vectorstore.wire import Passage, SearchInstance

WORDS = ["red", "green", "blue", "stone", "river", "field", "north", "south", "cat", "dog", "bird", "fish"]


def pages(seed: int, count: int) -> list[Document]:
    """Documents of a few sentences from few words. Many share words, and some repeat each other."""
    chosen = random.Random(seed)  # noqa: S311 - repeatable, not secret
    return [
        document(
            f"{seed}-{number}",
            ". ".join(" ".join(chosen.choices(WORDS, k=chosen.randint(2, 6))) for _ in range(chosen.randint(1, 7))),
            part=number % 3,
        )
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def hashed() -> Iterator[LoopbackEmbedder]:
    with LoopbackEmbedder() as running:
        yield running


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two collections, `one` and `two`."""
    folder = tmp_path_factory.mktemp("indexes")
    publish(folder, pages(1, 30), name="one")
    publish(folder, [*pages(2, 20), document("other", "red stone in the river", colour="red")], name="two")
    return folder


@pytest.fixture
async def service(path: Path, hashed: LoopbackEmbedder) -> AsyncIterator[VectorstoreService]:
    async with serving(path, hashed, "one", "two") as running:
        yield running


QUERIES = ["red stone", "cat dog bird", "the river north of the field", "zebra"]


@pytest.mark.parametrize("query", QUERIES)
async def test_scores_are_the_weighted_mean_and_fall(path: Path, hashed: LoopbackEmbedder, query: str) -> None:
    async with serving(path, hashed, "one", weights=Weights(dense=0.3, lexical=0.9)) as service:
        found = await find(service, query, num_docs=100)
        scores = [passage.score for passage in found.passages]
        assert scores == sorted(scores, reverse=True)
        for passage in found.passages:
            share = passage.support - passage.similarity
            assert passage.score == pytest.approx((0.3 * passage.similarity + 0.9 * share) / 1.2)
        assert ids(await find(service, query, num_docs=5)) == ids(found)[:5]


async def test_modes(service: VectorstoreService) -> None:
    dense = await find(service, "red stone", num_docs=10, mode="dense")
    assert [p.score for p in dense.passages] == pytest.approx([p.similarity for p in dense.passages])
    lexical = await find(service, "red stone", num_docs=100, mode="lexical")
    assert all(p.lexical_score > 0 for p in lexical.passages)
    assert [p.score for p in lexical.passages] == pytest.approx([p.support - p.similarity for p in lexical.passages])
    fused, rescored, plain = [
        (await find(service, "red stone", mode=mode)).passages for mode in ("fused", "rescored", None)
    ]
    assert fused == rescored == plain
    assert (await find(service, "zebra", mode="lexical")).passages == []


async def test_weights_decide_what_is_searched(path: Path, hashed: LoopbackEmbedder) -> None:
    async with serving(path, hashed, "one", weights=Weights(lexical=0)) as service:
        without = await find(service, "red stone", num_docs=20)
        assert ids(without) == ids(await find(service, "red stone", num_docs=20, mode="dense"))
    async with serving(path, hashed, "one", weights=Weights(dense=0, lexical=0)) as service:
        with pytest.raises(MissingPartError, match="weight"):
            await find(service, "red stone")


@pytest.mark.parametrize("query", QUERIES)
async def test_a_threshold_cuts_the_tail_and_nothing_else(service: VectorstoreService, query: str) -> None:
    everything = await find(service, query, num_docs=100)
    for limit in [0.0, 1.0, *(passage.score for passage in everything.passages[::7] if 0 <= passage.score <= 1)]:
        found = await find(service, query, num_docs=100, min_score=limit)
        assert found.passages == [passage for passage in everything.passages if passage.score >= limit]


async def test_diversity(service: VectorstoreService) -> None:
    plain = await find(service, "red stone river", num_docs=6)
    spread = []
    for diversity in (0.0, 0.3, 1.0):
        found = await find(service, "red stone river", num_docs=6, diversity=diversity)
        assert len(set(ids(found))) == 6
        assert found.passages[0] == plain.passages[0]
        scores = [passage.score for passage in found.passages]
        assert scores == sorted(scores, reverse=True)
        vectors = embed([passage.text for passage in found.passages])
        spread.append(float((vectors @ vectors.T - np.eye(6)).max()))
        if not diversity:
            assert found.passages == plain.passages
    assert spread == sorted(spread, reverse=True)
    assert spread[-1] < spread[0]


async def quotes(service: VectorstoreService, passage: Passage) -> bool:
    stored = await service.document(passage.document_id, within(), collection=passage.collection)
    return stored.text[passage.span.start : passage.span.end] == passage.text


@pytest.mark.parametrize("query", QUERIES)
async def test_neighbours_are_joined_and_quoted(service: VectorstoreService, query: str) -> None:
    alone = await find(service, query, num_docs=100)
    spans = {passage.chunk_id: passage.span for passage in alone.passages}
    for neighbours in (1, 2, 5):
        found = await find(service, query, num_docs=12, neighbours=neighbours)
        assert found.passages[0].score == alone.passages[0].score
        assert [p.score for p in found.passages] == sorted((p.score for p in found.passages), reverse=True)
        for passage in found.passages:
            assert await quotes(service, passage)
            own = spans[passage.chunk_id]
            assert passage.span.start <= own.start
            assert passage.span.end >= own.end
        for one, other in itertools.combinations(found.passages, 2):
            apart = one.span.end <= other.span.start or other.span.end <= one.span.start
            assert one.document_id != other.document_id or apart


async def test_neighbours_that_overlap_become_one(tmp_path: Path, hashed: LoopbackEmbedder) -> None:
    publish(tmp_path)
    async with serving(tmp_path, hashed) as service:
        found = await find(service, "cats sleep. cats purr", num_docs=12, neighbours=1, explain=True)
        cats = [passage for passage in found.passages if passage.document_id == "cats"]
        assert [passage.text for passage in cats] == [animals()[0].text]
        assert {cut.chunk_id for cut in found.cut if cut.reason == "duplicate"} >= {"cats-2"}
        assert len(found.passages) == 4


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("more", [{}, {"min_score": 0.2}, {"mode": "dense"}], ids=str)
async def test_several_collections_are_the_merge_of_each(
    service: VectorstoreService, query: str, more: dict[str, Any]
) -> None:
    one = await find(service, query, num_docs=100, collections=["one"], **more)
    two = await find(service, query, num_docs=100, collections=["two"], **more)
    for order in (["one", "two"], ["two", "one"]):
        both = await find(service, query, num_docs=100, collections=order, **more)
        assert list(both.index_versions) == order
        assert both.index_version == both.index_versions[order[0]]
        expected = [*one.passages, *two.passages] if order[0] == "one" else [*two.passages, *one.passages]
        expected.sort(key=lambda passage: -passage.score)
        assert both.passages == expected[:100]
        assert {passage.collection for passage in both.passages} <= {"one", "two"}


async def test_equal_scores_keep_the_order_of_collections_in_a_batch(tmp_path: Path, hashed: LoopbackEmbedder) -> None:
    for name in ("one", "two"):
        publish(tmp_path, pages(1, 3), name=name)
    async with serving(tmp_path, hashed, "one", "two") as service:
        instances = [
            SearchInstance(input="red stone", num_docs=100, collections=order)
            for order in (["two"], ["one", "two"], ["two", "one"])
        ]
        found = await service.search(instances, within())
        for instance, batched in zip(instances, found, strict=True):
            (alone,) = await service.search([instance], within())
            assert batched.passages == alone.passages
            assert list(batched.index_versions) == instance.collections


@pytest.mark.parametrize("diversity", [0.0, 0.4, 1.0])
async def test_two_collections_are_searched_as_one_that_holds_both(
    tmp_path: Path, hashed: LoopbackEmbedder, diversity: float
) -> None:
    """By vectors: a cosine does not depend on the rest of the index."""
    publish(tmp_path, pages(1, 12), name="one")
    publish(tmp_path, pages(2, 12), name="two")
    publish(tmp_path, [*pages(1, 12), *pages(2, 12)], name="both")
    async with serving(tmp_path, hashed, "one", "two", "both", candidates=200) as service:
        fields: dict[str, Any] = {"num_docs": 10, "mode": "dense", "diversity": diversity}
        for query in QUERIES:
            apart = await find(service, query, collections=["one", "two"], **fields)
            together = await find(service, query, collections=["both"], **fields)
            assert [(p.chunk_id, p.score) for p in apart.passages] == [(p.chunk_id, p.score) for p in together.passages]


async def test_collections_that_are_not_served(service: VectorstoreService, tmp_path: Path) -> None:
    with pytest.raises(InvalidCollectionError, match="one, two") as error:
        await find(service, "red", collections=["one", "three"])
    assert error.value.field == "instances[0].collections"
    with pytest.raises(UnknownCollectionError):
        await service.document("1-0", within(), collection="three")
    with pytest.raises(UnknownDocumentError):
        await service.document("1-0", within(), collection="two")
    assert set(service.whole_status().collections) == {"one", "two"}
    assert service.whole_status().index.name == "one"


async def test_a_missing_collection_does_not_affect_others(path: Path, hashed: LoopbackEmbedder) -> None:
    async with serving(path, hashed, "one", "absent") as service:
        assert service.not_ready_reason() is None
        assert "absent" in service.whole_status().collections["absent"].reason
        assert (await find(service, "red")).passages
        with pytest.raises(NotReadyError, match="absent"):
            await find(service, "red", collections=["one", "absent"])


async def test_filters_over_several_collections(service: VectorstoreService) -> None:
    found = await find(service, "red stone", num_docs=100, collections=["one", "two"], filters={"colour": "red"})
    assert [passage.document_id for passage in found.passages] == ["other"]
    with pytest.raises(InvalidFilterError, match="colour"):
        await find(service, "red stone", filters={"colour": "red"})


async def test_explanations(service: VectorstoreService) -> None:
    plain = await find(service, "red stone", num_docs=3)
    assert plain.cut == []
    assert all(passage.explain is None for passage in plain.passages)
    found = await find(service, "red stone", num_docs=3, explain=True)
    assert ids(found) == ids(plain)
    for passage in found.passages:
        explanation = passage.explain
        assert explanation is not None
        assert sum(evidence.weight for evidence in explanation.signals.values()) == pytest.approx(1)
        told = sum(evidence.weight * evidence.score for evidence in explanation.signals.values())
        assert told == pytest.approx(passage.score)
        assert sum(explanation.terms.values()) == pytest.approx(passage.lexical_score, rel=1e-5)
        assert set(explanation.terms) <= {"red", "stone"}
    everything = await find(service, "red stone", num_docs=100, mode="dense", explain=True)
    ranks = [p.explain.signals["dense"].rank for p in everything.passages if p.explain is not None]
    assert ranks[0] == 1
    assert ranks == sorted(rank or 0 for rank in ranks)
    assert everything.passages[0].explain is not None
    assert everything.passages[0].explain.signals["lexical"].rank is None


async def test_cut_passages_have_a_reason(service: VectorstoreService) -> None:
    everything = await find(service, "red stone", num_docs=100)
    limit = everything.passages[10].score
    found = await find(service, "red stone", num_docs=3, min_score=limit, explain=True)
    reasons = {cut.chunk_id: cut.reason for cut in found.cut}
    assert len(reasons) == len(found.cut)
    assert not reasons.keys() & set(ids(found))
    for cut in found.cut:
        assert cut.score is not None
        assert cut.reason == ("min_score" if cut.score < limit else "num_docs")
    assert [cut.score for cut in found.cut] == sorted((cut.score or 0 for cut in found.cut), reverse=True)
    filtered = await find(service, "red stone", num_docs=3, filters={"part": 1}, explain=True)
    outside = [cut for cut in filtered.cut if cut.reason == "filter"]
    assert outside
    assert all(cut.score is None for cut in outside)
    diverse = await find(service, "red stone river", num_docs=6, diversity=0.9, explain=True)
    assert "diversity" in {cut.reason for cut in diverse.cut}
    lowest = diverse.passages[-1].score
    assert all(
        (cut.reason == "diversity") == ((cut.score or 0) >= lowest) for cut in diverse.cut if cut.score != lowest
    )


@pytest.mark.parametrize("store", ["exact", "chroma"])
async def test_the_order_of_adding_changes_nothing(tmp_path: Path, hashed: LoopbackEmbedder, store: Any) -> None:
    docs = pages(3, 25)
    answers = []
    for number in range(3):
        random.Random(number).shuffle(docs)  # noqa: S311
        publish(tmp_path / str(number), docs)
        async with serving(tmp_path / str(number), hashed, store=store, candidates=200) as service:
            found = [await find(service, query, num_docs=50, diversity=0.0) for query in QUERIES]
            answers.append([[(p.chunk_id, p.score, p.text) for p in one.passages] for one in found])
    assert answers[0] == answers[1] == answers[2]


async def test_a_batch_with_different_options(service: VectorstoreService, hashed: LoopbackEmbedder) -> None:
    instances = [
        SearchInstance(input="red stone", num_docs=3, collections=["two", "one"], explain=True),
        SearchInstance(input="cat", num_docs=0),
        SearchInstance(input="dog bird", neighbours=2, diversity=0.5),
        SearchInstance(input="river", collections=["two"], mode="lexical", min_score=0.1),
    ]
    hashed.calls.clear()
    together = await service.search(instances, within())
    assert hashed.calls == [["red stone", "dog bird", "river"]]
    for instance, found in zip(instances, together, strict=True):
        (alone,) = await service.search([instance], within())
        assert (alone.passages, alone.cut) == (found.passages, found.cut)
