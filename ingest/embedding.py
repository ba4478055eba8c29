"""Vectors for texts: each asked of the embedder once, in batches, a bounded number of them at a time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from chassis.context import CallContext
from chassis.errors import ServiceError
from embedder.client import EmbedderClient
from embedder.wire import Embeddings
from ingest.errors import EmbeddingFailedError
from ingest.settings import Choice, IngestSettings
from vectorstore.versions import Bits, ChunkVectors, EncodedVectors, Quantiser

_Answer = TypeVar("_Answer")

_PARTS = {"sparse": ("sparse_indices", "sparse_weights"), "multi_vectors": ("multi_vectors", "multi_vector_count")}
"""What a model may give beside the one vector of a text → its tensors."""

_MULTI_VECTOR_BATCH = 32
"""Texts per call where each comes back as a vector per token: a megabyte and more."""

_REMEMBERED = 1_024
"""Texts of this run whose vectors are kept for the next chunk that says the same."""
_LONGEST_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Kind:
    """What is made of a text, and by whom."""

    fingerprint: str
    """Of the embedder."""
    dimension: int
    sparse: bool = False
    """Whether learned sparse vectors are made too."""
    quantiser: Quantiser | None = None
    """What encodes the multi-vectors that are made too; None: none are made."""

    @property
    def multi_vector_bits(self) -> Bits | None:
        """Of each number of the multi-vectors; None: none are made."""
        return None if self.quantiser is None else self.quantiser.bits


@dataclass(frozen=True, slots=True)
class Made:
    """What was made of some texts."""

    vectors: list[ChunkVectors]
    """In the order of the texts."""
    truncated: int
    """Texts of those that were longer than the embedder reads."""


class Encoder(Protocol):
    """Makes vectors of texts."""

    @property
    def concurrency(self) -> int:
        """Batches that it takes at a time."""

    async def connect(self) -> Kind:
        """Finds out what it makes. Comes before all else.

        Raises:
            EmbeddingFailedError: the embedder does not answer, after all attempts, or lacks what the settings demand.
        """

    async def encode(self, texts: Sequence[str]) -> Made:
        """One batch.

        Raises:
            EmbeddingFailedError: the embedder failed for good.
        """

    async def aclose(self) -> None:
        """Ends its connections."""


class EmbedderCalls:
    """Asks the embedder over HTTP, and again where that helps."""

    def __init__(
        self, settings: IngestSettings, kind: Kind | None = None, *, on_wait: Callable[[str], None] | None = None
    ) -> None:
        """Asks nothing yet.

        Args:
            settings: of the run.
            kind: what `connect` has found out elsewhere; it need not be called then.
            on_wait: told why a call is tried again, and when.

        """
        self._on_wait = on_wait
        self._settings = settings
        self._client = EmbedderClient(settings.embedder_url, model=settings.embedder_model)
        self._kind = kind

    @property
    def concurrency(self) -> int:
        """As the settings say."""
        return self._settings.concurrency

    async def connect(self) -> Kind:
        """Asks the embedder who it is and what it gives. Embeds nothing."""
        settings = self._settings
        answer = await self._try(lambda ctx: self._client.embed([], ctx, input_type="passage"))
        offered = await self._try(lambda ctx: self._client.outputs(ctx))
        sparse = self._wanted("sparse", settings.sparse, offered)
        dimension, quantiser = answer.dense.shape[1], None
        if self._wanted("multi_vectors", settings.multi_vectors, offered):
            quantiser = await asyncio.to_thread(Quantiser, dimension, settings.multi_vector_bits)
        self._kind = Kind(answer.fingerprint, dimension, sparse, quantiser)
        return self._kind

    async def encode(self, texts: Sequence[str]) -> Made:
        """One call of the embedder, tried again where that helps."""
        kind = self._kind
        if kind is None:
            raise AssertionError("encode comes after connect")
        answer = await self._try(
            lambda ctx: self._client.embed(
                texts,
                ctx,
                input_type="passage",
                sparse=kind.sparse,
                multi_vectors=kind.quantiser is not None,
            )
        )
        if answer.fingerprint != kind.fingerprint or answer.dense.shape[1] != kind.dimension:
            raise EmbeddingFailedError(
                f"The embedder was exchanged during the run ({kind.fingerprint} became {answer.fingerprint}). "
                "Run again."
            )
        return Made(await self._vectors(answer, kind.quantiser), int(answer.truncated.sum()))

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def _vectors(self, answer: Embeddings, quantiser: Quantiser | None) -> list[ChunkVectors]:
        sparse = answer.sparse or [None] * len(answer.dense)
        stored: Sequence[EncodedVectors | None] = [None] * len(answer.dense)
        matrices = answer.multi_vectors
        if quantiser is not None and matrices is not None:
            # At once: as they came they would take ten times the memory while they wait to be written.
            stored = await asyncio.to_thread(lambda: [quantiser.encode(matrix) for matrix in matrices])
        return [ChunkVectors(*parts) for parts in zip(answer.dense, sparse, stored, strict=True)]

    def _wanted(self, part: str, setting: Choice, offered: frozenset[str]) -> bool:
        missing = set(_PARTS[part]) - offered
        if missing and setting == "on":
            raise EmbeddingFailedError(
                f"The embedder's model {self._settings.embedder_model} does not give {', '.join(sorted(missing))}: set "
                f"INGEST_{part.upper()} to auto, or use a model that does, such as bge_m3."
            )
        return not missing and setting != "off"

    async def _try(self, call: Callable[[CallContext], Awaitable[_Answer]]) -> _Answer:
        wait_s = self._settings.retry_wait_s
        for attempt in range(1, self._settings.embed_attempts + 1):
            try:
                return await call(CallContext.start(self._settings.embed_timeout_s))
            except ServiceError as error:
                if not error.retryable or attempt == self._settings.embed_attempts:
                    times = "once" if attempt == 1 else f"{attempt} times"
                    raise EmbeddingFailedError(
                        f"The embedder at {self._settings.embedder_url} failed {times}: {error.message}"
                    ) from error
                reason = error.message
            wait_s = min(wait_s, _LONGEST_WAIT_S)
            if self._on_wait is not None:
                self._on_wait(f"{reason} It is asked again in {wait_s:g} s.")
            await asyncio.sleep(wait_s)
            wait_s *= 2
        raise AssertionError("unreachable")


class Embedding:
    """Gathers texts into batches and embeds them while the caller goes on: vectors, and what else the index holds."""

    def __init__(self, encoder: Encoder, batch_size: int) -> None:
        self._encoder = encoder
        self._slots = asyncio.Semaphore(encoder.concurrency)
        self._batch_size = batch_size
        self.kind = Kind("", 0)
        """What is made, once connected."""
        self._waiting: list[tuple[str, asyncio.Future[ChunkVectors]]] = []
        self._known: OrderedDict[str, asyncio.Future[ChunkVectors]] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self.embedded = 0
        """Texts that the embedder has answered."""
        self.truncated = 0
        """Texts of those that were longer than it reads."""

    async def connect(self) -> None:
        """Finds out what is made. Embeds nothing. Raises EmbeddingFailedError as the encoder does."""
        self.kind = await self._encoder.connect()
        if self.kind.quantiser is not None:
            self._batch_size = min(self._batch_size, _MULTI_VECTOR_BATCH)

    async def request(self, key: str, text: str) -> asyncio.Future[ChunkVectors]:
        """What the embedder makes of `text`, soon. Waits while the embedder has enough to do.

        Args:
            key: names the text; a text of the same key may be answered with what was made of an earlier one.
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
        if len(self._waiting) >= self._batch_size:
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
        """Ends what is under way, and the encoder's connections."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _, future in self._waiting:
            future.cancel()
        self._waiting.clear()
        self._known.clear()
        await self._encoder.aclose()

    async def _run(self, batch: Sequence[tuple[str, asyncio.Future[ChunkVectors]]]) -> None:
        try:
            made = await self._encoder.encode([text for text, _ in batch])
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
            self.truncated += made.truncated
            for (_, future), vectors in zip(batch, made.vectors, strict=True):
                if not future.done():
                    future.set_result(vectors)
        finally:
            self._slots.release()
