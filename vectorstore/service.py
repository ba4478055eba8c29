"""Queries to passages over whatever index version is current. No HTTP of its own, no environment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from chassis.context import CallContext
from chassis.errors import BadUpstreamError, NotReadyError, ServiceError
from embedder.client import EmbedderClient
from embedder.wire import Embeddings
from vectorstore import filters, telemetry
from vectorstore.answering import Found, answer
from vectorstore.errors import (
    DamagedIndexError,
    EmbedderMismatchError,
    InvalidCollectionError,
    NoIndexError,
    UnknownCollectionError,
)
from vectorstore.index import LoadedIndex, Query, Ranked, StoreName
from vectorstore.manifest import EmbedderInfo
from vectorstore.scoring import Weights
from vectorstore.versions import Document, IndexRoot, IndexVersion
from vectorstore.wire import Mode, SearchInstance

logger = logging.getLogger("vectorstore.service")


class VectorstoreService:
    """Searches the current versions of the indexes of one root and follows their pointers. Lives in one event loop.

    A newly published version is loaded beside the old one and takes over between two requests. One that is damaged, or
    made by another embedder, is refused: the old one stays, and `status` says why.
    """

    def __init__(
        self,
        roots: Sequence[IndexRoot],
        embedder: EmbedderClient,
        *,
        num_docs: int = 4,
        candidates: int = 50,
        rescore: int = 32,
        mode: Mode = "rescored",
        weights: Weights | None = None,
        store: StoreName = "auto",
        reload_interval_s: float = 1.0,
        probe_timeout_s: float = 5.0,
    ) -> None:
        """Reads nothing yet.

        Args:
            roots: the indexes, by different names; the first is searched where a query names none.
            embedder: what turns queries into vectors.
            num_docs: passages for a query that does not say how many.
            candidates: how deep each first-stage signal looks, at least.
            rescore: how many of the best get late interaction, at least.
            mode: of a query that does not say; `rescored` is `fused` in an index without multi-vectors.
            weights: of the signals.
            store: what searches the vectors.
            reload_interval_s: seconds between two looks at the pointers.
            probe_timeout_s: seconds to wait for the embedder when a version is loaded.

        """
        self._embedder = embedder
        self._num_docs = num_docs
        self._mode: Mode = mode
        self._reload_interval_s = reload_interval_s

        def load(version: IndexVersion) -> LoadedIndex:
            return LoadedIndex(version, store=store, candidates=candidates, rescore=rescore, weights=weights)

        self._collections = {root.name: _Collection(root, embedder, load, probe_timeout_s) for root in roots}
        self._default = self._collections[roots[0].name]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Loads the current versions, then follows the pointers until the block ends."""
        await self.refresh()
        watcher = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
            for collection in self._collections.values():
                collection.close()
            await self._embedder.aclose()

    async def refresh(self) -> None:
        """Looks at every pointer once and loads what is new there. Never raises for a bad version: it is refused."""
        for collection in self._collections.values():
            await collection.refresh()

    async def search(self, instances: Sequence[SearchInstance], ctx: CallContext) -> list[Found]:
        """What each instance finds, in their order; one call of the embedder for all of them.

        Raises:
            NotReadyError: an index is not loaded, or the embedder is another one or down.
            InvalidCollectionError: an instance names an index that is not served.
            InvalidFilterError: a filter is malformed or names an unknown field.
            MissingPartError: an instance's mode needs what its index was built without.
            BadUpstreamError: the embedder or the store answered nonsense.
            DeadlineExceededError: the time was up.
        """
        with contextlib.ExitStack() as leases, ctx.span(telemetry.SEARCH) as span:
            used: dict[str, LoadedIndex] = {}
            asked: list[tuple[Query, dict[LoadedIndex, Query]]] = []
            for number, instance in enumerate(instances):
                names = dict.fromkeys(instance.collections or [self._default.name])
                for name in names:
                    if name not in used:
                        used[name] = leases.enter_context(self._collection(name, number).use())
                asked.append(self._queries(instance, [used[name] for name in names], number))
            found = await self._search(asked, span.ctx)
            telemetry.searched(found)
            span.set("kserve_rag.queries", len(found))
            span.set("kserve_rag.passages", sum(len(one.passages) for one in found))
            span.set("kserve_rag.index.version", tuple(index.name for index in used.values()))
            return found

    async def document(
        self, document_id: str, version: str | None = None, collection: str | None = None
    ) -> tuple[Document, str]:
        """A stored document and the version it is from: the one that serves, or one that is still published.

        Raises:
            UnknownDocumentError, UnknownVersionError, UnknownCollectionError: there is none.
            NotReadyError: no index is loaded.
        """
        served = self._default if collection is None else self._collection(collection, None)
        with served.use() as index:
            if version is None or version == index.name:
                return await asyncio.to_thread(index.version.document, document_id), index.name
        return await asyncio.to_thread(served.older_document, document_id, version), version

    @property
    def default(self) -> str:
        """Name of the index that is searched where a query names none."""
        return self._default.name

    def status(self) -> dict[str, Any]:
        """The content of a `wire.ServedIndexes`."""
        collections = {name: collection.status() for name, collection in self._collections.items()}
        return {"default": self.default, **collections[self.default], "collections": collections}

    def not_ready_reason(self) -> str | None:
        """Why a query that names no collection cannot be answered now and what to do; None when it can."""
        return self._default.not_ready_reason()

    def _collection(self, name: str, instance: int | None) -> _Collection:
        if name in self._collections:
            return self._collections[name]
        told = f"there is no collection {name[:80]!r} here; served are {', '.join(self._collections)}."
        if instance is None:
            raise UnknownCollectionError(f"collection: {told}", field="collection")
        field = f"instances[{instance}].collections"
        raise InvalidCollectionError(f"{field}: {told}", field=field)

    def _queries(
        self, instance: SearchInstance, indexes: Sequence[LoadedIndex], number: int
    ) -> tuple[Query, dict[LoadedIndex, Query]]:
        """The query of an instance, and as it is put to each of its indexes. Without vectors."""
        query = Query(
            text=instance.input,
            num_docs=self._num_docs if instance.num_docs is None else instance.num_docs,
            mode=instance.mode or self._mode,
            min_score=instance.min_score,
            diversity=instance.diversity,
            neighbours=instance.neighbours,
            explain=instance.explain,
        )
        # An index without documents has no fields to know; every filter of right form then lets nothing through.
        known = {name for index in indexes for name in index.fields} if any(map(len, indexes)) else None
        where = filters.check(instance.filters, known, f"instances[{number}].filters")
        return query, {index: replace(query, where=where) for index in indexes}

    async def _search(self, asked: Sequence[tuple[Query, dict[LoadedIndex, Query]]], ctx: CallContext) -> list[Found]:
        found = [
            Found(
                [],
                {index.collection: index.name for index in per_index},
                calibration=next(iter(per_index)).applicable_calibration(),
            )
            for _, per_index in asked
        ]
        wanted = [
            number for number, (query, per_index) in enumerate(asked) if query.num_docs and any(map(len, per_index))
        ]
        if not wanted:
            return found
        began = time.perf_counter()
        needs = {signal for n in wanted for index in asked[n][1] for signal in index.needs(asked[n][0].mode)}
        embeddings = await self._embedder.embed(
            [asked[number][0].text for number in wanted],
            ctx,
            sparse="sparse" in needs,
            multi_vectors="multi_vector" in needs,
        )
        embedded = time.perf_counter()
        jobs: dict[LoadedIndex, list[tuple[int, Query]]] = {}
        for i, number in enumerate(wanted):
            made = {
                "vector": embeddings.dense[i],
                "sparse": None if embeddings.sparse is None else embeddings.sparse[i],
                "multi_vectors": None if embeddings.multi_vectors is None else embeddings.multi_vectors[i],
            }
            for index, query in asked[number][1].items():
                if len(index):
                    jobs.setdefault(index, []).append((number, replace(query, **made)))
        for index in jobs:
            self._check(embeddings, len(wanted), index)
        ranked: dict[int, dict[LoadedIndex, Ranked]] = {number: {} for number in wanted}
        answers = await asyncio.gather(*(index.rank([q for _, q in job], ctx) for index, job in jobs.items()))
        for (index, job), results in zip(jobs.items(), answers, strict=True):
            for (number, _), result in zip(job, results, strict=True):
                ranked[number][index] = result
        quick = all(index.is_quick(len(job)) for index, job in jobs.items())

        def finish() -> list[Found]:
            # In the order in which each asks for its collections, which need not be that of the jobs.
            return [
                answer(query, [ranked[number][index] for index in per_index if index in ranked[number]])
                for number, (query, per_index) in ((number, asked[number]) for number in wanted)
            ]

        if quick and not any(query.neighbours or query.diversity or query.explain for query, _ in asked):
            answered = finish()
        else:
            answered = await asyncio.to_thread(finish)
        timings_ms = {
            "embed": round((embedded - began) * 1000, 3),
            "search": round((time.perf_counter() - embedded) * 1000, 3),
        }
        for i, number in enumerate(wanted):
            found[number] = replace(
                answered[i],
                index_versions=found[number].index_versions,
                calibration=found[number].calibration,
                query_tokens=int(embeddings.token_counts[i]),
                query_truncated=bool(embeddings.truncated[i]),
                timings_ms=timings_ms,
            )
        return found

    def _check(self, embeddings: Embeddings, rows: int, index: LoadedIndex) -> None:
        mismatch = _mismatch(index.name, index.version.manifest.embedder, embeddings.fingerprint)
        if mismatch is not None:
            self._collections[index.collection].noticed(index, mismatch)
            raise mismatch
        if embeddings.dense.shape != (rows, index.dimension):
            raise BadUpstreamError(
                f"The embedder answered shape {list(embeddings.dense.shape)} for {rows} texts; the index has dimension "
                f"{index.dimension}."
            )
        if any(matrix.shape[1] != index.dimension for matrix in embeddings.multi_vectors or ()):
            raise BadUpstreamError(f"The embedder answered multi-vectors of another dimension than {index.dimension}.")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._reload_interval_s)
            try:
                await self.refresh()
            except Exception:
                # The watcher must outlive whatever a broken volume makes of one look.
                logger.exception("cannot follow the pointers of the indexes")


class _Collection:
    """One index that is served: its loaded version, and what is wrong with it or with the next."""

    def __init__(
        self,
        root: IndexRoot,
        embedder: EmbedderClient,
        load: Callable[[IndexVersion], LoadedIndex],
        probe_timeout_s: float,
    ) -> None:
        self.name = root.name
        self._root = root
        self._embedder = embedder
        self._load = load
        self._probe_timeout_s = probe_timeout_s
        self._lease: _Lease | None = None
        self._mismatch: EmbedderMismatchError | None = None
        self._refused: ServiceError | None = None

    def use(self) -> contextlib.AbstractContextManager[LoadedIndex]:
        """The loaded index, kept open until the block ends. Raises NotReadyError where there is none."""
        if self._lease is None:
            raise self._refused or NotReadyError(_LOADING)
        return self._lease.use()

    def close(self) -> None:
        """Closes the loaded index after its last user."""
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.retire()

    async def refresh(self) -> None:
        """Looks at the pointer once and loads what is new there; what cannot be served is refused."""
        try:
            await self._follow()
        except ServiceError as error:
            if self._refused is None or self._refused.message != error.message:
                logger.warning("%s", error.message)
            self._refused = error
        else:
            self._refused = None

    def noticed(self, index: LoadedIndex, mismatch: EmbedderMismatchError) -> None:
        """A search of the index has found that another embedder is serving."""
        if self._lease is not None and self._lease.index is index:
            self._mismatch = mismatch

    def older_document(self, document_id: str, version: str) -> Document:
        """A document of a version that does not serve. Blocks."""
        with self._root.open(version) as older:
            return older.document(document_id)

    def status(self) -> dict[str, Any]:
        """The content of a `wire.IndexStatus`."""
        index = None
        if self._lease is not None:
            manifest = self._lease.index.version.manifest
            index = {
                "name": manifest.name,
                "version": manifest.version,
                "documents": manifest.counts.documents,
                "chunks": manifest.counts.chunks,
                "embedder": manifest.embedder.fingerprint,
                "parts": list(self._lease.index.parts),
                "calibration": self._lease.index.calibration,
                "examples": manifest.examples,
            }
        problem = self._mismatch or self._refused
        reason = problem.message if problem is not None else None if index else _LOADING
        return {"index": index, "reason": reason}

    def not_ready_reason(self) -> str | None:
        """Why no query can be answered now and what to do; None when they can."""
        if self._lease is None:
            return self._refused.message if self._refused is not None else _LOADING
        return self._mismatch.message if self._mismatch is not None else None

    async def _follow(self) -> None:
        current = await asyncio.to_thread(self._root.current)
        if current is None:
            name = "" if self.name == "default" else f" --name {self.name}"
            raise NoIndexError(f"There is no index {self.name!r} yet: build one with `kserve-rag ingest{name}`.")
        # Of what is served, which is not `current` while that is being loaded or is refused.
        if self._lease is not None:
            served = self._lease.index
            served.calibration = await asyncio.to_thread(self._root.calibration, served.name)
        if self._lease is not None and self._lease.index.name == current:
            if self._mismatch is not None:
                await self._verify(current, self._lease.index.version.manifest.embedder)
                self._mismatch = None
            return
        version = await asyncio.to_thread(self._root.open)
        try:
            await self._verify(version.name, version.manifest.embedder)
            calibration = await asyncio.to_thread(self._root.calibration, version.name)
            index = await asyncio.to_thread(self._loaded, version)
        except BaseException:
            version.close()
            raise
        index.calibration = calibration
        old, self._lease = self._lease, _Lease(index)
        self._mismatch = None
        logger.info("serving version %s of %s: %d chunks", index.name, self.name, len(index))
        if old is not None:
            old.retire()

    async def _verify(self, version: str, built_by: EmbedderInfo) -> None:
        serving = await self._embedder.fingerprint(CallContext.start(self._probe_timeout_s))
        mismatch = _mismatch(version, built_by, serving)
        if mismatch is not None:
            raise mismatch

    def _loaded(self, version: IndexVersion) -> LoadedIndex:
        try:
            return self._load(version)
        except (OSError, ValueError) as error:
            raise DamagedIndexError(
                f"Version {version.name} cannot be read: copy it again completely, or publish again."
            ) from error


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


_LOADING = "The index is being loaded. Try again shortly."
