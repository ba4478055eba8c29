"""Runs blocking work of many callers in batches, outside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class MicroBatcher(Generic[ItemT, ResultT]):
    """Runs a function on lists of items, in one thread. Items that arrive while it runs form the next list.

    There is no timer, so a single caller never waits. Use it from one event loop.
    """

    def __init__(self, function: Callable[[list[ItemT]], list[ResultT]], *, max_items: int, name: str) -> None:
        self._function = function
        self._max_items = max_items
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._waiting: list[tuple[Sequence[ItemT], asyncio.Future[list[ResultT]]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, items: Sequence[ItemT]) -> list[ResultT]:
        """The results of `items`, in order. If the function fails, all callers with items in its list get the error."""
        future: asyncio.Future[list[ResultT]] = asyncio.get_running_loop().create_future()
        self._waiting.append((items, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    def close(self) -> None:
        """Stops the thread. Nothing may be submitted afterwards."""
        self._executor.shutdown(wait=False)
        # Breaks the reference cycle with the function's owner, so that mapped files are released at once.
        self._function = _ended

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._take()
            # Skip callers that were cancelled meanwhile.
            batch = [(items, future) for items, future in batch if not future.done()]
            if not batch:
                continue
            everything = [item for items, _ in batch for item in items]
            try:
                results = await loop.run_in_executor(self._executor, self._function, everything)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            start = 0
            for items, future in batch:
                if not future.done():
                    future.set_result(results[start : start + len(items)])
                start += len(items)

    def _take(self) -> list[tuple[Sequence[ItemT], asyncio.Future[list[ResultT]]]]:
        """Removes and returns the first callers, at least one, whose items fit into one list."""
        size = end = 0
        for items, _ in self._waiting:
            size += len(items)
            if end and size > self._max_items:
                break
            end += 1
        batch, self._waiting = self._waiting[:end], self._waiting[end:]
        return batch


def _ended(_items: list[Any]) -> list[Any]:
    raise RuntimeError("The batcher is closed.")
