"""Embeds texts in concurrent batches, each distinct text once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from chassis.context import CallContext
from chassis.errors import ServiceError
from embedder.client import EmbedderClient
from embedder.wire import Embeddings, InputType
from ingest.errors import EmbeddingFailedError
from ingest.settings import Choice, IngestSettings
from vectorstore.versions import Bits, ChunkVectors, EncodedVectors, Quantiser

_Answer = TypeVar("_Answer")

_PARTS = {"sparse": ("sparse_indices", "sparse_weights"), "multi_vectors": ("multi_vectors", "multi_vector_count")}
"""Optional output of an embedding model → its tensors."""

_MULTI_VECTOR_BATCH = 32
"""Texts per call with multi-vectors, which take a megabyte or more of the response per text."""

_CACHED_TEXTS = 1_024
"""Number of texts whose vectors are cached for chunks with the same text."""
_MAX_RETRY_WAIT_S = 30.0
_CALL_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class EmbedderCapabilities:
    """The embedder's outputs that the settings request."""

    fingerprint: str
    """Identifies the embedder and its weights."""
    dimension: int
    """Length of the dense vectors."""
    sparse: bool = False
    """Whether learned sparse vectors are returned."""
    quantiser: Quantiser | None = None
    """Compresses the multi-vectors; None if there are none."""

    @property
    def multi_vector_bits(self) -> Bits | None:
        """Bits per number of the stored multi-vectors; None if there are none."""
        return None if self.quantiser is None else self.quantiser.bits


@dataclass(frozen=True, slots=True)
class EmbeddedBatch:
    """The vectors of one batch of texts."""

    vectors: list[ChunkVectors]
    """In the order of the texts."""
    truncated: int
    """Number of texts longer than the embedder's window."""


class Embedder(Protocol):
    """Embeds batches of texts."""

    @property
    def concurrency(self) -> int:
        """Number of batches that it embeds concurrently."""

    async def connect(self) -> EmbedderCapabilities:
        """Gets the embedder's capabilities. Must be called first.

        Raises EmbeddingFailedError if the embedder does not respond, or lacks an output that the settings require.
        """

    async def embed(self, texts: Sequence[str]) -> EmbeddedBatch:
        """Embeds one batch. Raises EmbeddingFailedError if the embedder fails after all retries."""

    async def queries(self, texts: Sequence[str]) -> Embeddings:
        """Embeds texts as queries, with all outputs that `connect` returned.

        Raises:
            EmbeddingFailedError: the embedder failed after all retries.
        """

    async def aclose(self) -> None:
        """Closes its connections."""


class HttpEmbedder:
    """Calls the embedder over HTTP, with retries."""

    def __init__(
        self,
        settings: IngestSettings,
        capabilities: EmbedderCapabilities | None = None,
        *,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        """Sends nothing yet.

        `capabilities`: the result of `connect` in another process, which replaces the call. `on_wait`: called before
        each retry with the reason and the delay.
        """
        self._on_wait = on_wait
        self._settings = settings
        self._client = EmbedderClient(settings.embedder_url, model=settings.embedder_model)
        self._capabilities = capabilities

    @property
    def concurrency(self) -> int:
        """`INGEST_CONCURRENCY`."""
        return self._settings.concurrency

    async def connect(self) -> EmbedderCapabilities:
        """As `Embedder.connect`. Embeds nothing."""
        settings = self._settings
        answer = await self._try(lambda ctx: self._client.embed([], ctx, input_type="passage"))
        offered = await self._try(self._client.outputs)
        sparse = self._wanted("sparse", settings.sparse, offered)
        dimension, quantiser = answer.dense.shape[1], None
        if self._wanted("multi_vectors", settings.multi_vectors, offered):
            quantiser = await asyncio.to_thread(Quantiser, dimension, settings.multi_vector_bits)
        self._capabilities = EmbedderCapabilities(answer.fingerprint, dimension, sparse, quantiser)
        return self._capabilities

    async def embed(self, texts: Sequence[str]) -> EmbeddedBatch:
        """As `Embedder.embed`."""
        answer, expected = await self._embed(texts, "passage")
        return EmbeddedBatch(await _vectors(answer, expected.quantiser), int(answer.truncated.sum()))

    async def queries(self, texts: Sequence[str]) -> Embeddings:
        """As `Embedder.queries`."""
        answer, _ = await self._embed(texts, "query")
        return answer

    async def _embed(self, texts: Sequence[str], input_type: InputType) -> tuple[Embeddings, EmbedderCapabilities]:
        expected = self._capabilities
        if expected is None:
            raise AssertionError("embed comes after connect")
        answer = await self._try(
            lambda ctx: self._client.embed(
                texts,
                ctx,
                input_type=input_type,
                sparse=expected.sparse,
                multi_vectors=expected.quantiser is not None,
            )
        )
        if answer.fingerprint != expected.fingerprint or answer.dense.shape[1] != expected.dimension:
            raise EmbeddingFailedError(
                f"The embedder changed during the run ({expected.fingerprint} became {answer.fingerprint}). Run again."
            )
        return answer, expected

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    def _wanted(self, part: str, setting: Choice, offered: frozenset[str]) -> bool:
        missing = set(_PARTS[part]) - offered
        if missing and setting == "on":
            raise EmbeddingFailedError(
                f"The embedder's model {self._settings.embedder_model} does not return {', '.join(sorted(missing))}: "
                f"set INGEST_{part.upper()} to auto, or use a model that does, such as bge_m3."
            )
        return not missing and setting != "off"

    async def _try(self, call: Callable[[CallContext], Awaitable[_Answer]]) -> _Answer:
        wait_s = self._settings.retry_wait_s
        for attempt in range(1, self._settings.embed_attempts + 1):
            try:
                return await call(CallContext.start(_CALL_TIMEOUT_S))
            except ServiceError as error:
                if not error.retryable or attempt == self._settings.embed_attempts:
                    times = "once" if attempt == 1 else f"{attempt} times"
                    raise EmbeddingFailedError(
                        f"The embedder at {self._settings.embedder_url} failed {times}: {error.message}"
                    ) from error
                reason = error.message
            wait_s = min(wait_s, _MAX_RETRY_WAIT_S)
            if self._on_wait is not None:
                self._on_wait(f"{reason} Retrying in {wait_s:g} s.")
            await asyncio.sleep(wait_s)
            wait_s *= 2
        raise AssertionError("unreachable")


async def _vectors(answer: Embeddings, quantiser: Quantiser | None) -> list[ChunkVectors]:
    sparse = answer.sparse or [None] * len(answer.dense)
    stored: Sequence[EncodedVectors | None] = [None] * len(answer.dense)
    matrices = answer.multi_vectors
    if quantiser is not None and matrices is not None:
        # Compress them now: raw multi-vectors take ten times the memory while they wait to be written.
        stored = await asyncio.to_thread(lambda: [quantiser.encode(matrix) for matrix in matrices])
    return [ChunkVectors(*parts) for parts in zip(answer.dense, sparse, stored, strict=True)]


class Batcher:
    """Collects texts into batches and embeds them in the background. The caller must limit the pending texts."""

    def __init__(self, embedder: Embedder, batch_size: int) -> None:
        self._embedder = embedder
        self._slots = asyncio.Semaphore(embedder.concurrency)
        self._batch_size = batch_size
        self.capabilities = EmbedderCapabilities("", 0)
        """The embedder's capabilities, after `connect`."""
        self._waiting: list[tuple[str, asyncio.Future[ChunkVectors]]] = []
        self._known: OrderedDict[str, asyncio.Future[ChunkVectors]] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self.embedded = 0
        """Number of texts embedded so far."""
        self.truncated = 0
        """Number of them that were longer than the embedder's window."""

    async def connect(self) -> None:
        """As `Embedder.connect`."""
        self.capabilities = await self._embedder.connect()
        if self.capabilities.quantiser is not None:
            self._batch_size = min(self._batch_size, _MULTI_VECTOR_BATCH)

    def request(self, key: str, text: str) -> asyncio.Future[ChunkVectors]:
        """A future of the text's vectors. Texts with the same `key` share a future while it is cached."""
        future = self._known.get(key)
        if future is not None:
            self._known.move_to_end(key)
            return future
        future = asyncio.get_running_loop().create_future()
        self._known[key] = future
        if len(self._known) > _CACHED_TEXTS:
            self._known.popitem(last=False)
        self._waiting.append((text, future))
        if len(self._waiting) >= self._batch_size:
            self.flush()
        return future

    async def queries(self, texts: Sequence[str]) -> Embeddings:
        """As `Embedder.queries`."""
        return await self._embedder.queries(texts)

    def flush(self) -> None:
        """Sends the collected texts even if they do not fill a batch."""
        batch, self._waiting = self._waiting, []
        if batch:
            task = asyncio.create_task(self._embed(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Cancels running batches and closes the embedder's connections."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()
        self._known.clear()
        await self._embedder.aclose()

    async def _embed(self, batch: Sequence[tuple[str, asyncio.Future[ChunkVectors]]]) -> None:
        try:
            async with self._slots:
                answer = await self._embedder.embed([text for text, _ in batch])
        except EmbeddingFailedError as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
                    # Mark it as retrieved, because a failed run awaits only its first future.
                    future.exception()
        except BaseException:
            for _, future in batch:
                future.cancel()
            raise
        else:
            self.embedded += len(batch)
            self.truncated += answer.truncated
            for (_, future), vectors in zip(batch, answer.vectors, strict=True):
                if not future.done():
                    future.set_result(vectors)
