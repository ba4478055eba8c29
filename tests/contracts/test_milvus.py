"""Milvus as a store: its errors. Milvus Lite has no users: a small gRPC server refuses the token."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from pymilvus import MilvusClient

from tests.contracts.filled import opened, version
from tests.contracts.test_stores import unit
from tests.processes import free_ports
from vectorstore.errors import StoreFailedError
from vectorstore.stores import VersionRef
from vectorstore.stores.milvus import STORE

PREFIX = "VECTORSTORE_MILVUS_"


@pytest.fixture
def url(milvus: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(f"{PREFIX}URL", milvus[f"{PREFIX}URL"])
    return milvus[f"{PREFIX}URL"]


@pytest.fixture
def ref(tmp_path: Path, url: str) -> VersionRef:
    return version(tmp_path, "milvus")


@contextlib.contextmanager
def answering(answer: Callable[[bytes, grpc.ServicerContext], bytes]) -> Iterator[str]:
    """The URL of a server that gives the same answer to every call."""

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, handler_call_details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(answer)

    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=[Handler()])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


def test_a_server_that_is_away_or_refuses_the_token(ref: VersionRef, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}TOKEN", "rag:s3cret")
    monkeypatch.setenv(f"{PREFIX}TIMEOUT_S", "0.5")
    monkeypatch.setenv(f"{PREFIX}URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    # The client tries again until the time is over.
    with pytest.raises(StoreFailedError, match=f"cannot be reached: check that it runs, {PREFIX}URL|{PREFIX}TIMEOUT_S"):
        STORE.open(ref)
    monkeypatch.delenv(f"{PREFIX}TIMEOUT_S")

    def refuse(_: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "auth check failure for rag:s3cret")
        raise AssertionError

    with answering(refuse) as url:
        monkeypatch.setenv(f"{PREFIX}URL", url)
        with pytest.raises(StoreFailedError, match=f"refused the credentials: check {PREFIX}TOKEN") as caught:
            STORE.open(ref)
    assert "s3cret" not in str(caught.value)


def test_a_server_that_is_silent(ref: VersionRef, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}TIMEOUT_S", "0.5")
    end = threading.Event()

    def wait(_: bytes, context: grpc.ServicerContext) -> bytes:
        end.wait()
        return b""

    with answering(wait) as url:
        monkeypatch.setenv(f"{PREFIX}URL", url)
        with pytest.raises(StoreFailedError, match=f"did not answer within 0.5 s .{PREFIX}TIMEOUT_S"):
            STORE.open(ref)
        end.set()


def test_a_missing_file_of_certificates(ref: VersionRef, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}CA_FILE", "/nowhere/ca.pem")
    with pytest.raises(StoreFailedError, match=f"{PREFIX}CA_FILE=/nowhere/ca.pem: there is no such file"):
        STORE.open(ref)


def test_another_database(ref: VersionRef, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(MilvusClient(url, dedicated=True)) as client:
        client.create_database("press")
    for database in ("press", "nowhere"):
        monkeypatch.setenv(f"{PREFIX}DATABASE", database)
        with pytest.raises(StoreFailedError, match=f"no such collection or database: check {PREFIX}DATABASE"):
            STORE.open(ref)


def test_a_collection_of_another_metric_or_dimension(ref: VersionRef, url: str) -> None:
    with (
        opened(ref, "milvus") as store,
        pytest.raises(StoreFailedError, match="has 16 dimensions, but the queries have 8"),
    ):
        store.search(np.eye(1, 8, dtype=np.float32), limit=1, where=None, mask=None)
    STORE.drop(ref)
    with contextlib.closing(MilvusClient(url, dedicated=True)) as client:
        client.create_collection(f"rag_default_{ref.build_id}", dimension=8, metric_type="L2")
    with pytest.raises(StoreFailedError, match="metric L2, not COSINE: fill it again"):
        STORE.open(ref)


def test_a_collection_that_was_lost_while_it_is_searched(ref: VersionRef) -> None:
    with opened(ref, "milvus") as store:
        STORE.drop(ref)
        with pytest.raises(StoreFailedError, match="fill it again"):
            store.search(unit(1), limit=1, where=None, mask=None)
        with pytest.raises(StoreFailedError, match="fill it again"):
            store.health()
