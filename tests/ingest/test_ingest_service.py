"""The ingest service over HTTP, on a real port, with an embedder on loopback."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas

from ingest import pipeline
from ingest.errors import IngestError
from ingest.index_worker import task_error
from ingest.settings import IngestServerSettings, IngestSettings
from ingest.telemetry import INGEST_BYTES, INGEST_DOCUMENTS, INGEST_TASKS, INGEST_WAITING
from tests.fakes.embedder import OTHER_FINGERPRINT, LoopbackEmbedder
from tests.ingest.pdf import pdf_of
from tests.ingest.running_ingest import ROOT, Files, RunningIngest, running_ingest
from tests.processes import until
from vectorstore.versions import IndexRoot

Start = Callable[..., Any]

GUIDE = "# Kilns\n\nThe kiln opens at first light, and the shelf is for pots."
GLAZE = "Glaze is clay and water, in equal parts, on every pot."


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "indexes"


@pytest.fixture
def start(root: Path, embedder: LoopbackEmbedder, tokenizer_path: Path) -> Start:
    """A service with these settings, as a context manager."""
    return lambda **settings: running_ingest(root, embedder.url, tokenizer_path, **settings)


INDEXES = [f"index-{number}" for number in range(20)]


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory, tokenizer_path: Path) -> Iterator[Iterator[RunningIngest]]:
    """One service, each time with another index."""
    root = tmp_path_factory.mktemp("shared") / "indexes"
    with (
        LoopbackEmbedder() as embedder,
        running_ingest(root, embedder.url, tokenizer_path, collections=",".join(INDEXES)) as running,
    ):
        yield (dataclasses.replace(running, index=name) for name in INDEXES)


@pytest.fixture
def shared(indexes: Iterator[RunningIngest]) -> RunningIngest:
    """A service that other tests use too, with an index of this test."""
    return next(indexes)


@pytest.fixture
def service(start: Start) -> Iterator[RunningIngest]:
    with start() as running:
        yield running


def is_running(task: dict[str, Any]) -> bool:
    return bool(task["state"] == "running")


def held(service: RunningIngest, embedder: LoopbackEmbedder, files: Files) -> str:
    """A task whose run waits for the embedder until `release`."""
    embedder.held.clear()
    embedder.hold()
    task_id = service.post(files).json()["id"]
    assert embedder.held.wait(30)
    return str(task_id)


# Uploads and their events


def test_an_upload_becomes_an_index(shared: RunningIngest) -> None:
    accepted = shared.post({"guide.md": GUIDE, "glaze.txt": GLAZE})
    assert accepted.status_code == 202
    task = accepted.json()
    assert (task["kind"], task["index"], task["state"]) == ("upload", shared.index, "queued")
    assert task["sources"] == ["uploads/glaze.txt", "uploads/guide.md"]
    last = shared.ended(accepted)
    assert last == shared.task(task["id"])
    assert (last["state"], last["error"]) == ("succeeded", None)
    assert (last["progress"]["stage"], last["progress"]["files_done"], last["progress"]["files_total"]) == (
        "done",
        2,
        2,
    )
    assert last["progress"]["bytes_done"] == last["progress"]["bytes_total"] == len(GUIDE) + len(GLAZE)
    result = last["result"]
    assert (result["documents"], result["chunks"], result["skipped"], result["absence"]) == (2, 2, [], None)
    listed = shared.http.get(shared.documents).json()
    assert listed["version"] == result["version"]
    assert listed["next"] is None
    assert [
        (d["source"], d["title"], d["documents"], d["chunks"], d["size_bytes"], d["origin"])
        for d in listed["documents"]
    ] == [
        ("uploads/glaze.txt", "glaze", 1, 1, len(GLAZE), "upload"),
        ("uploads/guide.md", "Kilns", 1, 1, len(GUIDE), "upload"),
    ]
    assert shared.leftovers() == []
    assert [listed["id"] for listed in shared.http.get(f"/v1/tasks?index={shared.index}").json()["tasks"]] == [
        task["id"]
    ]


def test_files_are_listed_in_pages(shared: RunningIngest) -> None:
    assert shared.http.get(shared.documents).json() == {"documents": [], "next": None, "version": None}
    shared.upload({f"{number}.txt": f"Pot {number} is on shelf {number}." for number in range(5)})
    pages, after = [], None
    while True:
        parameters = {"limit": "2", **({"after": after} if after else {})}
        page = shared.http.get(shared.documents, params=parameters).json()
        pages.append([listed["source"] for listed in page["documents"]])
        after = page["next"]
        if after is None:
            break
    assert pages == [["uploads/0.txt", "uploads/1.txt"], ["uploads/2.txt", "uploads/3.txt"], ["uploads/4.txt"]]


def test_events_report_a_run_while_it_goes_on(service: RunningIngest, embedder: LoopbackEmbedder) -> None:
    task_id = held(service, embedder, {"guide.md": GUIDE})
    (first, running), *_ = service.numbered_events(task_id, seen=is_running)
    assert (running["started_at"] is not None, running["ended_at"]) == (True, None)
    with ThreadPoolExecutor(8) as pool:
        # Some disconnect at once; the others follow to the end.
        leaving = [pool.submit(service.events, task_id, None, is_running) for _ in range(4)]
        staying = [pool.submit(service.numbered_events, task_id, first) for _ in range(4)]
        for listener in leaving:
            assert is_running(listener.result()[-1])
        embedder.pass_new()
        embedder.release()
        told = [listener.result() for listener in staying]
    for events in told:
        ids = [int(event_id) for event_id, _ in events]
        assert ids == sorted(set(ids))
        assert int(first) < ids[0]
        assert events[-1][1]["state"] == "succeeded"
    # Late followers get the last event, even repeatedly.
    (last_id, last), *more = service.numbered_events(task_id, last=first)
    assert (last["state"], more) == ("succeeded", [])
    assert service.numbered_events(task_id, last=last_id) == [(last_id, last)]


def test_uploads_that_wait_are_indexed_together(service: RunningIngest, embedder: LoopbackEmbedder) -> None:
    first = held(service, embedder, {"guide.md": GUIDE})
    with ThreadPoolExecutor(20) as pool:
        accepted = list(pool.map(lambda n: service.post({f"{n}.txt": f"Pot {n} is on shelf {n}."}), range(20)))
    assert {response.status_code for response in accepted} == {202}
    assert {service.task(response.json()["id"])["state"] for response in accepted} == {"queued"}
    embedder.pass_new()
    embedder.release()
    assert service.events(first)[-1]["state"] == "succeeded"
    ended = [service.ended(response) for response in accepted]
    assert {task["state"] for task in ended} == {"succeeded"}
    assert {task["result"]["documents"] for task in ended} == {1}
    assert len({task["result"]["version"] for task in ended}) == 1
    assert len(service.sources()) == 21
    assert max(embedder.texts.values()) == 1


def test_a_file_of_the_same_name_replaces_the_previous_one(shared: RunningIngest) -> None:
    shared.upload({"Guide.md": GUIDE})
    before = shared.sources()["uploads/Guide.md"]
    task = shared.upload({"GUIDE.MD": "# Glazes\n\n" + GLAZE})
    assert task["sources"] == ["uploads/Guide.md"]
    after = shared.sources()
    assert list(after) == ["uploads/Guide.md"]
    assert after["uploads/Guide.md"]["title"] == "Glazes"
    assert after["uploads/Guide.md"]["sha256"] != before["sha256"]
    # An unusable replacement removes nothing.
    task = shared.upload({"guide.md": "<!-- nothing -->", "other.txt": "A shelf for pots."})
    assert task["state"] == "succeeded"
    assert task["result"]["skipped"] == [
        {"source": "uploads/Guide.md", "reason": "holds no text; the previous file is kept", "stale": False}
    ]
    assert shared.sources()["uploads/Guide.md"] == after["uploads/Guide.md"]


def test_a_file_twice_in_one_run(service: RunningIngest, embedder: LoopbackEmbedder) -> None:
    first = held(service, embedder, {"glaze.txt": GLAZE})
    contents = ["# One\n\n" + GUIDE, "# Two\n\nA shelf for pots.", "<!-- nothing -->"]
    accepted = [service.post({"guide.md": content}) for content in contents]
    embedder.pass_new()
    embedder.release()
    service.events(first)
    ended = [service.ended(response) for response in accepted]
    assert [task["state"] for task in ended] == ["succeeded", "succeeded", "failed"]
    assert [task["result"]["documents"] for task in ended] == [1, 1, 0]
    assert len({task["result"]["version"] for task in ended}) == 1
    assert service.sources()["uploads/guide.md"]["title"] == "Two"
    assert service.sources()["uploads/guide.md"]["size_bytes"] == len(contents[1])
    assert service.reindex()["result"]["documents"] == 2


def test_reindexing_embeds_nothing_twice(service: RunningIngest, embedder: LoopbackEmbedder) -> None:
    first = service.upload({"guide.md": GUIDE, "glaze.txt": GLAZE})
    embedded = embedder.embedded
    task = service.reindex()
    assert (task["state"], task["sources"]) == ("succeeded", [])
    assert (task["result"]["documents"], task["result"]["chunks"]) == (2, 2)
    assert task["progress"]["files_done"] == 2
    assert task["result"]["version"] != first["result"]["version"]
    assert embedder.embedded == embedded


# Uploads beside followed folders


def test_uploads_and_followed_folders_leave_each_other_alone(
    start: Start, tmp_path: Path, root: Path, make_settings: Callable[..., IngestSettings]
) -> None:
    docs = tmp_path / "docs"
    (docs / "uploads").mkdir(parents=True)
    (docs / "guide.md").write_text(GUIDE, "utf-8")
    (docs / "uploads" / "guide.md").write_text("# Old\n\nA shelf for water.", "utf-8")

    def run_job(*paths: Path) -> None:
        job = [sys.executable, "-m", "ingest", *map(str, paths)]
        settings = make_settings()
        environment = {
            **os.environ,
            "INGEST_INDEX_ROOT": str(root),
            "INGEST_EMBEDDER_URL": settings.embedder_url,
            "INGEST_TOKENIZER": str(settings.tokenizer),
        }
        subprocess.run(job, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=120)

    run_job(docs)
    with start() as service:
        assert service.upload({"guide.md": "# Mine\n\n" + GLAZE})["state"] == "succeeded"
        everything = {"docs/uploads/guide.md": "Old", "guide.md": "Kilns", "uploads/guide.md": "Mine"}
        assert {source: listed["title"] for source, listed in service.sources().items()} == everything
        assert service.sources()["guide.md"] | {"chunks": 0, "sha256": ""} == {
            "source": "guide.md",
            "title": "Kilns",
            "documents": 1,
            "chunks": 0,
            "size_bytes": None,
            "sha256": "",
            "origin": "folder",
            "uploaded_at": None,
            "stale": None,
        }
        # The job follows its folder and the uploads.
        (docs / "guide.md").write_text("# Kilns of today\n\nThe kiln opens twice.", "utf-8")
        run_job(docs)
        assert {s: listed["title"] for s, listed in service.sources().items()} == everything | {
            "guide.md": "Kilns of today"
        }
        # A file that can no longer be read keeps its documents.
        (docs / "guide.md").rename(tmp_path / "guide.md")
        (docs / "guide.md").symlink_to("nowhere")
        stale = {"source": "guide.md", "reason": "broken symbolic link", "stale": True}
        assert service.reindex()["result"]["skipped"] == [stale]
        assert service.sources()["guide.md"]["stale"] == "broken symbolic link"
        assert service.http.get("/v1/indexes/default/skipped").json() == {"skipped": [stale], "next": None}
        # An upload does not read the folder, which may be gone; re-indexing does.
        (docs / "guide.md").unlink()
        assert service.upload({"more.txt": "A door for the kiln."})["state"] == "succeeded"
        assert "guide.md" in service.sources()
        assert service.reindex()["state"] == "succeeded"
        assert list(service.sources()) == ["docs/uploads/guide.md", "uploads/guide.md", "uploads/more.txt"]
        service.delete("uploads/guide.md")
        service.delete("uploads/more.txt")
        (docs / "uploads" / "guide.md").rename(tmp_path / "old.md")
        (docs / "new.md").write_text("Water is not for pots.", "utf-8")
        unconfirmed = service.reindex()
        assert (unconfirmed["state"], unconfirmed["error"]["code"]) == ("failed", "removal_not_confirmed")
        assert "This would remove 1 of 1 documents: docs/uploads/guide.md" in unconfirmed["error"]["message"]
        (tmp_path / "old.md").rename(docs / "uploads" / "guide.md")
        (docs / "new.md").unlink()
        docs.rename(tmp_path / "elsewhere")
        failed = service.reindex()
        assert (failed["state"], failed["error"]["code"]) == ("failed", "source_not_found")
        assert failed["error"]["message"] == "docs: no such file or folder"
        refused = service.http.delete(f"{service.documents}/docs/uploads/guide.md")
        assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (403, "not_uploaded", "source")
        # The folder's document stays, even without any upload.
        assert list(service.sources()) == ["docs/uploads/guide.md"]


def test_another_embedder_rebuilds_everything_or_says_what_is_missing(
    start: Start, tmp_path: Path, root: Path, embedder: LoopbackEmbedder, make_settings: Callable[..., IngestSettings]
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "guide.md").write_text(GUIDE, "utf-8")
    with start() as service:
        asyncio.run(pipeline.run(make_settings(), [docs]))
        embedder.fingerprint = OTHER_FINGERPRINT
        assert service.upload({"glaze.txt": GLAZE})["state"] == "succeeded"
        assert list(service.sources()) == ["guide.md", "uploads/glaze.txt"]
        (root / "default" / "sources.json").unlink()
        embedder.fingerprint = "third@sha256:" + "3" * 64
        failed = service.upload({"more.txt": "A door for the kiln."})
        assert failed["error"]["code"] == "unknown_folders"
        assert "set INGEST_SOURCES" in failed["error"]["message"]
    with start(sources=docs) as service:
        assert service.sources()["uploads/more.txt"]["documents"] == 0
        assert service.reindex()["state"] == "succeeded"
        assert list(service.sources()) == ["guide.md", "uploads/glaze.txt", "uploads/more.txt"]


# Deleting


def words_in(folder: Path, word: bytes) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and word in path.read_bytes().lower()]


def test_a_deleted_file_is_gone_from_every_part(service: RunningIngest, root: Path, embedder: LoopbackEmbedder) -> None:
    embedder.whole = True
    index = root / "default"
    secret = {"secret.md": "# Zanzibar\n\nThe xylophone is in the kiln.", "plain.txt": GLAZE}
    before = service.upload(secret)["result"]["version"]
    assert {path.split("/")[len(index.parts)] for path in words_in(index / before, b"xylophone")}
    task = service.delete("uploads/secret.md")
    assert task["state"] == "succeeded"
    version = task["result"]["version"]
    assert version != before
    parts = ("manifest", "documents", "chunks", "metadata", "dense", "store", "lexical", "sparse", "multi_vector")
    assert task["result"]["absence"] == {**dict.fromkeys(parts, 0), "version": version, "kept_in": [before]}
    assert list(service.sources()) == ["uploads/plain.txt"]
    for word in (b"xylophone", b"zanzibar", b"secret.md"):
        assert words_in(index / version, word) == []
        assert words_in(index / "uploads", word) == []
    # Again with earlier versions; then the very last document.
    service.upload(secret)
    task = service.delete("uploads/secret.md", purge="true")
    assert task["result"]["absence"]["kept_in"] == []
    assert IndexRoot(root, "default").versions() == [task["result"]["version"]]
    assert words_in(index, b"xylophone") == []
    task = service.delete("uploads/plain.txt")
    assert task["state"] == "succeeded"
    assert service.http.get(service.documents).json() == {
        "documents": [],
        "next": None,
        "version": task["result"]["version"],
    }
    assert service.upload({"guide.md": GUIDE})["state"] == "succeeded"


def test_impossible_deletions_are_refused(shared: RunningIngest) -> None:
    for source in ("uploads/none.md", "none.md", "..%2Fcurrent", "uploads/..%2F..%2Fcurrent"):
        refused = shared.http.delete(f"{shared.documents}/{source}")
        assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (404, "not_found", "source")
    assert shared.http.delete(f"{shared.documents}/uploads/x.md?purge=perhaps").status_code == 400


# Tasks that are cancelled, fail, or outlive the service


def test_a_task_can_be_cancelled_while_it_waits_and_while_it_runs(
    service: RunningIngest, embedder: LoopbackEmbedder, root: Path
) -> None:
    running = held(service, embedder, {"guide.md": GUIDE})
    waiting = service.post({"glaze.txt": GLAZE}).json()["id"]
    other = service.post({"shelf.txt": "A shelf for pots."}).json()["id"]
    assert service.http.delete(f"/v1/tasks/{waiting}").json()["state"] == "cancelled"
    embedder.pass_new()
    cancelled = service.http.delete(f"/v1/tasks/{running}").json()
    assert (cancelled["state"], cancelled["result"], cancelled["progress"]["stage"]) == ("cancelled", None, "done")
    embedder.release()
    assert service.events(other)[-1]["state"] == "succeeded"
    assert list(service.sources()) == ["uploads/shelf.txt"]
    until(lambda: service.leftovers() == [])
    refused = service.http.delete(f"/v1/tasks/{running}")
    assert (refused.status_code, refused.json()["code"]) == (409, "task_ended")
    assert "cancelled already" in refused.json()["error"]


def test_without_the_embedder_a_task_waits_then_fails_and_nothing_is_lost(
    start: Start, embedder: LoopbackEmbedder
) -> None:
    with start(embed_attempts=4, retry_wait_s=0.3) as service:
        service.upload({"glaze.txt": GLAZE})
        version = service.http.get(service.documents).json()["version"]
        embedder.fault = "unavailable"
        task_id = held(service, embedder, {"guide.md": GUIDE})
        embedder.pass_new()

        def go_on(_: dict[str, Any]) -> bool:
            """Releases the embedder once a client follows: the first wait is short."""
            embedder.release()
            return False

        events = service.events(task_id, seen=go_on)
        waits = [task["progress"] for task in events if task["progress"]["stage"] == "waiting"]
        assert waits
        assert "Retrying in 0." in waits[0]["reason"]
        assert (events[-1]["state"], events[-1]["error"]["code"]) == ("failed", "embedder_failed")
        assert "failed 4 times" in events[-1]["error"]["message"]
        assert events[-1]["progress"]["reason"] is None
        assert service.http.get(service.documents).json()["version"] == version
        assert service.sources()["uploads/guide.md"]["documents"] == 0
        embedder.fault = None
        assert service.reindex()["result"]["documents"] == 2
        assert service.sources()["uploads/guide.md"]["documents"] == 1


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_task_survives_the_end_of_the_service(
    start: Start, embedder: LoopbackEmbedder, root: Path, end: signal.Signals
) -> None:
    with start() as service:
        running = held(service, embedder, {"guide.md": GUIDE})
        waiting = service.post({"glaze.txt": GLAZE}).json()["id"]
        listening = threading.Event()

        def heard(_: dict[str, Any]) -> bool:
            listening.set()
            return False

        listener = threading.Thread(target=service.events, args=(running, None, heard), daemon=True)
        if end is signal.SIGTERM:
            listener.start()
            assert listening.wait(30)
        service.process.send_signal(end)
        service.process.wait(60)
        if end is signal.SIGTERM:
            listener.join(30)
            assert not listener.is_alive()
    embedder.pass_new()
    embedder.release()
    (root / "default" / "uploads" / ".incoming-0123").mkdir()
    with start() as service:
        for task_id in (running, waiting):
            task = service.events(task_id)[-1]
            assert (task["state"], task["result"]["documents"]) == ("succeeded", 1)
        assert list(service.sources()) == ["uploads/glaze.txt", "uploads/guide.md"]
        until(lambda: service.leftovers() == [])


def test_a_second_service_takes_over_when_the_first_ends(start: Start, embedder: LoopbackEmbedder) -> None:
    with start() as first:
        task_id = held(first, embedder, {"guide.md": GUIDE})
        with start() as second, ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(second.http.get, f"/v1/tasks/{task_id}")
            embedder.pass_new()
            first.process.terminate()
            first.process.wait(60)
            embedder.release()
            assert waiting.result().json()["id"] == task_id
            assert second.events(task_id)[-1]["state"] == "succeeded"


# Refused requests and files


def pdf(text: str, **options: object) -> bytes:
    stream = io.BytesIO()
    canvas = Canvas(stream, **options)
    canvas.drawString(50, 50, text)
    canvas.save()
    return stream.getvalue()


def nested_bomb(unpacked_bytes: int) -> bytes:
    """A PDF of some kilobytes, compressed twice, that unpacks to this size."""
    block, checksum = b" " * 1_000_000, 1
    packer = zlib.compressobj(9)
    first, further = (packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    count = unpacked_bytes // len(block)
    for _ in range(count):
        checksum = zlib.adler32(block, checksum)
    once = first + further * (count - 1) + b"\x03\x00" + checksum.to_bytes(4, "big")
    return pdf_of(zlib.compress(once, 9), b"/FlateDecode /FlateDecode")


def test_unusable_files_are_skipped_and_the_others_indexed(shared: RunningIngest) -> None:
    bomb = nested_bomb(300_000_000)
    assert len(bomb) < 42_000
    task = shared.upload(
        {
            "good.pdf": pdf("The kiln opens at first light."),
            "locked.pdf": pdf("Words.", encrypt=StandardEncryption("secret", strength=128)),
            "broken.pdf": pdf("Words.")[:300],
            "bomb.pdf": bomb,
            "empty.md": b"",
            "fake.json": "nothing",
            "letter.txt": "Grüße aus Köln".encode("cp1252"),
        }
    )
    assert task["state"] == "succeeded"
    assert task["result"]["documents"] == 2
    assert task["result"]["notices"] == [
        {"source": "uploads/letter.txt", "text": "not UTF-8: read as Windows-1252 (cp1252)"}
    ]
    reasons = {skipped["source"]: skipped["reason"] for skipped in task["result"]["skipped"]}
    assert reasons["uploads/locked.pdf"] == "encrypted: needs a password"
    assert reasons["uploads/broken.pdf"].startswith("broken PDF: ")
    assert reasons["uploads/bomb.pdf"].startswith("holds no text")
    assert reasons["uploads/empty.md"] == "empty"
    assert reasons["uploads/fake.json"].startswith("invalid JSON")
    assert list(shared.sources()) == ["uploads/good.pdf", "uploads/letter.txt"]
    # An upload with only unusable files fails, with the same reasons.
    for _ in range(2):
        task = shared.upload({"locked.pdf": pdf("Words.", encrypt=StandardEncryption("secret", strength=128))})
        assert (task["state"], task["error"]["code"]) == ("failed", "nothing_usable")
        assert "uploads/locked.pdf: encrypted: needs a password" in task["error"]["message"]
        assert task["result"]["skipped"] == [
            {"source": "uploads/locked.pdf", "reason": "encrypted: needs a password", "stale": False}
        ]
    assert list(shared.sources()) == ["uploads/good.pdf", "uploads/letter.txt"]


def test_nothing_usable_in_an_index_that_does_not_exist_yet(shared: RunningIngest) -> None:
    task = shared.upload({"empty.md": " "})
    assert (task["state"], task["error"]["code"], task["result"]["version"]) == ("failed", "nothing_usable", None)
    assert task["result"]["skipped"] == [{"source": "uploads/empty.md", "reason": "empty", "stale": False}]
    assert shared.http.get(shared.documents).json() == {"documents": [], "next": None, "version": None}


SMALL = {"max_upload_file_bytes": 2_000, "max_upload_files": 3, "max_uploads": 4, "max_uploads_bytes": 5_000}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, tokenizer_path: Path) -> Iterator[RunningIngest]:
    """A service with small limits, and room for three more uploads in its index."""
    root = tmp_path_factory.mktemp("strict") / "indexes"
    with LoopbackEmbedder() as embedder, running_ingest(root, embedder.url, tokenizer_path, **SMALL) as service:
        assert service.upload({"guide.md": GUIDE})["state"] == "succeeded"
        yield service


@pytest.mark.parametrize(
    ("files", "status", "code", "said"),
    [
        ({}, 400, "invalid_request", "send multipart/form-data"),
        (
            {"report.pages": "x"},
            400,
            "unsupported_file",
            "'report.pages': files ending in .pages are not read here. Send one of .csv",
        ),
        ({"Makefile": "x"}, 400, "unsupported_file", "'Makefile': files without a suffix are not read here"),
        ({"..": "x"}, 400, "unsupported_file", "'..': files without a suffix"),
        ({"\u202e\u200b.md": "x"}, 400, "unsupported_file", "'.md': files without a suffix"),
        ({"fake.pdf": "<html>"}, 400, "unsupported_file", "'fake.pdf' is not a PDF"),
        ({"image.txt": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"}, 400, "unsupported_file", "'image.txt' is binary, not text"),
        ({"a.md": "x", "A.MD": "y"}, 400, "unsupported_file", "'A.MD': the request has two files of this name"),
        ({f"{n}.md": "x" for n in range(4)}, 400, "too_many_files", "More than 3 files in one request"),
        ({"large.md": "x" * 2_001}, 413, "file_too_large", "'large.md' is larger than 2,000 bytes"),
        ({f"{n}.md": "x" * 1_900 for n in range(3)}, 409, "index_full", "more than 5,000: delete some first"),
    ],
)
def test_bad_uploads_are_refused_whole(strict: RunningIngest, files: Files, status: int, code: str, said: str) -> None:
    refused = strict.post(files)
    assert (refused.status_code, refused.json()["code"]) == (status, code), refused.text
    assert said in refused.json()["error"]
    assert refused.json()["field"] in ("files", "content-type")
    assert refused.headers["x-request-id"]
    assert strict.leftovers() == []
    assert list(strict.sources()) == ["uploads/guide.md"]


BOUNDARY = {"content-type": "multipart/form-data; boundary=b"}


@pytest.mark.parametrize(
    ("headers", "body", "said"),
    [
        ({"content-type": "application/json"}, b"{}", "The content type is application/json"),
        ({"content-type": "multipart/form-data"}, b"", "The content type is multipart/form-data: send"),
        ({"content-type": f"multipart/form-data; boundary={'b' * 300}"}, b"", "The form cannot be read"),
        (BOUNDARY, b"", "The form ends too early"),
        (BOUNDARY, b"nonsense", "The form cannot be read"),
        (BOUNDARY, b"--b\r\n" + b"x" * 100_000, "The form cannot be read"),
        (
            BOUNDARY,
            b'--b\r\ncontent-disposition: form-data; name="files"; filename="a.md"\r\n\r\nhalf',
            "ends too early",
        ),
        (
            BOUNDARY,
            b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.md"\r\n\r\nx\r\n--b--\r\n',
            "must be in the form field",
        ),
        (BOUNDARY, b'--b\r\ncontent-disposition: form-data; name="files"\r\n\r\ntext\r\n--b--\r\n', "No file was sent"),
    ],
)
def test_bodies_that_are_not_an_upload(strict: RunningIngest, headers: dict[str, str], body: bytes, said: str) -> None:
    refused = strict.http.post(strict.documents, content=body, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_request")
    assert said in refused.json()["error"]
    assert strict.leftovers() == []


@pytest.mark.parametrize(
    ("method", "path", "status", "field"),
    [
        ("GET", "/v1/indexes/other/documents", 404, "name"),
        ("POST", "/v1/indexes/other/reindex", 404, "name"),
        ("GET", "/v1/tasks?index=other", 404, "name"),
        ("GET", "/v1/tasks/none", 404, "task_id"),
        ("GET", "/v1/tasks/none/events", 404, "task_id"),
        ("DELETE", "/v1/tasks/none", 404, "task_id"),
        ("GET", "/v1/indexes/default/documents?limit=0", 400, "query.limit"),
        ("GET", "/v1/tasks?limit=many", 400, "query.limit"),
    ],
)
def test_unknown_names_are_refused(strict: RunningIngest, method: str, path: str, status: int, field: str) -> None:
    refused = strict.http.request(method, path)
    assert refused.status_code == status
    assert refused.json()["field"] == field
    assert set(refused.json()) == {"error", "code", "field"}


def test_limits_are_listed(strict: RunningIngest) -> None:
    limits = strict.http.get("/v1/limits").json()
    assert limits["max_file_bytes"] == 2_000
    assert limits["max_files"] == 3
    assert limits["max_request_bytes"] == 128 * 1024**2
    assert {".md", ".pdf", ".csv"} <= set(limits["types"])


def test_names_are_kept_except_for_unsafe_parts(shared: RunningIngest) -> None:
    names = {
        "../../etc/cron.md": "cron.md",
        "C:\\Users\\me\\Résumé 1.txt": "Résumé 1.txt",
        "<img src=x onerror=alert(1)>.md": "<img src=x onerror=alert(1)>.md",
        ".hidden.md": "hidden.md",
    }
    task = shared.upload({sent: f"{GLAZE} {number}" for number, sent in enumerate(names)})
    assert task["state"] == "succeeded", task
    assert set(shared.sources()) == {f"uploads/{kept}" for kept in names.values()}
    assert {path.name for path in (shared.root / shared.index / "uploads").iterdir()} == set(names.values())
    for kept in names.values():
        assert shared.delete("uploads/" + httpx.URL(path=f"/{kept}").raw_path.decode()[1:])["state"] == "succeeded"


def raw(service: RunningIngest, head: str) -> socket.socket:
    """A connection with the beginning of a request."""
    connection = socket.create_connection(("127.0.0.1", service.http.base_url.port or 0), timeout=30)
    connection.sendall(f"POST {service.documents} HTTP/1.1\r\nhost: 127.0.0.1\r\n{head}\r\n\r\n".encode())
    return connection


def read(connection: socket.socket) -> str:
    """A whole response."""
    response = HTTPResponse(connection)
    response.begin()
    return f"HTTP/1.1 {response.status} {response.read().decode()}"


PART = b'--b\r\ncontent-disposition: form-data; name="files"; filename="%b"\r\n\r\n'


def test_two_hundred_megabytes_are_refused_before_they_are_read(shared: RunningIngest) -> None:
    with raw(shared, f"content-type: multipart/form-data; boundary=b\r\ncontent-length: {200 * 1024**2}") as connection:
        answer = read(connection)
    assert answer.startswith("HTTP/1.1 413 ")
    assert "larger than 134217728 bytes" in answer
    assert shared.leftovers() == []


@pytest.mark.parametrize(("files", "code"), [(1, "file_too_large"), (4, "payload_too_large")])
def test_two_hundred_megabytes_of_unknown_length_do_not_fill_the_memory(
    shared: RunningIngest, files: int, code: str
) -> None:
    shared.upload({"guide.md": GUIDE})
    before = shared.memory_bytes()

    def body() -> Iterator[bytes]:
        for number in range(files):
            yield PART % f"{number}.txt".encode()
            yield from (b"words and " * 100_000 for _ in range(200 // files))
            yield b"\r\n"
        yield b"--b--\r\n"

    refused = shared.http.post(shared.documents, content=body(), headers=BOUNDARY)
    assert (refused.status_code, refused.json()["code"]) == (413, code)
    limit = "'0.txt' is larger than 67,108,864 bytes" if files == 1 else "larger than 134217728 bytes"
    assert limit in refused.json()["error"]
    assert shared.memory_bytes() - before < 32 * 1024**2
    assert shared.leftovers() == []
    assert list(shared.sources()) == ["uploads/guide.md"]


def test_a_connection_that_breaks_leaves_nothing(shared: RunningIngest) -> None:
    for head in ("content-length: 1000000", "transfer-encoding: chunked"):
        with raw(shared, f"content-type: multipart/form-data; boundary=b\r\n{head}") as connection:
            part = PART % b"guide.md" + b"word " * 1_000
            connection.sendall(part if "length" in head else b"%x\r\n%b\r\n" % (len(part), part))
            until(lambda: len(shared.leftovers()) == 1)
        until(lambda: shared.leftovers() == [])
    assert shared.http.get(f"/v1/tasks?index={shared.index}").json() == {"tasks": []}


def test_a_silent_connection_times_out(start: Start) -> None:
    with start(timeout_s=0.5) as service:
        # Requests also time out while the tasks are being read.
        until(lambda: service.http.get("/v1/limits").status_code == 200)
        with raw(service, "content-type: multipart/form-data; boundary=b\r\ncontent-length: 1000") as connection:
            connection.sendall(PART % b"guide.md")
            answer = read(connection)
        assert answer.startswith("HTTP/1.1 400 ")
        assert "Nothing more of the upload arrived within 0.5 s" in answer
        assert service.leftovers() == []


def test_a_token_is_required_if_one_is_set(start: Start) -> None:
    token = secrets.token_hex()
    with start(token=token) as service:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {token}"}):
            for method, path in (("GET", "/v1/limits"), ("POST", service.documents), ("GET", "/v1/tasks/none/events")):
                refused = service.http.request(method, path, headers=headers)
                assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
                assert refused.headers["www-authenticate"] == "Bearer"
        assert service.http.get("/live").status_code == 200
        service.http.headers["authorization"] = f"Bearer {token}"
        assert service.upload({"guide.md": GUIDE})["state"] == "succeeded"
        assert token not in service.log.read_text("utf-8")


def test_a_page_of_another_site_changes_nothing(service: RunningIngest) -> None:
    for headers in (
        {"sec-fetch-site": "cross-site"},
        {"origin": "https://elsewhere.example"},
        {"origin": "null"},
        {"origin": "http://["},
    ):
        for method, path in (
            ("POST", service.documents),
            ("POST", f"{service.path}/reindex"),
            ("DELETE", f"{service.documents}/uploads/guide.md"),
            ("DELETE", "/v1/tasks/none"),
        ):
            refused = service.http.request(method, path, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert not service.http.get("/v1/tasks", params={"index": service.index}).json()["tasks"]


# Operation


def test_each_index_has_its_own_uploads(start: Start) -> None:
    with start(collections="handbook") as service:
        other = dataclasses.replace(service, index="handbook")
        assert service.upload({"guide.md": GUIDE})["index"] == "default"
        assert other.upload({"glaze.txt": GLAZE})["index"] == "handbook"
        assert list(service.sources()) == ["uploads/guide.md"]
        assert list(other.sources()) == ["uploads/glaze.txt"]


def test_metrics_are_as_declared(service: RunningIngest) -> None:
    service.upload({"guide.md": GUIDE})
    service.upload({"empty.md": ""})
    # A task ends a moment before it is counted as ended.
    unfinished = 'kserve_rag_ingest_tasks_unfinished{kind="upload"} 0.0'
    until(lambda: unfinished in service.http.get("/metrics").text)
    families = {f.name: f for f in text_string_to_metric_families(service.http.get("/metrics").text)}
    told: dict[str, dict[tuple[str, ...], float]] = {}
    for metric in (INGEST_TASKS, INGEST_WAITING, INGEST_DOCUMENTS, INGEST_BYTES):
        family = families[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        told[metric.name] = {
            tuple(sample.labels[label] for label in metric.labels): sample.value
            for sample in family.samples
            if not sample.name.endswith("_created")
        }
    assert told == {
        "kserve_rag_ingest_tasks_total": {("upload", "succeeded"): 1, ("upload", "failed"): 1},
        "kserve_rag_ingest_tasks_unfinished": {("upload",): 0},
        "kserve_rag_ingest_documents_total": {(): 1},
        "kserve_rag_ingest_uploaded_bytes_total": {(): len(GUIDE)},
    }


def test_its_description_needs_no_running_service(shared: RunningIngest) -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "ingest.server", "--openapi"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("INGEST_")},
        check=True,
        capture_output=True,
        timeout=60,
    )
    described = json.loads(printed.stdout)
    served = shared.http.get("/openapi.json").json()
    health = {"/ready", "/live", "/metrics"}
    assert described["paths"] == {path: item for path, item in served["paths"].items() if path not in health}
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (path, method)
            assert operation["description"], (path, method)
            assert "401" in operation["responses"], (path, method)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"INGEST_TOKEN": ""}, "INGEST_TOKEN: "),
        ({"INGEST_COLLECTIONS": "a,../b"}, "INGEST_COLLECTIONS: "),
        ({"INGEST_CHUNK_TOKENS": "400"}, "Chunks of 400 tokens do not fit"),
        ({"INGEST_INDEX_ROOT": "/proc/nowhere"}, "/proc/nowhere/.ingest cannot be written"),
    ],
)
def test_wrong_settings_stop_the_service_at_once(tmp_path: Path, settings: dict[str, str], said: str) -> None:
    environment = {**os.environ, "INGEST_INDEX_ROOT": str(tmp_path), "INGEST_TOKENIZER": "/none.json", **settings}
    ended = subprocess.run(
        [sys.executable, "-m", "ingest.server"],
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    assert said in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr + ended.stdout


def test_every_setting_is_described() -> None:
    assert all(field.description for field in IngestServerSettings.model_fields.values())


def test_it_is_not_ready_without_a_tokenizer(root: Path, embedder: LoopbackEmbedder, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.touch()
    with running_ingest(root, embedder.url, tokenizer) as service:
        tokenizer.unlink()
        refused = service.http.get("/ready")
        assert refused.status_code == 503
        assert "INGEST_TOKENIZER" in refused.json()["error"]


def test_unreadable_tasks_are_reported(start: Start, root: Path) -> None:
    (root / ".ingest").mkdir(parents=True)
    (root / ".ingest" / "tasks.sqlite").write_bytes(b"no database" * 100)
    with start(broken=True) as service:
        until(lambda: service.http.get("/ready").status_code == 503)
        for method, path in (("GET", "/ready"), ("GET", "/v1/tasks"), ("POST", f"{service.path}/reindex")):
            refused = service.http.request(method, path)
            assert refused.status_code == 503
            assert "The tasks of this service cannot be read" in refused.json()["error"]
        assert "file is not a database" in service.log.read_text("utf-8")


def test_the_queue_has_a_limit(service: RunningIngest, embedder: LoopbackEmbedder) -> None:
    running = held(service, embedder, {"guide.md": GUIDE})
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: service.http.post(f"{service.path}/reindex").status_code, range(1_010)))
    # Requests at the same moment as the last one are accepted too.
    assert 999 <= statuses.count(202) < 999 + 8
    refused = service.post({"more.md": GUIDE})
    assert (refused.status_code, refused.json()["code"]) == (429, "busy")
    assert refused.headers["retry-after"] == "10"
    embedder.pass_new()
    embedder.release()
    assert service.events(running)[-1]["state"] == "succeeded"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("/srv/my files/docs: no such file or folder", "docs: no such file or folder"),
        ("No files to read in /srv/a, ./b/c, s3:bucket/d", "No files to read in a, ./b/c, s3:bucket/d"),
        (
            "cannot be written: [Errno 28] No space left: '/srv/i/default/x'",
            "cannot be written: [Errno 28] No space left: 'x'",
        ),
        ("https://example.com/a/b and a/b", "https://example.com/a/b and a/b"),
    ],
)
def test_errors_of_tasks_hold_no_absolute_path(message: str, told: str) -> None:
    assert task_error(IngestError(message)).message == told
