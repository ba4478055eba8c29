"""Uploads and deletions with a real embedder and a serving vectorstore, even when the service is killed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from kserve_rag.local.indexing import ingest_variables
from tests.ingest.running_ingest import ROOT, RunningIngest, running_ingest
from tests.processes import free_ports, program, until

if TYPE_CHECKING:
    from tests.conftest import RunningGraph

MANUAL = """# Nightingale console

## Pairing

Hold the amber button for seven seconds until the lamp blinks twice. Then choose Nightingale in the list of devices.

## Retention

Recordings are kept for ninety days and are erased on the first Monday after that.
"""


class Vectorstore:
    """A vectorstore over the same indexes."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def version(self) -> str | None:
        index = self._http.get("/v1/indexes").json()["index"]
        return index and index["version"]

    def sources(self, question: str) -> list[str]:
        """Passages found, best first."""
        asked = {"instances": [{"input": question, "num_docs": 4}]}
        (found,) = (
            self._http.post("/v1/models/vectorstore:predict", json=asked).raise_for_status().json()["predictions"]
        )
        return [passage["source"] for passage in found["passages"]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "indexes"


@pytest.fixture
def vectorstore(root: Path, graph: RunningGraph) -> Iterator[Vectorstore]:
    root.mkdir()
    http_port, grpc_port = free_ports(2)
    url = f"http://127.0.0.1:{http_port}"
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith("VECTORSTORE_")},
        "PYTHONPATH": str(ROOT),
        "VECTORSTORE_HOST": "127.0.0.1",
        "VECTORSTORE_HTTP_PORT": str(http_port),
        "VECTORSTORE_GRPC_PORT": str(grpc_port),
        "VECTORSTORE_INDEX_ROOT": str(root),
        "VECTORSTORE_EMBEDDER_URL": graph.embedder,
        "VECTORSTORE_EMBEDDER_MODEL": graph.state.services["embedder"].model,
        "VECTORSTORE_RELOAD_INTERVAL_S": "0.05",
    }
    with (
        program([sys.executable, "-m", "vectorstore"], f"{url}/v2/health/live", variables),
        httpx.Client(base_url=url, timeout=60, trust_env=False) as http,
    ):
        yield Vectorstore(http)


def served(vectorstore: Vectorstore, task: dict[str, Any]) -> None:
    assert task["state"] == "succeeded", task
    until(lambda: vectorstore.version() == task["result"]["version"], 60)


def is_embedding(task: dict[str, Any]) -> bool:
    return bool(task["progress"]["chunks_done"])


def test_documents_come_and_go_while_the_graph_serves(
    graph: RunningGraph, root: Path, vectorstore: Vectorstore, press_releases: Path
) -> None:
    chosen = ingest_variables(graph.state)
    settings = {
        name.removeprefix("INGEST_").lower(): value
        for name, value in chosen.items()
        if name not in ("INGEST_INDEX_ROOT", "INGEST_EMBEDDER_URL", "INGEST_TOKENIZER")
    }

    def service() -> Any:
        return running_ingest(root, graph.embedder, Path(chosen["INGEST_TOKENIZER"]), **settings, batch_size=16)

    releases = (press_releases / "HPE_2023_Press_Releases.csv").read_bytes()
    with service() as first:
        killed_midway = interrupted(first, releases)
    with service() as second:
        task = second.ended(httpx.Response(202, json={"id": killed_midway}))
        served(vectorstore, task)
        assert task["result"]["documents"] > 50
        assert task["result"]["skipped"] == []
        served(vectorstore, second.upload({"console.md": MANUAL}))
        question = "How do I pair the Nightingale console?"
        assert vectorstore.sources(question)[0] == "uploads/console.md"
        task = second.delete("uploads/console.md")
        served(vectorstore, task)
        assert task["result"]["absence"]["kept_in"]
        assert "uploads/console.md" not in vectorstore.sources(question)
        served(vectorstore, second.delete("uploads/releases.csv"))
        assert vectorstore.sources(question) == []


def interrupted(service: RunningIngest, rows: bytes) -> str:
    """A task whose service is killed in the middle of it."""
    task_id = str(service.post({"releases.csv": rows}).json()["id"])
    midway = service.events(task_id, seen=is_embedding)[-1]
    assert midway["state"] == "running"
    assert midway["progress"]["eta_s"] is not None
    service.kill()
    return task_id
