"""A real Chroma server as a store: its errors, tenants, credentials, TLS, and what other clients read there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import chromadb
import httpx
import numpy as np
import pytest
from chromadb.api import ClientAPI

from tests.contracts.filled import opened, version
from tests.contracts.test_stores import DIMENSION, unit
from tests.fakes.gateway import Gateway, certificate
from tests.processes import free_ports
from vectorstore.errors import StoreFailedError
from vectorstore.stores import VersionRef
from vectorstore.stores.chroma_server import STORE

PREFIX = "VECTORSTORE_CHROMA_SERVER_"


@pytest.fixture
def url(chroma_server: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    for variable, value in chroma_server.items():
        monkeypatch.setenv(variable, value)
    return chroma_server[f"{PREFIX}URL"]


@pytest.fixture
def ref(tmp_path: Path, url: str) -> VersionRef:
    return version(tmp_path, "chroma_server")


@contextlib.contextmanager
def chromas_client(url: str) -> Iterator[ClientAPI]:
    client = chromadb.HttpClient("127.0.0.1", urlsplit(url).port or 0)
    try:
        yield client
    finally:
        client._server._session.close()  # type: ignore[attr-defined]  # its own close() leaves connections open


def test_chromas_own_client_reads_the_collection(ref: VersionRef, url: str) -> None:
    with chromas_client(url) as client:
        collection = client.get_collection(ref.collection, embedding_function=None)
        found = collection.query(query_embeddings=unit(3)[1], n_results=1, where={"document_id": "d1"})
    assert found["ids"] == [["1"]]
    assert found["metadatas"] == [[{"lang": "en", "document_id": "d1", "source": "1.md"}]]


def test_another_tenant_and_database(
    tmp_path: Path, url: str, chroma_server: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{PREFIX}TENANT", "press team")
    monkeypatch.setenv(f"{PREFIX}DATABASE", "releases")
    ref = VersionRef("default", "1" * 16, tmp_path)
    with pytest.raises(StoreFailedError, match=f"check {PREFIX}DATABASE and {PREFIX}TENANT"):
        STORE.create(ref, DIMENSION).finish()
    with httpx.Client(base_url=f"{url}/api/v2", trust_env=False) as api:
        api.post("/tenants", json={"name": "press team"}).raise_for_status()
        api.post("/tenants/press team/databases", json={"name": "releases"}).raise_for_status()
    writer = STORE.create(ref, DIMENSION)
    writer.add(unit(2), [{}, {}])
    writer.finish()
    with opened(ref, "chroma_server") as store:
        assert store.count() == 2
    monkeypatch.delenv(f"{PREFIX}TENANT")
    monkeypatch.delenv(f"{PREFIX}DATABASE")
    with pytest.raises(StoreFailedError, match="no such collection"):
        STORE.open(ref)


@pytest.mark.parametrize(("header", "value"), [("Authorization", "Bearer s3cret"), ("X-Chroma-Token", "s3cret")])
def test_a_gateway_with_a_token_and_tls(
    tmp_path: Path, ref: VersionRef, url: str, monkeypatch: pytest.MonkeyPatch, header: str, value: str
) -> None:
    tls, certificate_file = certificate(tmp_path)
    with Gateway(url, header, value, tls) as gateway:
        monkeypatch.setenv(f"{PREFIX}URL", gateway.url)
        monkeypatch.setenv(f"{PREFIX}TOKEN_HEADER", header)
        monkeypatch.setenv(f"{PREFIX}TOKEN", "s3cret")
        with pytest.raises(StoreFailedError, match=f"cannot be reached.*{PREFIX}CA_FILE"):
            STORE.open(ref)
        monkeypatch.setenv(f"{PREFIX}CA_FILE", str(certificate_file))
        with opened(ref, "chroma_server") as store:
            assert store.count() == 3
        monkeypatch.setenv(f"{PREFIX}TOKEN", "wr0ng")
        with pytest.raises(StoreFailedError, match=f"refused the credentials: check {PREFIX}TOKEN") as caught:
            STORE.open(ref)
        assert "wr0ng" not in str(caught.value)


def test_a_missing_file_of_certificates(ref: VersionRef, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}CA_FILE", "/nowhere/ca.pem")
    with pytest.raises(StoreFailedError, match=f"{PREFIX}CA_FILE=/nowhere/ca.pem: No such file"):
        STORE.open(ref)


def test_a_server_that_is_away_silent_or_another_one(
    ref: VersionRef, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Gateway(url, "Content-Type", "application/json") as gateway:
        monkeypatch.setenv(f"{PREFIX}URL", gateway.url)
        monkeypatch.setenv(f"{PREFIX}TIMEOUT_S", "0.2")
        gateway.silent = True
        with pytest.raises(StoreFailedError, match=f"did not answer within 0.2 s .{PREFIX}TIMEOUT_S"):
            STORE.open(ref)
    monkeypatch.delenv(f"{PREFIX}TIMEOUT_S")
    monkeypatch.setenv(f"{PREFIX}URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(StoreFailedError, match=f"cannot be reached: check that it runs, {PREFIX}URL"):
        STORE.open(ref)
    monkeypatch.setenv(f"{PREFIX}URL", f"{url}/another")
    with pytest.raises(StoreFailedError, match=f"check {PREFIX}"):
        STORE.open(ref)


def test_a_collection_of_another_metric_or_dimension(ref: VersionRef, url: str) -> None:
    with (
        opened(ref, "chroma_server") as store,
        pytest.raises(StoreFailedError, match="16 dimensions, but"),
    ):
        store.search(np.eye(1, 8, dtype=np.float32), limit=1, where=None, mask=None)
    STORE.drop(ref)
    with chromas_client(url) as client:
        client.create_collection(ref.collection, embedding_function=None)
    with pytest.raises(StoreFailedError, match="metric l2, not cosine: fill it again"):
        STORE.open(ref)


def test_a_collection_that_was_lost_while_it_is_searched(ref: VersionRef) -> None:
    with opened(ref, "chroma_server") as store:
        STORE.drop(ref)
        with pytest.raises(StoreFailedError, match="fill it again"):
            store.search(unit(1), limit=1, where=None, mask=None)
        with pytest.raises(StoreFailedError, match="fill it again"):
            store.health()
