"""Micro-batches: items that arrive while a batch runs form the next one."""

from __future__ import annotations

import asyncio
import threading

import pytest

from vectorstore.search.batching import MicroBatcher


async def test_items_that_arrive_during_a_batch_form_the_next() -> None:
    batches: list[list[int]] = []
    running, go_on = threading.Event(), threading.Event()

    def work(items: list[int]) -> list[int]:
        batches.append(items)
        running.set()
        assert go_on.wait(10)
        return [item * 10 for item in items]

    batcher = MicroBatcher(work, max_items=5, name="test")
    first = asyncio.create_task(batcher.submit([1]))
    await asyncio.to_thread(running.wait)
    others = [asyncio.create_task(batcher.submit(items)) for items in ([2, 3], [4], [5, 6, 7])]
    left = asyncio.create_task(batcher.submit([8]))
    await asyncio.sleep(0)
    left.cancel()
    go_on.set()
    assert await first == [10]
    assert [await other for other in others] == [[20, 30], [40], [50, 60, 70]]
    assert batches == [[1], [2, 3, 4], [5, 6, 7]]
    assert await batcher.submit([9] * 20) == [90] * 20  # one caller's list is never split
    batcher.close()


async def test_an_error_reaches_its_batch_only() -> None:
    def work(items: list[int]) -> list[int]:
        if 0 in items:
            raise ValueError("no zeros")
        return items

    batcher = MicroBatcher(work, max_items=100, name="test")
    with pytest.raises(ValueError, match="no zeros"):
        await batcher.submit([0])
    assert await batcher.submit([1, 2]) == [1, 2]
    batcher.close()
