"""Pinecone as a store: its errors and keys. Pinecone's own client judges the server that stands for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pinecone
import pytest
from pinecone.errors import NotFoundError, UnauthorizedError

from chassis.settings import SettingError
from tests.contracts.filled import opened, version
from tests.contracts.test_stores import DIMENSION, unit
from tests.fakes.pinecone import INDEX, KEY, Pinecone
from tests.processes import free_ports
from vectorstore.errors import StoreFailedError
from vectorstore.stores import VersionRef
from vectorstore.stores.pinecone import STORE

PREFIX = "VECTORSTORE_PINECONE_"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pinecone]:
    with Pinecone(DIMENSION) as server:
        for name, value in (("CONTROL_URL", server.url), ("INDEX", INDEX), ("API_KEY", KEY)):
            monkeypatch.setenv(f"{PREFIX}{name}", value)
        yield server


@contextlib.contextmanager
def pinecones_client(server: Pinecone, key: str = KEY) -> Iterator[tuple[Any, Any]]:
    """The official client's control plane and index."""
    with pinecone.Pinecone(api_key=key, host=server.url) as control, control.Index(host=server.url) as index:
        yield control, index


@pytest.fixture
def client(server: Pinecone) -> Iterator[Any]:
    with pinecones_client(server) as (_, index):
        yield index


def test_pinecones_own_client_agrees_with_the_server(server: Pinecone, client: Any) -> None:
    with pinecones_client(server) as (control, _):
        described = control.describe_index(INDEX)
        assert (described.name, described.host, described.status.ready) == (INDEX, server.url, True)
        with pytest.raises(NotFoundError, match="Resource other not found"):
            control.describe_index("other")
    rows = [
        {"id": f"v{row}", "values": vector.tolist(), "metadata": {"year": 2020 + row, "tags": ["a", f"t{row}"]}}
        for row, vector in enumerate(unit(3))
    ]
    assert client.upsert(vectors=rows, namespace="n").upserted_count == 3
    stats = [client.describe_index_stats() for _ in range(2)]
    assert "n" not in stats[0].namespaces  # eventually consistent
    assert (stats[1].namespaces["n"].vector_count, stats[1].dimension) == (3, DIMENSION)
    found = client.query(vector=unit(3)[1].tolist(), top_k=2, namespace="n", include_metadata=True, include_values=True)
    assert found.matches[0].id == "v1"
    assert found.matches[0].score == pytest.approx(1, abs=1e-5)
    assert (found.matches[0].metadata["year"], len(found.matches[0].values)) == (2021, DIMENSION)
    for where, expected in (
        ({"year": {"$gte": 2021}}, {"v1", "v2"}),
        ({"tags": {"$in": ["t0", "t2"]}}, {"v0", "v2"}),
        ({"tags": {"$nin": ["t0", "t2"]}}, {"v1"}),
        ({"$or": [{"year": 2020}, {"tags": "t1"}]}, {"v0", "v1"}),
    ):
        matches = client.query(vector=unit(1)[0].tolist(), top_k=9, namespace="n", filter=where).matches
        assert {match.id for match in matches} == expected
    assert set(client.fetch(ids=["v0", "none"], namespace="n").vectors) == {"v0"}
    pages = list(client.list(namespace="n", limit=2))
    assert [[record.id for record in page.vectors] for page in pages] == [["v0", "v1"], ["v2"]]
    client.delete(ids=["v0"], namespace="n")
    assert client.describe_index_stats().namespaces["n"].vector_count == 2
    client.delete_namespace(namespace="n")
    assert "n" not in client.describe_index_stats().namespaces
    with pytest.raises(NotFoundError, match="Namespace not found"):
        client.delete(ids=["v0"], namespace="n")
    with pytest.raises(Exception, match="Vector dimension 2 does not match the dimension of the index 16"):
        client.upsert(vectors=[{"id": "v", "values": [1, 2]}], namespace="n")
    with pinecones_client(server, "wrong") as (_, refused), pytest.raises(UnauthorizedError):
        refused.describe_index_stats()


def test_pinecones_own_client_reads_a_version(tmp_path: Path, client: Any) -> None:
    ref = version(tmp_path, "pinecone")
    found = client.query(vector=unit(3)[1].tolist(), top_k=1, namespace=ref.collection)
    assert [match.id for match in found.matches] == ["1"]
    STORE.drop(ref)
    assert ref.collection not in client.describe_index_stats().namespaces


def test_a_namespace_with_rows_of_another_program(tmp_path: Path, client: Any) -> None:
    ref = version(tmp_path, "pinecone")
    client.upsert(vectors=[{"id": "other", "values": unit(9)[8].tolist()}], namespace=ref.collection)
    client.describe_index_stats()
    with opened(ref, "pinecone") as store, pytest.raises(StoreFailedError, match="rows that are not of this version"):
        store.search(unit(9)[8:], limit=1, where=None, mask=None)


def test_an_index_with_dotproduct(tmp_path: Path, server: Pinecone) -> None:
    server.metric = "dotproduct"
    with opened(version(tmp_path, "pinecone"), "pinecone") as store:
        (hits,) = store.search(unit(3)[2:], limit=1, where=None, mask=None)
    assert (hits.rows.tolist(), hits.scores.tolist()) == ([2], [pytest.approx(1, abs=1e-5)])


def test_an_index_of_another_metric_or_dimension(tmp_path: Path, server: Pinecone) -> None:
    ref = VersionRef("default", "0" * 16, tmp_path)
    with pytest.raises(StoreFailedError, match=f"16 dimensions and the metric cosine, but 8 .*{PREFIX}INDEX"):
        STORE.create(ref, 8)
    server.metric = "euclidean"
    with pytest.raises(StoreFailedError, match=r"metric euclidean, but 16 and cosine or dotproduct"):
        STORE.create(ref, DIMENSION)


def test_keys(tmp_path: Path, server: Pinecone, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = version(tmp_path, "pinecone")
    monkeypatch.setenv(f"{PREFIX}API_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(SettingError, match=f"set one of {PREFIX}API_KEY and {PREFIX}API_KEY_FILE"):
        STORE.open(ref)
    monkeypatch.delenv(f"{PREFIX}API_KEY")
    with pytest.raises(StoreFailedError, match=f"{PREFIX}API_KEY_FILE=.*key cannot be read"):
        STORE.open(ref)
    (tmp_path / "key").write_text(f"{KEY}\n")
    with opened(ref, "pinecone") as store:
        assert store.count() == 3
    for wrong in ("pcsk_wr0ng", "schlüssel_wr0ng"):
        (tmp_path / "key").write_text(wrong)
        with pytest.raises(StoreFailedError, match=f"check {PREFIX}API_KEY") as caught:
            STORE.open(ref)
        assert "wr0ng" not in str(caught.value)


def test_what_can_go_wrong(tmp_path: Path, server: Pinecone, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = version(tmp_path, "pinecone")
    with opened(ref, "pinecone") as store:
        for status, message in (
            (500, "answered with status 500"),
            (429, "limit of requests"),
            (403, "refused the key"),
        ):
            server.status = status
            with pytest.raises(StoreFailedError, match=message):
                store.search(unit(1), limit=1, where=None, mask=None)
        server.status = None
        with pytest.raises(StoreFailedError, match="16 dimensions"):
            store.search(np.eye(1, 8, dtype=np.float32), limit=1, where=None, mask=None)
    monkeypatch.setenv(f"{PREFIX}INDEX", "other")
    with pytest.raises(StoreFailedError, match=f"does not exist: check {PREFIX}INDEX"):
        STORE.open(ref)
    monkeypatch.setenv(f"{PREFIX}CONTROL_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(StoreFailedError, match=f"cannot be reached: check the network and {PREFIX}CONTROL_URL"):
        STORE.open(ref)


def test_rows_that_never_become_visible(tmp_path: Path, server: Pinecone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}VISIBLE_WITHIN_S", "0.001")
    monkeypatch.setattr(server, "_settle", lambda: None)
    writer = STORE.create(VersionRef("default", "0" * 16, tmp_path), DIMENSION)
    writer.add(unit(2), [{}, {}])
    with pytest.raises(StoreFailedError, match=f"did not show all rows within 0.001 s .{PREFIX}VISIBLE_WITHIN_S"):
        writer.finish()
    writer.discard()
