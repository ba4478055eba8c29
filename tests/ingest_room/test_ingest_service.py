"""The ingest service as its users meet it: over HTTP, on a real port, with an embedder on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_embedder import LoopbackEmbedder
from running_ingest import DOCUMENTS, RunningIngest, running_ingest


@pytest.fixture
def service(tmp_path: Path, embedder: LoopbackEmbedder, tokenizer_path: Path) -> Iterator[RunningIngest]:
    with running_ingest(tmp_path / "indexes", embedder.url, tokenizer_path) as running:
        yield running


def test_an_upload_becomes_an_index(service: RunningIngest) -> None:
    accepted = service.post(
        {"guide.md": "# Kilns\n\nThe kiln opens at first light.", "glaze.txt": "Glaze is clay and water."}
    )
    assert accepted.status_code == 202
    task = accepted.json()
    assert (task["kind"], task["index"], task["state"]) == ("upload", "default", "queued")
    assert task["sources"] == ["uploads/glaze.txt", "uploads/guide.md"]
    last = service.events(task["id"])[-1]
    assert last == service.task(task["id"])
    assert last["state"] == "succeeded"
    assert last["progress"]["stage"] == "done"
    assert last["progress"]["files_done"] == last["progress"]["files_total"] == 2
    assert last["result"]["documents"] == 2
    assert last["result"]["skipped"] == []
    listed = service.http.get(DOCUMENTS).json()
    assert listed["version"] == last["result"]["version"]
    assert [(d["source"], d["title"], d["documents"], d["origin"]) for d in listed["documents"]] == [
        ("uploads/glaze.txt", "glaze", 1, "upload"),
        ("uploads/guide.md", "Kilns", 1, "upload"),
    ]
    assert service.leftovers() == []
    deleted = service.delete("uploads/guide.md")
    print(deleted)
    deleted = service.delete("uploads/glaze.txt")
    print(deleted)
    print(service.http.get(DOCUMENTS).json())
    print(service.upload({"guide.md": "# Kilns\n\nThe kiln opens at first light."}))
    print(service.reindex())
