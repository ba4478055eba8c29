"""The contract of a store: every one of them passes every test here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from vectorstore.errors import InvalidContentError, StoreFailedError
from vectorstore.filters import check
from vectorstore.stores import Store, Vectors, normalised
from vectorstore.stores.chroma import ChromaStore
from vectorstore.stores.exact import ExactStore

DIMENSION = 16

OPENERS: dict[str, Callable[[Path], Store]] = {
    "exact": lambda folder: ExactStore(folder, DIMENSION, writable=True),
    "chroma": ChromaStore,
}
READERS: dict[str, Callable[[Path], Store]] = {**OPENERS, "exact": lambda folder: ExactStore(folder, DIMENSION)}


def unit(count: int, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    return normalised(vectors, DIMENSION)


@pytest.fixture(params=OPENERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(kind: str, tmp_path: Path) -> Iterator[Store]:
    opened = OPENERS[kind](tmp_path / "store")
    yield opened
    opened.close()


def test_finds_the_nearest_first(store: Store) -> None:
    vectors = unit(200)
    store.add(vectors, [{"n": i} for i in range(200)])
    assert store.count() == 200
    queries = unit(7, seed=1)
    found = store.search(queries, limit=10)
    assert len(found) == 7
    for query, hits in zip(queries, found, strict=True):
        expected = vectors @ query
        best = np.lexsort((np.arange(200), -expected))[:10]
        assert hits.rows.tolist() == best.tolist()
        np.testing.assert_allclose(hits.similarities, expected[best], atol=1e-5)
        assert (np.diff(hits.similarities) <= 0).all()


def test_a_batch_equals_single_queries(store: Store) -> None:
    store.add(unit(100), [{}] * 100)
    queries = unit(5, seed=2)
    kept = queries.copy()
    together = store.search(queries, limit=6)
    for query, hits in zip(queries, together, strict=True):
        (alone,) = store.search(query[None], limit=6)
        assert alone.rows.tolist() == hits.rows.tolist()
        np.testing.assert_allclose(alone.similarities, hits.similarities, atol=1e-6)
    np.testing.assert_array_equal(queries, kept)


def test_ties_keep_the_order_of_rows(store: Store) -> None:
    vectors = np.repeat(unit(1), 5, axis=0)
    store.add(vectors, [{}] * 5)
    (hits,) = store.search(vectors[:1], limit=5)
    assert hits.rows.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(hits.similarities, 1, atol=1e-5)
    assert (np.abs(hits.similarities) <= 1).all()


def test_limits(store: Store) -> None:
    store.add(unit(3), [{}] * 3)
    queries = unit(2, seed=1)
    assert [len(hits.rows) for hits in store.search(queries, limit=10)] == [3, 3]
    assert [len(hits.rows) for hits in store.search(queries, limit=0)] == [0, 0]
    assert [len(hits.rows) for hits in store.search(queries, limit=1)] == [1, 1]
    assert store.search(queries[:0], limit=1) == []


def test_an_empty_store_finds_nothing(store: Store) -> None:
    assert store.count() == 0
    store.health()
    assert [len(hits.rows) for hits in store.search(unit(2), limit=3)] == [0, 0]
    assert [len(hits.rows) for hits in store.search(unit(1), limit=3, where=check({"a": 1}, ["a"]))] == [0]


def test_filters(store: Store) -> None:
    vectors = unit(60)
    store.add(vectors, [{"year": 2000 + i % 6, "lang": "en" if i % 2 else "de"} for i in range(60)])
    where = check({"year": {"$gte": 2003}, "lang": "en"}, ["year", "lang"])
    (hits,) = store.search(vectors[:1], limit=60, where=where)
    allowed = [i for i in range(60) if i % 6 >= 3 and i % 2]
    assert sorted(hits.rows.tolist()) == allowed
    (hits,) = store.search(vectors[:1], limit=4, where=where)
    expected = sorted(allowed, key=lambda i: (-float(vectors[i] @ vectors[0]), i))[:4]
    assert hits.rows.tolist() == expected
    assert [len(h.rows) for h in store.search(vectors[:2], limit=4, where=check({"lang": "fr"}, ["lang"]))] == [0, 0]


def test_rows_go_on_after_every_batch_and_outlive_the_store(kind: str, tmp_path: Path) -> None:
    vectors = unit(2500)
    store = OPENERS[kind](tmp_path / "store")
    for start in range(0, 2500, 700):
        part = vectors[start : start + 700]
        store.add(part, [{"row": start + i} for i in range(len(part))])
    store.close()
    again = READERS[kind](tmp_path / "store")
    try:
        assert again.count() == 2500
        for row in (0, 699, 700, 2499):
            (hits,) = again.search(vectors[row : row + 1], limit=1)
            assert hits.rows.tolist() == [row]
            (hits,) = again.search(vectors[:1], limit=3, where=check({"row": row}, ["row"]))
            assert hits.rows.tolist() == [row]
    finally:
        again.close()


def test_exact_search_in_blocks_keeps_order_and_ties(tmp_path: Path) -> None:
    store = ExactStore(tmp_path, 2, writable=True)
    angles = np.tile(np.linspace(0, np.pi, 1000, dtype=np.float32), 140)  # more rows than one block, each 140 times
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    store.add(vectors, [{"first": i < 100_000} for i in range(len(vectors))])
    query = vectors[500:501]
    (hits,) = store.search(query, limit=200)
    expected = np.lexsort((np.arange(len(vectors)), -(vectors @ query[0])))[:200]
    assert hits.rows.tolist() == expected.tolist()
    (hits,) = store.search(query, limit=200, where=check({"first": False}, ["first"]))
    assert hits.rows.min() >= 100_000
    assert len(hits.rows) == 200
    store.close()


def test_a_published_exact_store_takes_no_more(tmp_path: Path) -> None:
    writer = ExactStore(tmp_path, DIMENSION, writable=True)
    writer.add(unit(1), [{}])
    writer.close()
    reader = ExactStore(tmp_path, DIMENSION)
    with pytest.raises(StoreFailedError):
        reader.add(unit(1), [{}])
    reader.close()


def test_chroma_tells_of_a_folder_that_it_cannot_open(tmp_path: Path) -> None:
    (tmp_path / "chroma.sqlite3").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreFailedError, match="writable and complete"):
        ChromaStore(tmp_path)


def test_normalising_keeps_what_is_of_length_one() -> None:
    vectors = unit(3)
    np.testing.assert_array_equal(normalised(vectors, DIMENSION), vectors)
    with pytest.raises(InvalidContentError):
        normalised(np.zeros((1, DIMENSION)), DIMENSION)
