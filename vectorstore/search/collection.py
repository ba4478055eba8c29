"""Serves one index: follows its `current` pointer, and keeps a version open while requests use it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator

from chassis.context import CallContext
from chassis.errors import NotReadyError, ServiceError
from chassis.principal import Principal
from embedder.client import EmbedderClient
from vectorstore.errors import DamagedIndexError, EmbedderMismatchError, MissingPartError, NoIndexError
from vectorstore.search.existing import ExistingIndex
from vectorstore.search.index import LoadedIndex
from vectorstore.search.searchable import SearchableIndex
from vectorstore.search.visibility import Visible
from vectorstore.versions import AccessFile, Document, ExistingCollection, IndexRoot, IndexVersion
from vectorstore.versions.manifest import EmbedderInfo
from vectorstore.wire import IndexInfo, IndexStatus, Mode, Signal

logger = logging.getLogger(__name__)


class ServedCollection:
    """A served index: its loaded version, and any problem with that or with a newer version."""

    def __init__(
        self,
        root: IndexRoot,
        embedder: EmbedderClient,
        load: Callable[[IndexVersion], LoadedIndex],
        attach: Callable[[str, ExistingCollection, EmbedderInfo], ExistingIndex],
        probe_timeout_s: float,
        mode: Mode,
        *,
        restricted: bool,
    ) -> None:
        """`restricted`: whether callers see only the documents that the rules of the index let them read."""
        self.name = root.name
        self._root = root
        self._embedder = embedder
        self._load = load
        self._attach = attach
        self._probe_timeout_s = probe_timeout_s
        self._mode = mode
        self._access = AccessFile(root.folder) if restricted else None
        self._lease: _Lease | None = None
        self._mismatch: EmbedderMismatchError | None = None
        self._refused: ServiceError | None = None
        self._damaged: dict[str, tuple[object, str]] = {}
        """Version → state of its files and the error's message, so that a damaged version is read only once."""
        self._older: set[str] = set()
        """Older versions whose documents are verified."""

    def use(self) -> contextlib.AbstractContextManager[SearchableIndex]:
        """The loaded index, open until the block ends. Raises NotReadyError if none is loaded."""
        if self._lease is None:
            raise self._refused or NotReadyError(_LOADING)
        return self._lease.use()

    def close(self) -> None:
        """Closes the loaded index when its last user is done."""
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.retire()

    async def refresh(self) -> None:
        """Reads the pointer and loads its version. If that version cannot be served, keeps the old one.

        If the version is damaged and none is loaded, loads the newest older version that can be served.
        """
        try:
            await self._follow()
        except ServiceError as error:
            if self._refused is None or self._refused.message != error.message:
                logger.warning("%s", error.message)
            self._refused = error
            if self._lease is None and isinstance(error, DamagedIndexError):
                await self._fall_back()
        else:
            self._refused = None

    def report_mismatch(self, index: SearchableIndex, mismatch: EmbedderMismatchError) -> None:
        """Records that a search found that the serving embedder does not match the index."""
        if self._lease is not None and self._lease.index is index:
            self._mismatch = mismatch

    async def visible(self, index: SearchableIndex, principal: Principal | None) -> Visible:
        """The part of the index that a caller may see. Raises DamagedAccessError if the rules cannot be read."""
        access = self._access
        if access is None:
            return index.everything
        if not isinstance(index, LoadedIndex):
            raise NotReadyError(_NO_RULES)
        views = index.visibility
        known = views.known(principal, access.read()) if access.is_unchanged() else None
        return known if known is not None else await asyncio.to_thread(lambda: views.of(principal, access.read()))

    def older_document(self, document_id: str, version: str, visible: Visible) -> Document:
        """A document of a published version that is not served. Blocks."""
        with self._root.open(version) as older:
            if version not in self._older:
                older.verify(("documents.sqlite",))
                self._older.add(version)
            return older.document(document_id, visible.admits)

    async def status(self, principal: Principal | None) -> IndexStatus:
        """The served version as a caller sees it, and the problem if there is one."""
        if self._lease is None:
            return self.whole_status()
        with self.use() as index:
            try:
                visible = await self.visible(index, principal)
            except ServiceError as error:
                return IndexStatus(index=None, reason=error.message)
            status = self.whole_status()
            if status.index is None or visible.mask is None:
                return status
            manifest = index.manifest
            examples = zip(manifest.examples, manifest.example_sources, strict=False)
            seen = {
                "documents": visible.documents,
                "chunks": visible.rows,
                "languages": {},
                "examples": [question for question, source in examples if visible.admits(source)],
            }
            return status.model_copy(update={"index": status.index.model_copy(update=seen)})

    def whole_status(self) -> IndexStatus:
        """The served version, and the problem if there is one, for operators."""
        problem = self._mismatch or self._refused
        reason = None if problem is None else problem.message
        if self._lease is None:
            return IndexStatus(index=None, reason=reason or _LOADING)
        loaded = self._lease.index
        manifest = loaded.manifest
        index = IndexInfo(
            name=manifest.name,
            version=manifest.version,
            documents=manifest.counts.documents,
            chunks=manifest.counts.chunks,
            embedder=manifest.embedder.fingerprint,
            parts=manifest.parts,
            weights=self._weights(loaded),
            languages=manifest.languages,
            calibration=loaded.calibration,
            examples=manifest.examples,
        )
        return IndexStatus(index=index, reason=reason)

    def _weights(self, index: SearchableIndex) -> dict[Signal, float]:
        with contextlib.suppress(MissingPartError):  # searches report it
            return dict(index.weights_of(self._mode))
        return {}

    def not_ready_reason(self) -> str | None:
        """Why queries cannot be answered now, and what to do; None if they can."""
        if self._lease is None:
            return self._refused.message if self._refused is not None else _LOADING
        return self._mismatch.message if self._mismatch is not None else None

    async def _follow(self) -> None:
        existing = await asyncio.to_thread(self._root.existing)
        if existing is not None:
            await self._follow_existing(existing)
            return
        current = await asyncio.to_thread(self._root.current)
        if current is None:
            name = "" if self.name == "default" else f" --name {self.name}"
            raise NoIndexError(f"There is no index {self.name!r} yet: build one with `kserve-rag ingest{name}`.")
        # Also if another version is current: it may be loading or refused.
        if self._lease is not None:
            served = self._lease.index
            served.calibration = await asyncio.to_thread(self._root.calibration, served.name)
        if self._lease is not None and self._lease.index.name == current:
            if self._mismatch is not None:
                await self._verify(current, self._lease.index.manifest.embedder)
                self._mismatch = None
            return
        await self._serve(await asyncio.to_thread(self._root.open))

    async def _follow_existing(self, described: ExistingCollection) -> None:
        if self._access is not None:
            raise NotReadyError(_NO_RULES)
        served = None if self._lease is None else self._lease.index
        if isinstance(served, ExistingIndex) and served.described == described and not served.has_failed:
            if self._mismatch is not None:
                await self._verify(served.name, served.manifest.embedder)
                self._mismatch = None
            return
        serving = await self._embedder.embed([], CallContext.start(self._probe_timeout_s))
        if not described.was_filled_by(serving.fingerprint):
            raise EmbedderMismatchError(
                f"Collection {described.collection} was filled with the embedder {described.embedder}, but "
                f"{serving.fingerprint} is serving: start the one it was filled with, or correct `embedder`."
            )
        embedder = EmbedderInfo(fingerprint=serving.fingerprint, dimension=serving.dense.shape[1])
        self._replace(await asyncio.to_thread(self._attach, self.name, described, embedder))

    async def _fall_back(self) -> None:
        for name in reversed(await asyncio.to_thread(self._root.versions)):
            with contextlib.suppress(ServiceError):
                await self._serve(await asyncio.to_thread(self._root.open, name))
                return

    async def _serve(self, version: IndexVersion) -> None:
        try:
            await self._verify(version.name, version.manifest.embedder)
            calibration = await asyncio.to_thread(self._root.calibration, version.name)
            index = await asyncio.to_thread(self._loaded, version)
        except BaseException:
            version.close()
            raise
        index.calibration = calibration
        self._replace(index)

    def _replace(self, index: SearchableIndex) -> None:
        old, self._lease = self._lease, _Lease(index)
        self._mismatch = None
        logger.info("serving version %s of %s: %d chunks", index.name, self.name, len(index))
        if old is not None:
            old.retire()

    async def _verify(self, version: str, built_by: EmbedderInfo) -> None:
        serving = await self._embedder.fingerprint(CallContext.start(self._probe_timeout_s))
        problem = mismatch(version, built_by, serving)
        if problem is not None:
            raise problem

    def _loaded(self, version: IndexVersion) -> LoadedIndex:
        try:
            state = version.state_of_files()
            known, damage = self._damaged.get(version.name, (None, ""))
            if known == state:
                raise DamagedIndexError(damage)
            try:
                version.verify()
            except DamagedIndexError as error:
                self._damaged[version.name] = state, error.message
                raise
            return self._load(version)
        except (OSError, ValueError) as error:
            raise DamagedIndexError(
                f"Version {version.name} cannot be read: copy it again completely, or publish again."
            ) from error


class _Lease:
    """A loaded index and the number of requests that use it."""

    def __init__(self, index: SearchableIndex) -> None:
        self.index = index
        self._users = 0
        self._retired = False

    @contextlib.contextmanager
    def use(self) -> Iterator[SearchableIndex]:
        """Keeps the index open until the block ends."""
        self._users += 1
        try:
            yield self.index
        finally:
            self._users -= 1
            self._close_if_done()

    def retire(self) -> None:
        """Closes the index as soon as no request uses it."""
        self._retired = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._retired and not self._users:
            self.index.close()


def mismatch(version: str, built_by: EmbedderInfo, serving: str) -> EmbedderMismatchError | None:
    """The error if a version was built with another embedder than the serving one; else None."""
    if serving == built_by.fingerprint:
        return None
    return EmbedderMismatchError(
        f"Version {version} was built with embedder {built_by.fingerprint}, but {serving} is serving: start the "
        "embedder it was built with, or build the index again with `kserve-rag ingest`."
    )


_NO_RULES = (
    "Nobody may read this index: it serves a collection of another program, and has no rules of who may read its "
    "records. Serve it from a vectorstore that does not identify callers."
)
_LOADING = "The index is being loaded. Try again shortly."
