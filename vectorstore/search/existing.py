"""Searches a collection that another program filled, as it is: by its vectors only."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import orjson

from chassis.context import CallContext
from chassis.errors import DeadlineExceededError
from vectorstore.errors import InvalidFilterError, StoreFailedError, UnknownDocumentError, UnsupportedFilterError
from vectorstore.search.scoring import Weights
from vectorstore.search.searchable import Ranked, Search
from vectorstore.search.visibility import Visible
from vectorstore.signals.dense import Vectors, cosines
from vectorstore.signals.lexical import Terms
from vectorstore.stores import Record, attach
from vectorstore.stores.filters import matches
from vectorstore.versions import Document, ExistingCollection, Manifest
from vectorstore.versions.manifest import Counts, EmbedderInfo
from vectorstore.wire import Mode, Signal

_SAMPLE = 100
"""Number of records that are checked when a collection is opened."""

_SAME_LENGTH = 0.01
"""Largest relative difference between the lengths of vectors that are ranked by distance as by cosine."""

_COSINE = ("cosine",)
_BY_LENGTH = ("l2", "ip", "euclidean", "dotproduct")
"""Metrics that rank vectors of equal length as the cosine does."""

_THREADS = 8
"""Requests that the store gets at the same time."""

_IN_NO_PATH = re.compile(r"[\x00-\x1f\x7f%]")
"""Characters of a record's id that are percent-encoded in the document's id, which is a part of the route's path."""

_ADDRESS = re.compile(r"https?://\S+")
_SAVED_PAGE = re.compile(r"(?:^|/)(https?):/+(\S+)\.txt$")
"""Path of a web page that the Cloudera lab saved as text: /home/cdsw/data/https:/host/page.txt."""


class ExistingIndex:
    """An index that serves a collection of a store. Each record is a document of one chunk."""

    calibration: dict[str, Any] | None = None
    has_failed = False
    """Whether a search failed. Then the collection should be opened again: it may have been created again."""

    def __init__(
        self,
        name: str,
        described: ExistingCollection,
        embedder: EmbedderInfo,
        *,
        candidates: int,
        weights: Weights | None = None,
    ) -> None:
        """Opens and checks the collection. `embedder`: the one that is serving. Blocks.

        Raises:
            StoreFailedError: the collection is missing or empty, has another dimension or metric, or lacks the text.
        """
        self.described = described
        self.name = described.collection
        self.collection = name
        self.tail = orjson.dumps({"collection": name, "index_version": self.name})[1:]
        self._candidates = candidates
        self._weights = weights or Weights()
        with self._valid_results():
            self._reader = attach(described.store, described.collection)
            try:
                count = self._check(embedder)
            except BaseException:
                self._reader.close()
                raise
        self.manifest = Manifest(
            version=self.name,
            build_id="",
            name=name,
            created_at=datetime.now(timezone.utc),
            embedder=embedder,
            store=described.store,
            settings={},
            sources={},
            counts=Counts(documents=count, chunks=count),
            parts=["dense"],
            metadata_fields={},
            examples=[],
            files={},
            sha256={},
        )
        self.everything = Visible(None, count, count, None, lambda _: True, lambda: None)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix=f"search-{name}")

    @property
    def dimension(self) -> int:
        """Dimension of the vectors."""
        return self.manifest.embedder.dimension

    def __len__(self) -> int:
        return self.manifest.counts.chunks

    def applicable_calibration(self) -> None:
        """None: refusals cannot be calibrated for a collection that may change at any time."""

    def weights_of(self, mode: Mode) -> Mapping[Signal, float]:
        """Like `LoadedIndex.weights_of`: only vectors count, so the mode `lexical` raises MissingPartError."""
        return self._weights.of(self.manifest.parts, mode)

    def is_quick(self, queries: int) -> bool:
        """False: the store is asked."""
        return False

    async def rank(self, searches: Sequence[Search], ctx: CallContext) -> list[Ranked]:
        """The nearest records of each search.

        Raises:
            InvalidFilterError: the store cannot evaluate a filter.
            DeadlineExceededError: the search did not end in time.
            StoreFailedError: the store failed.
        """
        left_s = ctx.check("the index was searched")
        try:
            running = asyncio.get_running_loop().run_in_executor(self._threads, self._rank_now, searches)
            return await asyncio.wait_for(running, left_s)
        except asyncio.TimeoutError as error:
            raise DeadlineExceededError("The index was not searched before the request's deadline.") from error

    def document(self, document_id: str, visible: Visible) -> Document:
        """The record as a document. Blocks. Raises UnknownDocumentError, StoreFailedError."""
        with self._valid_results():
            record = self._reader.fetch(unquote(document_id))
        if record is None:
            raise UnknownDocumentError(
                f"Collection {self.name} has no record {document_id[:80]!r}.", field="document_id"
            )
        return self.document_of(record)

    def document_of(self, record: Record) -> Document:
        """The text, title, address and metadata of a record."""
        fields = {**record.fields, "id": record.id}
        text = _first(fields, self.described.text)
        source = _first(fields, self.described.source)
        address = next(filter(None, map(_address, _texts(fields, self.described.url))), None)
        title = _first(fields, self.described.title) or (PurePosixPath(source).stem if set(source) & {"/", "."} else "")
        return Document(
            id=_IN_NO_PATH.sub(lambda found: f"%{ord(found[0]):02X}", record.id),
            text=text,
            title=title,
            url=address,
            source=source,
            source_sha256="",
            metadata={
                name: value
                for name, value in record.fields.items()
                if isinstance(value, str | int | float | bool) and value != text
            },
        )

    def close(self) -> None:
        """Closes the store and the threads."""
        self._threads.shutdown(wait=False)
        self._reader.close()

    @contextmanager
    def _valid_results(self) -> Iterator[None]:
        """Raises StoreFailedError if what the store sends has another form than documented."""
        try:
            yield
        except (KeyError, TypeError, ValueError) as error:
            raise StoreFailedError(f"The store {self.described.store} sent an invalid result.") from error

    def _check(self, embedder: EmbedderInfo) -> int:
        what = f"Collection {self.name!r} of the store {self.described.store}"
        reader = self._reader
        count = reader.count()
        records = reader.sample(_SAMPLE)
        if not count or not records:
            raise StoreFailedError(f"{what} is empty: fill it with the program that it belongs to.")
        if reader.dimension != embedder.dimension:
            raise StoreFailedError(
                f"{what} has vectors of {reader.dimension} dimensions, but the embedder {embedder.fingerprint} has "
                f"{embedder.dimension}: start the embedder that the collection was filled with."
            )
        records = [record for record in records if record.vector.shape == (reader.dimension,)]
        if not records:
            raise StoreFailedError(f"{what} has records without dense vectors.")
        lengths = np.linalg.norm(np.stack([record.vector for record in records]), axis=1)
        metric = reader.metric.lower()
        if metric not in _COSINE + _BY_LENGTH:
            raise StoreFailedError(f"{what} has the metric {reader.metric}; cosine, l2 and ip can be served.")
        if metric in _BY_LENGTH and lengths.max() - lengths.min() > _SAME_LENGTH * lengths.max():
            raise StoreFailedError(
                f"{what} has the metric {reader.metric} and vectors of different lengths, {lengths.min():.3g} to "
                f"{lengths.max():.3g}, so that its nearest records are not those with the greatest cosine: ingest the "
                "documents instead."
            )
        if not any(_first({**record.fields, "id": record.id}, self.described.text) for record in records):
            known = sorted({name for record in records for name in record.fields})
            raise StoreFailedError(
                f"{what} has no text in the fields {', '.join(self.described.text)}: set `text` to one of "
                f"{', '.join([*known, 'id'])}."
            )
        return count

    def _rank_now(self, searches: Sequence[Search]) -> list[Ranked]:
        """One request to the store for each filter."""
        groups: dict[bytes, list[int]] = {}
        for number, search in enumerate(searches):
            groups.setdefault(orjson.dumps(search.query.where, option=orjson.OPT_SORT_KEYS), []).append(number)
        ranked: dict[int, Ranked] = {}
        for numbers in groups.values():
            queries = [searches[number].query for number in numbers]
            limit = max(self._candidates, *(query.num_docs for query in queries))
            vectors, where = np.stack([query.vector for query in queries]), queries[0].where
            try:
                with self._valid_results():
                    found = self._reader.search(vectors, limit=limit, where=where)
            except UnsupportedFilterError as error:
                raise InvalidFilterError(
                    f"filters: {error.message} Change the filter: this collection is searched by its store alone.",
                    field="filters",
                ) from error
            except StoreFailedError:
                self.has_failed = True
                raise
            if len(found) != len(queries):
                raise StoreFailedError(f"The store {self.described.store} sent results for other queries.")
            for number, records in zip(numbers, found, strict=True):
                ranked[number] = self._ranked(searches[number], records)
        return [ranked[number] for number in range(len(searches))]

    def _ranked(self, search: Search, records: Sequence[Record]) -> Ranked:
        documents = [
            (document, record.vector / (np.linalg.norm(record.vector) or 1))
            for record in records
            if record.vector.shape == (self.dimension,)
            and matches(search.query.where, record.fields)
            and (document := self.document_of(record)).text
        ]
        vectors = np.array([vector for _, vector in documents], np.float32).reshape(len(documents), self.dimension)
        similarities = cosines(vectors, search.query.vector)
        rows = np.array(
            sorted(range(len(documents)), key=lambda row: (-similarities[row], documents[row][0].id)), np.int64
        )
        return Ranked(
            _Found(self, [document for document, _ in documents], vectors),
            search.visible,
            rows,
            similarities[rows].astype(np.float64),
            self.weights_of(search.query.mode),
            {"dense": similarities[rows], "lexical": np.zeros(len(rows))},
            Terms((), 0.0),
        )


class _Found:
    """The records that a search found, as rows."""

    def __init__(self, index: ExistingIndex, documents: Sequence[Document], vectors: Vectors) -> None:
        self._index = index
        self._documents = documents
        self._vectors = vectors
        self.collection = index.collection
        self.tail = index.tail

    def __len__(self) -> int:
        return 0  # records have no neighbours

    def line(self, row: int) -> bytes:
        """See `PassageSource`."""
        document = self._documents[row]
        return orjson.dumps(
            {
                "chunk_id": document.id,
                "document_id": document.id,
                "text": document.text,
                "title": document.title,
                "url": document.url,
                "source": document.source,
                "heading_path": [],
                "span": {"start": 0, "end": len(document.text)},
                "metadata": document.metadata,
            }
        )

    def vectors(self, rows: npt.NDArray[np.int64]) -> Vectors:
        """See `PassageSource`."""
        return self._vectors[rows]

    def matched(self, terms: Terms, row: int) -> dict[str, float]:
        """Empty: there is no BM25."""
        return {}

    def similarity_of_parts(self, query: Vectors, row: int, bounds: Vectors) -> Vectors:
        """Empty: there are no multi-vectors."""
        return np.empty(0, np.float32)

    def document(self, document_id: str, visible: Visible) -> Document:
        """See `PassageSource`."""
        return next(document for document in self._documents if document.id == document_id)


def _texts(fields: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The fields with a text, in the order of the names."""
    return [value for name in names if isinstance(value := fields.get(name), str) and value.strip()]


def _first(fields: Mapping[str, Any], names: Sequence[str]) -> str:
    return next(iter(_texts(fields, names)), "")


def _address(text: str) -> str | None:
    if _ADDRESS.fullmatch(text):
        return text
    saved = _SAVED_PAGE.search(text)
    return f"{saved[1]}://{saved[2]}.html" if saved else None
