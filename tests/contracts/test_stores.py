"""The contract of a store. Every registered store passes these tests, except for its declared gaps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contracts.gaps import Gap, declare
from vectorstore.errors import StoreFailedError, UnsupportedFilterError
from vectorstore.signals.dense import Vectors, normalised
from vectorstore.stores import Store, VersionRef
from vectorstore.stores.filters import FieldValue, Where, check, matches
from vectorstore.versions import STORES, Chunk, Document, IndexRoot, IndexVersion

DIMENSION = 16

SERVERS = ("chroma_server", "milvus", "pgvector", "pinecone")
"""Stores on a server, which the fixture of the same name starts."""

GAPS = [
    *(
        Gap(
            member,
            "test_filters_with_fractions",
            UnsupportedFilterError,
            "Chroma 1.5.9 compares 2021.5 as 2021 with whole numbers, and refuses lists of both",
        )
        for member in ("chroma", "chroma_server")
    ),
    Gap(
        "exact",
        "test_a_dropped_store_is_gone_until_it_is_filled_again",
        pytest.fail.Exception,
        "it searches the vectors of the version, which stay",
    ),
]


@pytest.fixture(params=STORES.names())
def name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    declare(request, request.param, GAPS)
    if request.param in SERVERS:
        for variable, value in request.getfixturevalue(request.param).items():
            monkeypatch.setenv(variable, value)
    return str(request.param)


def unit(count: int, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)
    return normalised(vectors, DIMENSION)


def publish(path: Path, store: str, vectors: Vectors, metadata: Sequence[Mapping[str, FieldValue]] = ()) -> str:
    """A version with a document per row, or one document if no metadata is given."""
    with IndexRoot(path, "default").begin(
        embedder_fingerprint="random", dimension=DIMENSION, settings={}, store=store
    ) as builder:
        size = 1 if metadata else max(len(vectors), 1)
        for number, start in enumerate(range(0, len(vectors), size)):
            rows = range(start, start + size)
            text = "".join(f"{row:06}" for row in rows)
            document = Document(
                f"d{number}", text, "", None, f"{number}.md", hashlib.sha256(text.encode()).hexdigest(),
                dict(metadata[number]) if metadata else {},
            )  # fmt: skip
            chunks = [
                Chunk(f"c{row}", document.id, f"{row:06}", 6 * place, 6 * place + 6) for place, row in enumerate(rows)
            ]
            builder.add(document, chunks, vectors[start : start + size])
        return builder.publish()


@contextmanager
def opened(path: Path, version: str | None = None) -> Iterator[tuple[IndexVersion, Store]]:
    with IndexRoot(path, "default").open(version) as index:
        store = index.open_store()
        try:
            yield index, store
        finally:
            store.close()


@contextmanager
def filled(
    path: Path, name: str, vectors: Vectors, metadata: Sequence[Mapping[str, FieldValue]] = ()
) -> Iterator[Store]:
    publish(path, name, vectors, metadata)
    with opened(path) as (_, store):
        yield store


def rows_of(store: Store, query: Vectors, limit: int, where: Where | None = None, mask: Any = None) -> list[int]:
    (hits,) = store.search(query, limit=limit, where=where, mask=mask)
    rows: list[int] = hits.rows.tolist()
    return rows


def test_the_manifest_names_the_store(tmp_path: Path, name: str) -> None:
    publish(tmp_path, name, unit(3))
    with opened(tmp_path) as (index, store):
        assert index.manifest.store == name == STORES.get(name).name
        store.health()


def test_the_nearest_rows_come_first(tmp_path: Path, name: str) -> None:
    vectors, queries = unit(200), unit(7, seed=1)
    with filled(tmp_path, name, vectors) as store:
        assert store.count() == 200
        found = store.search(queries, limit=10, where=None, mask=None)
    assert len(found) == 7
    for query, hits in zip(queries, found, strict=True):
        expected = vectors @ query
        best = np.lexsort((np.arange(200), -expected))[:10]
        assert hits.rows.tolist() == best.tolist()
        np.testing.assert_allclose(hits.scores, expected[best], atol=1e-5)
        assert (np.diff(hits.scores) <= 0).all()


def test_a_batch_equals_single_queries_and_changes_none(tmp_path: Path, name: str) -> None:
    queries = unit(5, seed=2)
    kept = queries.copy()
    with filled(tmp_path, name, unit(100)) as store:
        together = store.search(queries, limit=6, where=None, mask=None)
        for query, hits in zip(queries, together, strict=True):
            (alone,) = store.search(query[None], limit=6, where=None, mask=None)
            assert alone.rows.tolist() == hits.rows.tolist()
            np.testing.assert_allclose(alone.scores, hits.scores, atol=1e-6)
    np.testing.assert_array_equal(queries, kept)


def test_equal_scores_keep_the_order_of_rows(tmp_path: Path, name: str) -> None:
    vectors = np.repeat(unit(1), 5, axis=0)
    with filled(tmp_path, name, vectors) as store:
        (hits,) = store.search(vectors[:1], limit=5, where=None, mask=None)
    assert hits.rows.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(hits.scores, 1, atol=1e-5)
    assert (np.abs(hits.scores) <= 1).all()


def test_limits(tmp_path: Path, name: str) -> None:
    queries = unit(2, seed=1)
    with filled(tmp_path, name, unit(3)) as store:
        for limit, expected in ((10, 3), (1, 1), (0, 0)):
            found = store.search(queries, limit=limit, where=None, mask=None)
            assert [len(hits.rows) for hits in found] == [expected] * 2
        assert store.search(queries[:0], limit=1, where=None, mask=None) == []


def test_an_empty_version(tmp_path: Path, name: str) -> None:
    where = check({"a": 1}, ["a"])
    with filled(tmp_path, name, unit(0)) as store:
        store.health()
        assert store.count() == store.count(where) == 0
        for more in ({"where": None, "mask": None}, {"where": where, "mask": np.zeros(0, np.bool_)}):
            assert [len(hits.rows) for hits in store.search(unit(2), limit=3, **more)] == [0, 0]


FIELDS = ("lang", "year", "draft")
ROWS: list[Mapping[str, FieldValue]] = [
    {},
    {"lang": "en", "year": 2020, "draft": True},
    {"lang": "de", "year": 2021, "draft": False},
    {"lang": "en", "year": 2021.5},
    {"lang": "1", "year": 1},
    {"lang": 1, "year": "1", "draft": 0},
    {"year": 1.0, "draft": 1},
    {"lang": True, "year": -3, "draft": "true"},
]
CORNERS = np.eye(len(ROWS), DIMENSION, dtype=np.float32)
CENTRE = np.full((1, DIMENSION), DIMENSION**-0.5, np.float32)


def passing(where: Where | None) -> list[int]:
    return [row for row, metadata in enumerate(ROWS) if matches(where, metadata)]


scalars = st.one_of(
    st.sampled_from(["en", "de", "1", "true", ""]),
    st.sampled_from([0, 1, 2020, 2021, -3]),
    st.sampled_from([0.0, 1.0, 2021.0]),
    st.booleans(),
)
numbers = st.sampled_from([0, 1, 1.0, 2020, 2021.0, 2022, -3])
conditions = st.one_of(
    scalars,
    st.builds(lambda o, v: {o: v}, st.sampled_from(["$eq", "$ne"]), scalars),
    st.builds(lambda o, v: {o: v}, st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), numbers),
    st.builds(
        lambda o, v: {o: v},
        st.sampled_from(["$in", "$nin"]),
        st.one_of(
            st.lists(st.sampled_from(["en", "1"]), min_size=1, max_size=3),
            st.lists(st.sampled_from([1, 2021]), min_size=1, max_size=3),
            st.lists(st.booleans(), min_size=1, max_size=2),
        ),
    ),
)
wheres = st.recursive(
    st.builds(lambda f, c: {f: c}, st.sampled_from(FIELDS), conditions),
    lambda inner: st.builds(
        lambda o, parts: {o: parts}, st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3)
    ),
    max_leaves=6,
)


def test_filters_let_the_same_rows_through_as_the_reference(tmp_path: Path, name: str) -> None:
    with filled(tmp_path, name, CORNERS, ROWS) as store:

        @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
        @given(wheres)
        def agrees(where: Where) -> None:
            checked = check(where, FIELDS)
            assert sorted(rows_of(store, CENTRE, len(ROWS), checked)) == passing(checked)
            assert store.count(checked) == len(passing(checked))

        agrees()


@pytest.mark.parametrize(
    "where",
    [
        {"lang": {"$eq": "en"}},
        {"lang": {"$ne": "en"}},
        {"lang": {"$in": ["en", "de"]}},
        {"lang": {"$nin": ["en", "de"]}},
    ]
    + [{"year": {operator: 2021}} for operator in ("$gt", "$gte", "$lt", "$lte")]
    + [{"$and": [{"lang": "en"}, {"draft": True}]}, {"$or": [{"lang": "de"}, {"draft": True}]}],
    ids=str,
)
def test_every_operator(tmp_path: Path, name: str, where: dict[str, Any]) -> None:
    checked = check(where, FIELDS)
    with filled(tmp_path, name, CORNERS, ROWS) as store:
        assert 0 < store.count(checked) == len(passing(checked)) < len(ROWS)
        assert sorted(rows_of(store, CENTRE, len(ROWS), checked)) == passing(checked)


@pytest.mark.parametrize(
    "where",
    [{"year": 2021.5}, {"year": {"$lt": 2021.5}}, {"year": {"$in": [2021, 2021.5]}}, {"year": {"$nin": [2020.5]}}],
    ids=str,
)
def test_filters_with_fractions(tmp_path: Path, name: str, where: dict[str, Any]) -> None:
    checked = check(where, FIELDS)
    with filled(tmp_path, name, CORNERS, ROWS) as store:
        assert sorted(rows_of(store, CENTRE, len(ROWS), checked)) == passing(checked)
        assert store.count(checked) == len(passing(checked))


def test_the_nearest_rows_that_pass_a_filter(tmp_path: Path, name: str) -> None:
    vectors = unit(60)
    metadata = [{"year": 2000 + i % 6, "lang": "en" if i % 2 else "de"} for i in range(60)]
    where = check({"year": {"$gte": 2003}, "lang": "en"}, ["year", "lang"])
    allowed = [i for i in range(60) if i % 6 >= 3 and i % 2]
    with filled(tmp_path, name, vectors, metadata) as store:
        assert sorted(rows_of(store, vectors[:1], 60, where)) == allowed
        assert rows_of(store, vectors[:1], 4, where) == nearest(vectors, vectors[0], allowed)[:4]
        assert rows_of(store, vectors[:1], 4, check({"lang": "fr"}, ["lang"])) == []
        by_file = check({"$or": [{"document_id": "d7"}, {"source": "9.md"}]}, None)
        assert sorted(rows_of(store, vectors[:1], 60, by_file)) == [7, 9]


def nearest(vectors: Vectors, query: Vectors, rows: Sequence[int]) -> list[int]:
    return sorted(rows, key=lambda row: (-float(vectors[row] @ query), row))


def test_only_rows_of_the_mask_are_found(tmp_path: Path, name: str) -> None:
    vectors, queries = unit(300), unit(3, seed=1)
    metadata = [{"even": i % 2 == 0} for i in range(300)]
    even = check({"even": True}, ["even"])
    with filled(tmp_path, name, vectors, metadata) as store:
        for allowed in (range(0, 300, 7), range(290), [5], []):
            mask = np.zeros(300, np.bool_)
            mask[list(allowed)] = True
            kept = mask.copy()
            for where in (None, even):
                rows = [row for row in allowed if where is None or row % 2 == 0]
                found = store.search(queries, limit=10, where=where, mask=mask)
                for query, hits in zip(queries, found, strict=True):
                    assert hits.rows.tolist() == nearest(vectors, query, rows)[:10]
            np.testing.assert_array_equal(mask, kept)


def test_text_of_any_script(tmp_path: Path, name: str) -> None:
    words = ["naïve", "Straße", "東京", "مرحبا", "🦊", "a'b\"c\\d", "%_*", "\u2028"]
    metadata: list[Mapping[str, FieldValue]] = [{"märke": word, "größe🦊": number} for number, word in enumerate(words)]
    with filled(tmp_path, name, unit(len(words)), metadata) as store:
        for number, word in enumerate(words):
            assert rows_of(store, unit(1), 9, check({"märke": word}, None)) == [number]
            assert store.count(check({"$and": [{"märke": word}, {"größe🦊": number}]}, None)) == 1


def test_thousands_of_rows_in_many_batches(tmp_path: Path, name: str) -> None:
    vectors = unit(2500)
    publish(tmp_path, name, vectors)
    for _ in range(2):  # a version can be opened again
        with opened(tmp_path) as (_index, store):
            assert store.count() == 2500
            for row in (0, 999, 1000, 2499):
                assert rows_of(store, vectors[row : row + 1], 1) == [row]
                mask = np.ones(2500, np.bool_)
                mask[row] = False
                assert row not in rows_of(store, vectors[row : row + 1], 5, mask=mask)


def test_threads_may_search_at_once(tmp_path: Path, name: str) -> None:
    vectors = unit(100)
    with filled(tmp_path, name, vectors) as store, ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda row: rows_of(store, vectors[row : row + 1], 1), range(100))
        assert list(found) == [[row] for row in range(100)]


def test_a_dropped_store_is_gone_until_it_is_filled_again(tmp_path: Path, name: str) -> None:
    vectors = unit(1200)
    metadata = [{"row": row} for row in range(1200)]
    other = publish(tmp_path, name, unit(5))
    publish(tmp_path, name, vectors, metadata)
    where = check({"row": {"$gt": 1100}}, ["row"])
    with opened(tmp_path) as (_, store):
        before = rows_of(store, vectors[:1], 20), rows_of(store, vectors[:1], 20, where)
    with IndexRoot(tmp_path, "default").open() as index:
        for _ in range(2):
            STORES.get(name).drop(index.ref)
        with pytest.raises(StoreFailedError):
            index.open_store().close()
        with opened(tmp_path, other) as (_, store):
            assert store.count() == 5
        index.refill_store()
    with opened(tmp_path) as (_, store):
        assert (rows_of(store, vectors[:1], 20), rows_of(store, vectors[:1], 20, where)) == before


def test_filling_again_replaces_what_is_there(tmp_path: Path, name: str) -> None:
    vectors = unit(30)
    publish(tmp_path, name, vectors)
    with IndexRoot(tmp_path, "default").open() as index:
        index.refill_store()
    with opened(tmp_path) as (_, store):
        assert store.count() == 30
        assert rows_of(store, vectors[4:5], 1) == [4]


def test_a_discarded_store_leaves_nothing(tmp_path: Path, name: str) -> None:
    kind, ref = STORES.get(name), VersionRef("default", "0" * 16, tmp_path)
    kind.drop(ref)
    for _ in range(2):
        writer = kind.create(ref, DIMENSION)
        writer.add(unit(1100), [{"row": row} for row in range(1100)])
        writer.discard()
        with pytest.raises(StoreFailedError):
            kind.open(ref)


def test_pruning_drops_the_store(tmp_path: Path, name: str) -> None:
    root = IndexRoot(tmp_path, "default")
    publish(tmp_path, name, unit(3))
    with root.open() as index:
        old = index.ref
    publish(tmp_path, name, unit(4))
    root.prune(1)
    with pytest.raises(StoreFailedError):
        STORES.get(name).open(old)
    with opened(tmp_path) as (_, store):
        assert store.count() == 4
