"""Queries to passages over whatever index version is current. No HTTP of its own, no environment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from chassis.context import CallContext
from chassis.errors import BadUpstreamError, NotReadyError, ServiceError
from embedder.client import EmbedderClient
from embedder.wire import Embeddings
from vectorstore import filters
from vectorstore.errors import DamagedIndexError, EmbedderMismatchError, NoIndexError
from vectorstore.index import Found, LoadedIndex, Query, StoreName
from vectorstore.manifest import EmbedderInfo
from vectorstore.versions import Document, IndexRoot, IndexVersion
from vectorstore.wire import SearchInstance

logger = logging.getLogger("vectorstore.service")


class VectorstoreService:
    """Searches the current version of one index and follows its pointer. Lives in one event loop.

    A newly published version is loaded beside the old one and takes over between two requests. One that is damaged, or
    made by another embedder, is refused: the old one stays, and `status` says why.
    """

    def __init__(
        self,
        root: IndexRoot,
        embedder: EmbedderClient,
        *,
        num_docs: int = 4,
        candidates: int = 50,
        store: StoreName = "auto",
        reload_interval_s: float = 1.0,
        probe_timeout_s: float = 5.0,
    ) -> None:
        """Reads nothing yet.

        Args:
            root: the index.
            embedder: what turns queries into vectors.
            num_docs: passages for a query that does not say how many.
            candidates: how deep each search looks before fusion, at least.
            store: what searches the vectors.
            reload_interval_s: seconds between two looks at the pointer.
            probe_timeout_s: seconds to wait for the embedder when a version is loaded.

        """
        self._root = root
        self._embedder = embedder
        self._num_docs = num_docs
        self._candidates = candidates
        self._store: StoreName = store
        self._reload_interval_s = reload_interval_s
        self._probe_timeout_s = probe_timeout_s
        self._lease: _Lease | None = None
        self._mismatch: EmbedderMismatchError | None = None
        self._refused: ServiceError | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Loads the current version, then follows the pointer until the block ends."""
        await self.refresh()
        watcher = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
            lease, self._lease = self._lease, None
            if lease is not None:
                lease.retire()
            await self._embedder.aclose()

    async def refresh(self) -> None:
        """Looks at the pointer once and loads what is new there. Never raises for a bad version: it is refused."""
        try:
            await self._follow()
        except ServiceError as error:
            if self._refused is None or self._refused.message != error.message:
                logger.warning("%s", error.message)
            self._refused = error
        else:
            self._refused = None

    async def search(self, instances: Sequence[SearchInstance], ctx: CallContext) -> list[Found]:
        """What each instance finds, in their order; one call of the embedder for all of them.

        Raises:
            NotReadyError: no index is loaded, or the embedder is another one or down.
            InvalidFilterError: a filter is malformed or names an unknown field.
            BadUpstreamError: the embedder or the store answered nonsense.
            DeadlineExceededError: the time was up.
        """
        with self._current().use() as index:
            queries = self._queries(instances, index)
            asked = [number for number, query in enumerate(queries) if query.num_docs and len(index)]
            found = [Found([], index.name) for _ in queries]
            if not asked:
                return found
            began = time.perf_counter()
            embeddings = await self._embedder.embed([queries[number].text for number in asked], ctx)
            embedded = time.perf_counter()
            self._check(embeddings, len(asked), index)
            answers = await index.search(
                [replace(queries[number], vector=embeddings.dense[i]) for i, number in enumerate(asked)], ctx
            )
            timings_ms = {
                "embed": round((embedded - began) * 1000, 3),
                "search": round((time.perf_counter() - embedded) * 1000, 3),
            }
            for i, (number, answer) in enumerate(zip(asked, answers, strict=True)):
                found[number] = replace(
                    answer,
                    query_tokens=int(embeddings.token_counts[i]),
                    query_truncated=bool(embeddings.truncated[i]),
                    timings_ms=timings_ms,
                )
            return found

    async def document(self, document_id: str, version: str | None = None) -> tuple[Document, str]:
        """A stored document and the version it is from: the one that serves, or one that is still published.

        Raises:
            UnknownDocumentError, UnknownVersionError: there is none.
            NotReadyError: no index is loaded.
        """
        with self._current().use() as index:
            if version is None or version == index.name:
                return await asyncio.to_thread(index.version.document, document_id), index.name
        return await asyncio.to_thread(self._older_document, document_id, version), version

    def status(self) -> dict[str, Any]:
        """`{"index": {"name", "version", "documents", "chunks", "embedder"} | None, "reason": str | None}`.

        The reason is set where nothing serves, and also where a version was refused while an older one serves.
        """
        index = None
        if self._lease is not None:
            manifest = self._lease.index.version.manifest
            index = {
                "name": manifest.name,
                "version": manifest.version,
                "documents": manifest.counts.documents,
                "chunks": manifest.counts.chunks,
                "embedder": manifest.embedder.fingerprint,
            }
        problem = self._mismatch or self._refused
        reason = problem.message if problem is not None else None if index else _LOADING
        return {"index": index, "reason": reason}

    def not_ready_reason(self) -> str | None:
        """Why no query can be answered now and what to do; None when they can."""
        if self._lease is None:
            return self._refused.message if self._refused is not None else _LOADING
        return self._mismatch.message if self._mismatch is not None else None

    def _current(self) -> _Lease:
        if self._lease is None:
            raise self._refused or NotReadyError(_LOADING)
        return self._lease

    def _queries(self, instances: Sequence[SearchInstance], index: LoadedIndex) -> list[Query]:
        # An index without documents has no fields to know; every filter of right form then lets nothing through.
        known = index.fields if len(index) else None
        return [
            Query(
                text=instance.input,
                vector=_NO_VECTOR,  # until the embedder has answered
                num_docs=self._num_docs if instance.num_docs is None else instance.num_docs,
                where=filters.check(instance.filters, known, f"instances[{number}].filters"),
            )
            for number, instance in enumerate(instances)
        ]

    def _check(self, embeddings: Embeddings, rows: int, index: LoadedIndex) -> None:
        mismatch = _mismatch(index.name, index.version.manifest.embedder, embeddings.fingerprint)
        if mismatch is not None:
            if self._lease is not None and self._lease.index is index:
                self._mismatch = mismatch
            raise mismatch
        if embeddings.dense.shape != (rows, index.dimension):
            raise BadUpstreamError(
                f"The embedder answered shape {list(embeddings.dense.shape)} for {rows} texts; the index has dimension "
                f"{index.dimension}."
            )

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._reload_interval_s)
            try:
                await self.refresh()
            except Exception:
                # The watcher must outlive whatever a broken volume makes of one look.
                logger.exception("cannot follow the pointer of index %s", self._root.name)

    async def _follow(self) -> None:
        current = await asyncio.to_thread(self._root.current)
        if current is None:
            raise NoIndexError(f"There is no index {self._root.name!r} yet: build one with `kserve-rag ingest`.")
        if self._lease is not None and self._lease.index.name == current:
            if self._mismatch is not None:
                await self._verify(current, self._lease.index.version.manifest.embedder)
                self._mismatch = None
            return
        version = await asyncio.to_thread(self._root.open)
        try:
            await self._verify(version.name, version.manifest.embedder)
            index = await asyncio.to_thread(self._load, version)
        except BaseException:
            version.close()
            raise
        old, self._lease = self._lease, _Lease(index)
        self._mismatch = None
        logger.info("serving version %s: %d chunks", index.name, len(index))
        if old is not None:
            old.retire()

    async def _verify(self, version: str, built_by: EmbedderInfo) -> None:
        serving = await self._embedder.fingerprint(CallContext.start(self._probe_timeout_s))
        mismatch = _mismatch(version, built_by, serving)
        if mismatch is not None:
            raise mismatch

    def _load(self, version: IndexVersion) -> LoadedIndex:
        try:
            return LoadedIndex(version, store=self._store, candidates=self._candidates)
        except (OSError, ValueError) as error:
            raise DamagedIndexError(
                f"Version {version.name} cannot be read: copy it again completely, or publish again."
            ) from error

    def _older_document(self, document_id: str, version: str) -> Document:
        with self._root.open(version) as older:
            return older.document(document_id)


class _Lease:
    """A loaded index and how many requests use it."""

    def __init__(self, index: LoadedIndex) -> None:
        self.index = index
        self._users = 0
        self._retired = False

    @contextlib.contextmanager
    def use(self) -> Iterator[LoadedIndex]:
        """Keeps the index open until the block ends."""
        self._users += 1
        try:
            yield self.index
        finally:
            self._users -= 1
            self._close_if_done()

    def retire(self) -> None:
        """Closes the index, now or when its last user is done."""
        self._retired = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._retired and not self._users:
            self.index.close()


def _mismatch(version: str, built_by: EmbedderInfo, serving: str) -> EmbedderMismatchError | None:
    if serving == built_by.fingerprint:
        return None
    return EmbedderMismatchError(
        f"Version {version} was built with embedder {built_by.fingerprint}, but {serving} is serving: start the "
        "embedder it was built with, or build the index again with `kserve-rag ingest`."
    )


_NO_VECTOR = np.empty(0, np.float32)
_LOADING = "The index is being loaded. Try again shortly."
