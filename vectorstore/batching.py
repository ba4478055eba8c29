"""Blocking work for many callers, a batch at a time, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class MicroBatcher(Generic[ItemT, ResultT]):
    """Runs a function over lists in one thread; what arrives while it runs becomes the next list.

    Nothing waits for a timer, and a single caller waits for nobody. Use it from one event loop.
    """

    def __init__(self, function: Callable[[list[ItemT]], list[ResultT]], *, max_items: int, name: str) -> None:
        self._function = function
        self._max_items = max_items
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._waiting: list[tuple[Sequence[ItemT], asyncio.Future[list[ResultT]]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, items: Sequence[ItemT]) -> list[ResultT]:
        """The results of `items`, in their order; an error of the function's reaches everyone in its list."""
        future: asyncio.Future[list[ResultT]] = asyncio.get_running_loop().create_future()
        self._waiting.append((items, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    def close(self) -> None:
        """Ends the thread. Nothing may be submitted afterwards."""
        self._executor.shutdown(wait=False)
        # The function's owner owns this too: without it they, and what they map, need no garbage collection to go.
        self._function = _ended

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._take()
            # Who has left meanwhile is not computed for.
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
        """From the front as many as fit, but at least one."""
        size = end = 0
        for items, _ in self._waiting:
            size += len(items)
            if end and size > self._max_items:
                break
            end += 1
        batch, self._waiting = self._waiting[:end], self._waiting[end:]
        return batch


def _ended(_items: list[Any]) -> list[Any]:
    raise RuntimeError("The gatherer is closed.")
