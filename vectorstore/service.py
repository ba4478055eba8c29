"""Searches the current versions of the served indexes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace

from chassis.context import CallContext
from chassis.errors import BadUpstreamError
from embedder.client import EmbedderClient
from embedder.wire import Embeddings
from vectorstore import telemetry
from vectorstore.errors import InvalidCollectionError, UnknownCollectionError
from vectorstore.search.collection import ServedCollection, mismatch
from vectorstore.search.existing import ExistingIndex
from vectorstore.search.index import LoadedIndex
from vectorstore.search.passages import QueryResult
from vectorstore.search.plan import SearchPlan
from vectorstore.search.scoring import Weights
from vectorstore.search.searchable import Query, SearchableIndex
from vectorstore.search.visibility import Visible
from vectorstore.stores import AUTO, filters
from vectorstore.versions import ExistingCollection, IndexRoot, IndexVersion
from vectorstore.versions.manifest import EmbedderInfo
from vectorstore.wire import MAX_COLLECTIONS, IndexStatus, Mode, SearchInstance, ServedIndexes, StoredDocument

logger = logging.getLogger(__name__)


_EMBEDDER_SHARE = 0.9
"""Share of the time left, so that the caller learns that the embedder is the one that hangs."""


class VectorstoreService:
    """Searches the current versions of several indexes and follows their pointers. For one event loop.

    A new version is loaded while the old one serves, and then replaces it without a failed request. A version that is
    damaged, or was built with another embedder, is refused: the old one stays, and `status` gives the reason.
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
        store: str = AUTO,
        reload_interval_s: float = 1.0,
        probe_timeout_s: float = 5.0,
        restricted: bool = False,
        discover: Callable[[], Sequence[IndexRoot]] = list,
    ) -> None:
        """Does no I/O; see `running`. `settings.VectorstoreSettings` documents the options.

        The `roots` must have different names; queries that name no index search the first. `probe_timeout_s`: timeout
        for the embedder's fingerprint, which is checked when a version is loaded. `restricted`: whether callers see
        only the documents that the rules of an index let them read. `discover`: called at every check for new versions;
        returns further indexes to serve, while they exist.
        """
        self._embedder = embedder
        self._num_docs = num_docs
        self._mode: Mode = mode
        self._reload_interval_s = reload_interval_s

        def load(version: IndexVersion) -> LoadedIndex:
            return LoadedIndex(version, store=store, candidates=candidates, rescore=rescore, weights=weights)

        def attach(name: str, described: ExistingCollection, serving: EmbedderInfo) -> ExistingIndex:
            return ExistingIndex(name, described, serving, candidates=candidates, weights=weights)

        def serve(root: IndexRoot) -> ServedCollection:
            return ServedCollection(root, embedder, load, attach, probe_timeout_s, mode, restricted=restricted)

        self._serve = serve
        self._discover = discover
        self._named = {root.name for root in roots}
        self._collections = {root.name: serve(root) for root in roots}
        self._default = self._collections[roots[0].name]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Loads the current versions and follows the pointers until the block ends."""
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
        """Reads every pointer once and loads new versions. Problems are reported by `status`, not raised."""
        found = {root.name: root for root in await asyncio.to_thread(self._discover)}
        for name in self._collections.keys() - self._named - found.keys():
            self._collections.pop(name).close()
        for name in sorted(found.keys() - self._collections.keys())[: MAX_COLLECTIONS - len(self._collections)]:
            self._collections[name] = self._serve(found[name])
        # At once, so that waits for the servers of several stores do not add up.
        await asyncio.gather(*(collection.refresh() for collection in self._collections.values()))

    async def search(self, instances: Sequence[SearchInstance], ctx: CallContext) -> list[QueryResult]:
        """The result of each instance, in their order. All queries are embedded in one call.

        Raises:
            NotReadyError: an index is not loaded, or its embedder is down or was replaced by another.
            InvalidCollectionError: an instance names an index that is not served.
            InvalidFilterError: a filter is malformed or names an unknown field.
            MissingPartError: an instance's mode needs a signal that its index lacks.
            BadUpstreamError: the embedder or the store failed.
            DeadlineExceededError: the deadline has passed.
        """
        with contextlib.ExitStack() as leases, ctx.span(telemetry.SEARCH) as span:
            used: dict[str, tuple[SearchableIndex, Visible]] = {}
            plans = []
            for number, instance in enumerate(instances):
                names = dict.fromkeys(instance.collections or [self._default.name])
                for name in names:
                    if name not in used:
                        collection = self._collection(name, number)
                        index = leases.enter_context(collection.use())
                        used[name] = index, await collection.visible(index, ctx.principal)
                plans.append(self._plan(instance, dict(used[name] for name in names), number))
            results = await self._run(plans, span.ctx)
            telemetry.record_search(results)
            span.set("kserve_rag.queries", len(results))
            span.set("kserve_rag.passages", sum(len(result.passages) for result in results))
            span.set("kserve_rag.index.version", tuple(index.name for index, _ in used.values()))
            return results

    async def document(
        self, document_id: str, ctx: CallContext, *, version: str | None = None, collection: str | None = None
    ) -> StoredDocument:
        """A stored document of a version, by default of the served one.

        Raises:
            UnknownDocumentError, UnknownVersionError, UnknownCollectionError: it does not exist, or the caller may not
                read it.
            NotReadyError: no index is loaded.
        """
        served = self._default if collection is None else self._collection(collection, None)
        with served.use() as index:
            visible = await served.visible(index, ctx.principal)
            if version is None or version == index.name:
                version = index.name
                stored = await asyncio.to_thread(index.document, document_id, visible)
            else:
                stored = await asyncio.to_thread(served.older_document, document_id, version, visible)
        return StoredDocument(
            id=stored.id,
            title=stored.title,
            url=stored.url,
            text=stored.text,
            source=stored.source,
            metadata=stored.metadata,
            collection=served.name,
            index_version=version,
        )

    @property
    def default(self) -> str:
        """Name of the index for queries that name none."""
        return self._default.name

    async def status(self, ctx: CallContext) -> ServedIndexes:
        """The served versions as the caller sees them, and their problems if they have any."""
        return self._status({name: await one.status(ctx.principal) for name, one in list(self._collections.items())})

    def whole_status(self) -> ServedIndexes:
        """The served versions, and their problems if they have any, for operators."""
        return self._status({name: collection.whole_status() for name, collection in self._collections.items()})

    def _status(self, collections: dict[str, IndexStatus]) -> ServedIndexes:
        default = collections[self.default]
        return ServedIndexes(index=default.index, reason=default.reason, default=self.default, collections=collections)

    def not_ready_reason(self) -> str | None:
        """Why the default index cannot answer now, and what to do; None if it can."""
        return self._default.not_ready_reason()

    def _collection(self, name: str, instance: int | None) -> ServedCollection:
        if name in self._collections:
            return self._collections[name]
        problem = f"there is no collection {name[:80]!r} here; served are {', '.join(self._collections)}."
        if instance is None:
            raise UnknownCollectionError(f"collection: {problem}", field="collection")
        field = f"instances[{instance}].collections"
        raise InvalidCollectionError(f"{field}: {problem}", field=field)

    def _plan(self, instance: SearchInstance, indexes: Mapping[SearchableIndex, Visible], number: int) -> SearchPlan:
        known = None
        # An empty index has no fields: then every well-formed filter is valid, and matches nothing.
        if instance.filters is not None and any(visible.rows for visible in indexes.values()):
            fields = [visible.fields() for visible in indexes.values()]
            known = None if None in fields else {name for names in fields for name in names or ()}
        query = Query(
            text=instance.input,
            num_docs=self._num_docs if instance.num_docs is None else instance.num_docs,
            where=filters.check(instance.filters, known, f"instances[{number}].filters"),
            mode=instance.mode or self._mode,
            min_score=instance.min_score,
            diversity=instance.diversity,
            neighbours=instance.neighbours,
            explain=instance.explain,
            sentence_similarity=instance.sentence_similarity,
        )
        return SearchPlan(query, indexes)

    async def _run(self, plans: Sequence[SearchPlan], ctx: CallContext) -> list[QueryResult]:
        searched = [plan for plan in plans if plan.searched]
        if not searched:
            return [plan.result() for plan in plans]
        began = time.perf_counter()
        needs = {signal for plan in searched for signal in plan.signals()}
        embeddings = await self._embedder.embed(
            [plan.query.text for plan in searched],
            ctx.share(_EMBEDDER_SHARE),
            sparse="sparse" in needs,
            multi_vectors="multi_vector" in needs,
        )
        embedded = time.perf_counter()
        batches: dict[SearchableIndex, list[SearchPlan]] = {}
        for row, plan in enumerate(searched):
            plan.embed(embeddings, row)
            for index in plan.searched:
                batches.setdefault(index, []).append(plan)
        for index in batches:
            self._check(embeddings, len(searched), index)
        rankings = await asyncio.gather(
            *(index.rank([plan.search_of(index) for plan in batch], ctx) for index, batch in batches.items())
        )
        for (index, batch), ranked in zip(batches.items(), rankings, strict=True):
            for plan, candidates in zip(batch, ranked, strict=True):
                plan.rankings[index] = candidates
        if all(index.is_quick(len(batch)) for index, batch in batches.items()) and all(p.is_quick for p in searched):
            results = [plan.result() for plan in plans]
        else:
            results = await asyncio.to_thread(lambda: [plan.result() for plan in plans])
        timings_ms = {
            "embed": round((embedded - began) * 1000, 3),
            "search": round((time.perf_counter() - embedded) * 1000, 3),
        }
        return [
            replace(result, timings_ms=timings_ms) if plan.searched else result
            for plan, result in zip(plans, results, strict=True)
        ]

    def _check(self, embeddings: Embeddings, rows: int, index: SearchableIndex) -> None:
        problem = mismatch(index.name, index.manifest.embedder, embeddings.fingerprint)
        if problem is not None:
            self._collections[index.collection].report_mismatch(index, problem)
            raise problem
        if embeddings.dense.shape != (rows, index.dimension):
            raise BadUpstreamError(
                f"The embedder sent vectors of shape {list(embeddings.dense.shape)} for {rows} texts; the index has "
                f"dimension {index.dimension}."
            )
        if any(matrix.shape[1] != index.dimension for matrix in embeddings.multi_vectors or ()):
            raise BadUpstreamError(f"The embedder sent multi-vectors whose dimension is not {index.dimension}.")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._reload_interval_s)
            try:
                await self.refresh()
            except Exception:
                # For example, the volume failed. The next read may succeed.
                logger.exception("cannot follow the pointers of the indexes")
