"""Tasks of the service when clients disconnect, when tasks cannot be written, and when the service stops."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from ingest.errors import NoSpaceError
from ingest.service import IngestService
from ingest.settings import IngestServerSettings
from ingest.wire import FINAL, Task
from tests.fakes.embedder import LoopbackEmbedder
from tests.processes import until
from vectorstore.versions import IndexRoot

WITHIN_S = 30.0

Make = Callable[[], IngestService]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "indexes"


@pytest.fixture
def make(root: Path, embedder: LoopbackEmbedder, tokenizer_path: Path) -> Make:
    settings = IngestServerSettings(
        index_root=root,
        embedder_url=embedder.url,
        tokenizer=tokenizer_path,
        collections=("other", "third"),
        keep_versions=0,
    )
    return lambda: IngestService(settings)


@contextlib.asynccontextmanager
async def running(service: IngestService) -> AsyncIterator[IngestService]:
    async with service.running():
        await service.opened()
        yield service


async def upload(service: IngestService, name: str, text: str) -> Task:
    async def body() -> AsyncIterator[bytes]:
        head = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        yield f"{head}{text}\r\n--b--\r\n".encode()

    return await service.upload("default", "multipart/form-data; boundary=b", body(), None)


async def ended(service: IngestService, task: Task) -> Task:
    async def end() -> Task:
        last = task
        while last.state not in FINAL:
            last = [told async for _, told in service.queue.follow(task.id, None)][-1]
        return last

    return await asyncio.wait_for(end(), WITHIN_S)


async def reached(service: IngestService, task: Task, stage: str) -> None:
    async def reach() -> None:
        async for _, told in service.queue.follow(task.id, None):
            if told.progress.stage == stage:
                return

    await asyncio.wait_for(reach(), WITHIN_S)


async def held(service: IngestService, embedder: LoopbackEmbedder) -> Task:
    """A task whose run waits for the embedder until `release`."""
    embedder.hold()
    task = await upload(service, "held.md", "The kiln opens at first light.")
    assert await asyncio.to_thread(embedder.held.wait, WITHIN_S)
    embedder.pass_new()
    return task


@contextlib.contextmanager
def unwritable(root: Path) -> Iterator[None]:
    """Tasks cannot be written until the block ends: writers wait."""
    with contextlib.closing(sqlite3.connect(root / ".ingest" / "tasks.sqlite", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("ROLLBACK")


async def left(root: Path, call: Coroutine[Any, Any, Any]) -> None:
    """Runs a call whose client disconnects while it cannot be written."""
    with unwritable(root):
        asked = asyncio.create_task(call)
        await asyncio.wait([asked], timeout=0.1)
        asked.cancel()
        await asyncio.wait([asked], timeout=0.1)
    await asyncio.wait([asked])


async def test_a_task_runs_though_its_client_disconnects_while_it_is_written(make: Make, root: Path) -> None:
    async with running(make()) as service:
        await left(root, service.reindex("default", None, allow_removal=False))
        tasks = await service.tasks(None, None, 10)
        while not tasks:  # the write may still be running
            tasks = await service.tasks(None, None, 10)
        assert (await ended(service, tasks[0])).state in FINAL


async def test_a_queued_task_is_cancelled_though_the_client_disconnects(
    make: Make, root: Path, embedder: LoopbackEmbedder
) -> None:
    async with running(make()) as service:
        first = await held(service, embedder)
        queued = await upload(service, "queued.md", "Glaze is clay and water.")
        await left(root, service.queue.cancel(queued.id))
        assert (await ended(service, queued)).state == "cancelled"
        embedder.release()
        assert (await ended(service, first)).state == "succeeded"


async def test_a_cancellation_that_cannot_be_written_keeps_the_task_and_its_files(
    make: Make, root: Path, embedder: LoopbackEmbedder
) -> None:
    async with running(make()) as service:
        first = await held(service, embedder)
        queued = await upload(service, "queued.md", "Glaze is clay and water.")
        with contextlib.closing(sqlite3.connect(root / ".ingest" / "tasks.sqlite", isolation_level=None)) as database:
            database.execute("ALTER TABLE tasks RENAME TO away")
            with pytest.raises(NoSpaceError):
                await service.queue.cancel(queued.id)
            database.execute("ALTER TABLE away RENAME TO tasks")
        embedder.release()
        for task in (first, queued):
            last = await ended(service, task)
            assert (last.state, last.result and last.result.documents) == ("succeeded", 1)


async def test_a_task_that_waits_for_another_run_can_be_cancelled(make: Make, root: Path) -> None:
    index = IndexRoot(root, "default")
    async with running(make()) as service:
        for number in range(2):
            assert (await ended(service, await upload(service, f"{number}.md", f"Pot {number}."))).state == "succeeded"
        with (root / "default" / ".run").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            task = await upload(service, "late.md", "The wheel turns.")
            await reached(service, task, "waiting")
            index.set_current(index.versions()[0])
            cancelled = await asyncio.wait_for(service.queue.cancel(task.id), WITHIN_S)
        assert cancelled.state == "cancelled"


async def test_unusable_uploads_can_be_deleted_before_anything_is_published(make: Make, root: Path) -> None:
    uploads = root / "default" / "uploads"
    uploads.mkdir(parents=True)
    for name in ("a.pdf", "b.pdf"):  # as they are kept if the embedder was down
        (uploads / name).write_bytes(b"%PDF-1.4 nothing")
    async with running(make()) as service:
        for name in ("a.pdf", "b.pdf"):
            last = await ended(service, await service.delete("default", f"uploads/{name}", None, purge=None))
            assert (last.state, last.error) == ("succeeded", None)
            assert not (uploads / name).exists()


async def test_the_service_ends_after_the_work_on_all_indexes(make: Make, root: Path) -> None:
    async def live() -> None:
        async with running(service):
            begun.set()
            await may_end.wait()

    service, begun, may_end = make(), asyncio.Event(), asyncio.Event()
    life = asyncio.create_task(live())
    await begun.wait()
    (root / "default").mkdir(exist_ok=True)
    with (root / "default" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # needed to begin a version
        await upload(service, "guide.md", "The kiln opens at first light.")
        await asyncio.to_thread(until, lambda: is_waited_for(lock))
        may_end.set()
        await asyncio.wait([life], timeout=0.2)
        assert not life.done()
    await asyncio.wait_for(life, WITHIN_S)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def is_waited_for(lock: IO[str]) -> bool:
    """Whether a thread waits for this lock. Source: proc_locks(5)."""
    file = f":{os.fstat(lock.fileno()).st_ino} "
    return any("->" in line and file in line for line in Path("/proc/locks").read_text("ascii").splitlines())
