"""Vectors for texts: each asked of the embedder once, in batches, a bounded number of them at a time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from chassis.context import CallContext
from chassis.errors import ServiceError
from embedder.client import EmbedderClient
from embedder.wire import Embeddings
from ingest.errors import EmbeddingFailedError
from ingest.settings import IngestSettings

Vector = npt.NDArray[np.float32]
"""float32[dim]"""

_REMEMBERED = 1_024
"""Texts of this run whose vectors are kept for the next chunk that says the same."""
_LONGEST_WAIT_S = 30.0


class Embedding:
    """Gathers texts into batches and embeds them while the caller goes on."""

    def __init__(self, client: EmbedderClient, settings: IngestSettings) -> None:
        self._client = client
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._waiting: list[tuple[str, asyncio.Future[Vector]]] = []
        self._known: OrderedDict[str, asyncio.Future[Vector]] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self.fingerprint = ""
        self.dimension = 0
        self.embedded = 0
        """Texts that the embedder has answered."""
        self.truncated = 0
        """Texts of those that were longer than it reads."""

    async def connect(self) -> None:
        """Asks the embedder who it is. Embeds nothing.

        Raises:
            EmbeddingFailedError: it does not answer, after all attempts.
        """
        answer = await self._embed([])
        self.fingerprint = answer.fingerprint
        self.dimension = answer.dense.shape[1]

    async def request(self, key: str, text: str) -> asyncio.Future[Vector]:
        """The vector of `text`, soon. Waits while the embedder has enough to do.

        Args:
            key: names the text; a text of the same key may be answered with the vector of an earlier one.
            text: what to embed.
        """
        future = self._known.get(key)
        if future is not None:
            self._known.move_to_end(key)
            return future
        future = asyncio.get_running_loop().create_future()
        self._known[key] = future
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        self._waiting.append((text, future))
        if len(self._waiting) >= self._settings.batch_size:
            await self.flush()
        return future

    async def flush(self) -> None:
        """Sends what has been gathered, full batch or not."""
        batch, self._waiting = self._waiting, []
        if batch:
            await self._slots.acquire()
            task = asyncio.create_task(self._run(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Ends what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()
        self._known.clear()

    async def _run(self, batch: Sequence[tuple[str, asyncio.Future[Vector]]]) -> None:
        try:
            answer = await self._embed([text for text, _ in batch])
            if answer.fingerprint != self.fingerprint or answer.dense.shape[1] != self.dimension:
                raise EmbeddingFailedError(
                    f"The embedder was exchanged during the run ({self.fingerprint} became {answer.fingerprint}). "
                    "Run again."
                )
        except EmbeddingFailedError as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
                    # Read at once: only the first future of a failed run is waited for.
                    future.exception()
        except BaseException:
            for _, future in batch:
                future.cancel()
            raise
        else:
            self.embedded += len(batch)
            self.truncated += int(answer.truncated.sum())
            for (_, future), vector in zip(batch, answer.dense, strict=True):
                if not future.done():
                    future.set_result(vector)
        finally:
            self._slots.release()

    async def _embed(self, texts: Sequence[str]) -> Embeddings:
        wait_s = self._settings.retry_wait_s
        for attempt in range(1, self._settings.embed_attempts + 1):
            try:
                return await self._client.embed(
                    texts, CallContext.start(self._settings.embed_timeout_s), input_type="passage"
                )
            except ServiceError as error:
                if not error.retryable or attempt == self._settings.embed_attempts:
                    times = "once" if attempt == 1 else f"{attempt} times"
                    raise EmbeddingFailedError(
                        f"The embedder at {self._settings.embedder_url} failed {times}: {error.message}"
                    ) from error
            await asyncio.sleep(min(wait_s, _LONGEST_WAIT_S))
            wait_s *= 2
        raise AssertionError("unreachable")
