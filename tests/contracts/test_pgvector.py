"""A real PostgreSQL as a store: its errors, and connections that are lost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import psycopg
import pytest
from psycopg import sql

from tests.contracts.filled import opened, version
from tests.contracts.test_stores import DIMENSION, unit
from tests.processes import free_ports
from vectorstore.errors import StoreFailedError
from vectorstore.stores import VersionRef
from vectorstore.stores.filters import check
from vectorstore.stores.pgvector import STORE

PREFIX = "VECTORSTORE_PGVECTOR_"
DSN = f"{PREFIX}DSN"


@pytest.fixture
def dsn(pgvector: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(DSN, pgvector[DSN])
    return pgvector[DSN]


@pytest.fixture
def ref(tmp_path: Path, dsn: str) -> VersionRef:
    return version(tmp_path, "pgvector")


def test_logins_and_addresses_that_are_wrong(ref: VersionRef, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    host = dsn.split("@")[1]
    for value, message in (
        (f"postgresql://rag:wr0ng@{host}", "refused the login: check user and password in"),
        (f"postgresql://rag:wr0ng@127.0.0.1:{free_ports(1)[0]}/postgres", "cannot be reached: check that it runs"),
        (f"postgresql://rag:wr0ng@{host}?sslmode=require", "cannot be reached.* sslmode in"),
        (f"{dsn}x", "cannot be reached.* database"),
        ("password=wr0ng rag", "DSN is not a connection string"),
    ):
        monkeypatch.setenv(DSN, value)
        with pytest.raises(StoreFailedError, match=message) as caught:
            STORE.open(ref)
        assert DSN in str(caught.value)
        assert "wr0ng" not in str(caught.value)


def test_a_schema_that_does_not_exist(ref: VersionRef, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}TABLE_SCHEMA", "nowhere")
    with pytest.raises(StoreFailedError, match=f"{PREFIX}TABLE_SCHEMA"):
        STORE.create(ref, DIMENSION)
    with pytest.raises(StoreFailedError, match=f"has no table .* {PREFIX}TABLE_SCHEMA. If it was lost, fill it again"):
        STORE.open(ref)


def test_a_server_that_is_slow(ref: VersionRef, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}TIMEOUT_S", "2")
    table = sql.Identifier(f"kserve_rag_{ref.build_id}")
    with opened(ref, "pgvector") as store, psycopg.connect(dsn) as other:
        other.execute(sql.SQL("LOCK TABLE {}").format(table))
        with pytest.raises(StoreFailedError, match=f"did not answer within 2 s .{PREFIX}TIMEOUT_S"):
            store.search(unit(1), limit=1, where=None, mask=None)
        other.rollback()
        assert len(store.search(unit(1), limit=1, where=None, mask=None)[0].rows) == 1


def test_a_connection_that_was_lost(ref: VersionRef, dsn: str) -> None:
    with opened(ref, "pgvector") as store, psycopg.connect(dsn, autocommit=True) as other:
        for _ in range(2):
            other.execute(
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity "
                "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            assert store.count() == 3


def test_a_table_that_was_lost_while_it_is_searched(ref: VersionRef) -> None:
    with opened(ref, "pgvector") as store:
        STORE.drop(ref)
        with pytest.raises(StoreFailedError, match="fill it again"):
            store.search(unit(1), limit=1, where=None, mask=None)
        with pytest.raises(StoreFailedError, match="fill it again"):
            store.health()


def test_other_dimensions(ref: VersionRef) -> None:
    with opened(ref, "pgvector") as store, pytest.raises(StoreFailedError, match="embedder was changed, fill it again"):
        store.search(np.eye(1, 8, dtype=np.float32), limit=1, where=None, mask=None)
    with pytest.raises(StoreFailedError, match="at most 2000 dimensions, but the embedder has 4096"):
        STORE.create(ref, 4096)


def test_text_that_postgresql_cannot_store(tmp_path: Path, dsn: str) -> None:
    ref = VersionRef("default", "2" * 16, tmp_path)
    writer = STORE.create(ref, DIMENSION)
    writer.add(unit(2), [{"a": "x\0y"}, {"a": "xy"}])
    writer.finish()
    with opened(ref, "pgvector") as store:
        (hits,) = store.search(unit(1), limit=2, where=check({"a": "x\0y"}, ["a"]), mask=None)
        assert hits.rows.tolist() == [0]


def test_hnsw_searches_large_tables(tmp_path: Path, dsn: str) -> None:
    ref = VersionRef("default", "3" * 16, tmp_path)
    vectors = unit(4000)
    writer = STORE.create(ref, DIMENSION)
    writer.add(vectors, [{"rare": row % 1000 == 0} for row in range(4000)])
    writer.finish()
    with psycopg.connect(dsn) as other:
        query = sql.SQL("EXPLAIN SELECT row_number FROM {} ORDER BY embedding <=> {}::vector LIMIT 10")
        plan = other.execute(query.format(sql.Identifier(f"kserve_rag_{ref.build_id}"), str(vectors[0].tolist())))
        assert "_embedding_idx" in str(plan.fetchall())
    with opened(ref, "pgvector") as store:
        for row in range(0, 4000, 500):
            (hits,) = store.search(vectors[row : row + 1], limit=10, where=None, mask=None)
            best = set(np.argsort(-(vectors @ vectors[row]))[:10].tolist())
            assert len(best & set(hits.rows.tolist())) >= 9
        (hits,) = store.search(vectors[:1], limit=10, where=check({"rare": True}, ["rare"]), mask=None)
        assert sorted(hits.rows.tolist()) == [0, 1000, 2000, 3000]
