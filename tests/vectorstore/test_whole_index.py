"""Versions with learned sparse vectors and multi-vectors: content, searches, and refused input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedder.wire import SparseVector
from tests.fakes.embedder import DIMENSION, FINGERPRINT, LoopbackEmbedder, embed, embed_tokens
from tests.vectorstore.sample_index import animals, document, publish, sentences, sparse
from tests.vectorstore.searching import find, serving
from text_analysis.sentences import sentence_spans
from vectorstore.errors import DamagedIndexError, InvalidContentError
from vectorstore.search.scoring import Weights
from vectorstore.signals.multivectors import EncodedVectors
from vectorstore.signals.sparse import SparseIndex, SparseWriter
from vectorstore.versions import IndexRoot, content_key


@pytest.fixture(autouse=True)
def whole(embedder: LoopbackEmbedder) -> None:
    embedder.whole = True


def by_the_book(query: str, text: str) -> dict[str, float]:
    have, want = sparse(text), sparse(query)
    weights = dict(zip(have.indices.tolist(), have.weights.tolist(), strict=True))
    pairs = zip(want.indices.tolist(), want.weights.tolist(), strict=True)
    return {
        "dense": float(embed([text])[0] @ embed([query])[0]),
        "sparse": sum(weight * weights.get(token, 0) for token, weight in pairs),
        "multi_vector": float((embed_tokens(text) @ embed_tokens(query).T).max(axis=0).mean()),
    }


async def test_the_score_is_that_of_the_three_parts(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    publish(tmp_path, bits=8)
    async with serving(tmp_path, embedder) as service:
        embedder.calls.clear()
        found = await find(service, "do cats purr", num_docs=12, explain=True)
        assert embedder.calls == [["do cats purr"]]
        assert len(found.passages) == 12
        assert service.whole_status().index.parts == ["dense", "lexical", "sparse", "multi_vector"]
        for passage in found.passages:
            expected = by_the_book("do cats purr", passage.text)
            assert passage.explain is not None
            for signal, value in expected.items():
                assert passage.explain.signals[signal].score == pytest.approx(value, abs=2e-3)  # type: ignore[index]
            total = 0.4 * expected["dense"] + 0.2 * expected["sparse"] + 0.4 * expected["multi_vector"]
            assert passage.score == pytest.approx(total, abs=2e-3)
        scores = [passage.score for passage in found.passages]
        assert scores == sorted(scores, reverse=True)


async def test_the_similarity_of_sentences(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    publish(tmp_path, bits=8)
    async with serving(tmp_path, embedder) as service:
        found = await find(service, "do cats purr", num_docs=12, sentence_similarity=True)
        similar = found.sentence_similarity
        assert similar.keys() == {passage.chunk_id for passage in found.passages}
        for passage in found.passages:
            assert len(similar[passage.chunk_id]) == len(sentence_spans(passage.text))
            # Every token is in a part, so no part exceeds the whole, and one part does not fall far behind.
            assert max(similar[passage.chunk_id]) <= by_the_book("do cats purr", passage.text)["multi_vector"] + 2e-3
        plain = await find(service, "do cats purr", num_docs=12)
        assert plain.passages == found.passages
        assert plain.sentence_similarity == {}
        assert (await find(service, "cats", neighbours=1, sentence_similarity=True)).sentence_similarity == {}
        fused = await find(service, "cats", num_docs=1, mode="fused", sentence_similarity=True)
        assert list(fused.sentence_similarity.values()) in ([], [[]])


async def test_stages(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    publish(tmp_path, bits=2)
    async with serving(tmp_path, embedder, rescore=3) as service:
        found = await find(service, "cats purr", num_docs=2, explain=True)
        assert len(found.passages) == 2
        reasons = [cut.reason for cut in found.cut]
        assert reasons.count("num_docs") == 1
        assert reasons.count("rescore") == 9
        fused = await find(service, "cats purr", num_docs=3, mode="fused", explain=True)
        assert {p.chunk_id for p in fused.passages} == {p.chunk_id for p in found.passages} | {
            cut.chunk_id for cut in found.cut if cut.reason == "num_docs"
        }
        assert fused.passages[0].explain is not None
        assert fused.passages[0].explain.signals.keys() == {"dense", "lexical", "sparse"}
        assert len((await find(service, "cats purr", num_docs=8)).passages) == 8


async def test_modes_request_only_the_outputs_they_need(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    publish(tmp_path, bits=2)
    publish(tmp_path, name="plain")
    async with serving(tmp_path, embedder, "default", "plain") as service:
        embedder.whole = False  # from now on, asking for more is refused
        for mode in ("dense", "lexical"):
            assert (await find(service, "cats", mode=mode)).passages
        assert (await find(service, "cats", collections=["plain"])).passages
        with pytest.raises(Exception, match="refused"):
            await find(service, "cats", mode="fused")
        embedder.whole = True
        both = await find(service, "cats", num_docs=24, collections=["default", "plain"])
        assert {passage.collection for passage in both.passages} == {"default", "plain"}


async def test_weights_are_settings(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    publish(tmp_path, bits=4)
    weights = Weights(dense=0, lexical=0.5, sparse=0, multi_vector=0.5)
    async with serving(tmp_path, embedder, weights=weights) as service:
        found = await find(service, "cats purr", num_docs=12, explain=True)
        assert all(passage.lexical_score > 0 for passage in found.passages)
        for passage in found.passages:
            assert passage.explain is not None
            signals = passage.explain.signals
            assert passage.score == pytest.approx((signals["lexical"].score + signals["multi_vector"].score) / 2)


async def test_filters_narrow_the_learned_part_too(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    publish(tmp_path, bits=2)
    async with serving(tmp_path, embedder) as service:
        found = await find(service, "cats purr", num_docs=12, filters={"kind": "fish"})
        assert {passage.document_id for passage in found.passages} == {"fish"}
        assert (await find(service, "cats", filters={"legs": 99})).passages == []


def test_all_parts_are_found_again_by_content(tmp_path: Path) -> None:
    publish(tmp_path, bits=2)
    with IndexRoot(tmp_path, "default").open() as version:
        assert version.manifest.parts == ["dense", "lexical", "sparse", "multi_vector"]
        text = sentences(animals()[0])[1].text
        stored = version.vectors_by_content()[content_key(FINGERPRINT, text)]
        np.testing.assert_array_equal(stored.dense, embed([text])[0])
        assert stored.sparse is not None
        np.testing.assert_array_equal(stored.sparse.indices, sparse(text).indices)
        np.testing.assert_array_equal(stored.sparse.weights, sparse(text).weights)
        assert isinstance(stored.multi_vectors, EncodedVectors)
        assert stored.multi_vectors.codes.shape == (len(text.split()), DIMENSION // 4)


def ids(*values: int) -> SparseVector:
    return SparseVector(np.array(values, np.int32), np.ones(len(values), np.float32))


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("sparse", {"sparse": []}),
        ("multi_vectors", {"multi_vectors": []}),
        ("sparse", {"sparse": [ids(3, 2)]}),
        ("sparse", {"sparse": [ids(-1)]}),
        ("sparse", {"sparse": [SparseVector(np.array([1], np.int32), np.array([np.nan], np.float32))]}),
        ("sparse", {"sparse": [SparseVector(np.array([1], np.int32), np.array([0], np.float32))]}),
        ("multi_vectors", {"multi_vectors": [np.full((2, DIMENSION), np.inf, np.float32)]}),
        ("multi_vectors", {"multi_vectors": [np.ones((2, DIMENSION - 8), np.float32)]}),
    ],
    ids=str,
)
def test_bad_parts_leave_nothing_half_written(tmp_path: Path, field: str, given: dict[str, Any]) -> None:
    root = IndexRoot(tmp_path, "default")
    with root.begin(
        embedder_fingerprint=FINGERPRINT, dimension=DIMENSION, settings={}, sparse=True, multi_vector_bits=2
    ) as builder:
        doc = document("a", "one sentence")
        good: dict[str, Any] = {"sparse": [ids(1, 2)], "multi_vectors": [embed_tokens("one sentence")]}
        with pytest.raises(InvalidContentError) as error:
            builder.add(doc, sentences(doc), embed(["one sentence"]), **{**good, **given})
        assert error.value.field == field
        builder.add(doc, sentences(doc), embed(["one sentence"]), **good)
        builder.publish()
    with root.open() as version:
        assert version.manifest.counts.chunks == 1


def test_parts_that_no_version_has(tmp_path: Path) -> None:
    doc = document("a", "one sentence")
    with (
        IndexRoot(tmp_path, "default").begin(
            embedder_fingerprint=FINGERPRINT, dimension=DIMENSION, settings={}
        ) as builder,
        pytest.raises(InvalidContentError, match="sparse"),
    ):
        builder.add(doc, sentences(doc), embed(["one sentence"]), sparse=[ids(1)])


@pytest.mark.parametrize("part", ["sparse", "multi_vectors"])
def test_damaged_parts_are_errors(tmp_path: Path, part: str) -> None:
    version = publish(tmp_path, bits=2)
    folder = tmp_path / "default" / version / part
    for file in folder.iterdir():
        file.write_bytes(b"\x00" * file.stat().st_size)
    with IndexRoot(tmp_path, "default").open() as opened, pytest.raises(DamagedIndexError):
        getattr(opened, part)()


def test_sparse_scores_are_dot_products(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((50, 40)) < 0.2, rng.random((50, 40)), 0).astype(np.float32)
    dense[7] = 0
    writer = SparseWriter(tmp_path)
    writer.add([SparseVector(np.flatnonzero(row).astype(np.int32), row[row > 0]) for row in dense])
    writer.finish()
    index = SparseIndex(tmp_path)
    query = SparseVector(np.array([1, 5, 39, 1000], np.int32), np.array([0.5, 1, 2, 3], np.float32))
    np.testing.assert_allclose(index.scores(query), dense[:, [1, 5, 39]] @ [0.5, 1, 2], rtol=1e-5)
    for row in (0, 7, 49):
        np.testing.assert_array_equal(index[row].indices, np.flatnonzero(dense[row]))
        np.testing.assert_array_equal(index[row].weights, dense[row][dense[row] > 0])
