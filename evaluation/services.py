"""Client of the services under evaluation."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import ValidationError

from chassis.context import CallContext
from chassis.errors import BadUpstreamError
from chassis.http import HttpUpstream
from transformer.wire import Answer
from vectorstore.client import VectorstoreClient
from vectorstore.wire import Prediction, SearchInstance

OnProgress = Callable[[str, int, int], None]
"""Called with (task, done, total) in the event loop; must not block."""


def no_progress(task: str, done: int, of: int) -> None:
    """Shows no progress."""


QUERIES_PER_REQUEST = 16
CONCURRENCY = 4
"""Concurrent requests: enough for two cores, too few for any to miss its deadline in the queue."""

TIMEOUT_S = 180
"""Deadline of a request, and of a dataset's own transformer: on a busy machine an answer takes long."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Services:
    """Client of a vectorstore and optionally a transformer. An asynchronous context manager.

    All methods raise `ServiceError` if a service fails or cannot be reached.
    """

    def __init__(self, vectorstore_url: str, transformer_url: str | None = None, *, model: str = "rag") -> None:
        self._vectorstore = VectorstoreClient(vectorstore_url)
        self._transformer = HttpUpstream(transformer_url, name="transformer") if transformer_url else None
        self._path = f"/v2/models/{quote(model, safe='')}/generate"

    async def __aenter__(self) -> Services:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._vectorstore.aclose()
        if self._transformer is not None:
            await self._transformer.aclose()

    @property
    def has_transformer(self) -> bool:
        """Whether there is a transformer."""
        return self._transformer is not None

    async def index(self) -> dict[str, Any]:
        """Description of the served index: name, version, documents, chunks, embedder."""
        status = await self._vectorstore.indexes(CallContext.start(TIMEOUT_S))
        if status.index is None:
            raise BadUpstreamError(f"The vectorstore serves no index: {status.reason}")
        return status.index.model_dump()

    async def search(self, instances: Sequence[SearchInstance], on_progress: OnProgress, task: str) -> list[Prediction]:
        """Predictions for the instances, in order."""
        step, count = QUERIES_PER_REQUEST, len(instances)

        async def ask(start: int) -> list[Prediction]:
            return await self._vectorstore.search(list(instances[start : start + step]), CallContext.start(TIMEOUT_S))

        found = await _each(ask, range(0, count, step), lambda done: on_progress(task, min(done * step, count), count))
        return [prediction for batch in found for prediction in batch]

    async def generate(self, bodies: Sequence[dict[str, Any]], on_progress: OnProgress, task: str) -> list[Answer]:
        """Answers to `bodies` (JSON of `transformer.wire.GenerateRequest`), in order."""
        transformer = self._transformer
        if transformer is None:
            raise AssertionError("there is no transformer")

        async def ask(body: dict[str, Any]) -> Answer:
            found = await transformer.post_json(self._path, body, CallContext.start(TIMEOUT_S))
            try:
                return Answer.model_validate(found)
            except ValidationError as error:
                raise BadUpstreamError("The transformer's response is not an answer.") from error

        return await _each(ask, bodies, lambda done: on_progress(task, done, len(bodies)))

    async def text(self, document_id: str, version: str | None) -> str:
        """A stored document's text."""
        found = await self._vectorstore.document(document_id, CallContext.start(TIMEOUT_S), version=version)
        return str(found["text"])


async def _each(
    ask: Callable[[_Item], Awaitable[_Result]], items: Sequence[_Item], report: Callable[[int], None]
) -> list[_Result]:
    """Results for all items, in order, `CONCURRENCY` at a time; the first failure cancels the rest."""
    free, done = asyncio.Semaphore(CONCURRENCY), itertools.count(1)

    async def work(item: _Item) -> _Result:
        async with free:
            result = await ask(item)
        report(next(done))
        return result

    tasks = [asyncio.create_task(work(item)) for item in items]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
