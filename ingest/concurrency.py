"""File locks, groups of tasks, and work that must complete despite cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import IO, Any, TypeVar

_Result = TypeVar("_Result")

_RETRY_LOCK_S = 0.2


def open_lock(path: Path) -> IO[str]:
    """Opens a lock file. Creates it and its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("w")


@contextlib.asynccontextmanager
async def locked(lock: IO[str], on_wait: Callable[[], None]) -> AsyncIterator[None]:
    """Holds an inter-process lock, then closes its file. Calls `on_wait` once if it has to wait."""
    with lock:
        waits = False
        while not _try_lock(lock):
            if not waits:
                on_wait()
            waits = True
            await asyncio.sleep(_RETRY_LOCK_S)
        yield


def _try_lock(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def shield_to_completion(work: Awaitable[_Result]) -> _Result:
    """The result of `work`. A cancellation of the caller is raised only after `work` has finished."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):  # further cancellations
                await asyncio.wait([task])
        raise


async def finish_in_thread(work: Callable[[], _Result]) -> _Result:
    """Runs blocking `work` in a thread. A cancelled caller waits until it has finished."""
    return await shield_to_completion(asyncio.to_thread(work))


async def run_together(*works: Coroutine[Any, Any, None]) -> None:
    """Runs all until they end or one fails; then cancels the others and waits for them."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def first_of(*events: asyncio.Event) -> None:
    """Waits until one of the events is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
