"""Searches a loaded index version: finds the candidates of a query and scores them.

The candidates are the union of the best rows of each first-stage signal (vectors, BM25, learned sparse). Each candidate
gets the exact value of every signal. Its score is their weighted mean.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from chassis.context import CallContext
from chassis.errors import DeadlineExceededError
from chassis.settings import SettingError
from vectorstore.errors import StoreFailedError, UnsupportedFilterError
from vectorstore.search.batching import MicroBatcher
from vectorstore.search.scoring import Weights, weighted
from vectorstore.search.searchable import Query, Ranked, Search
from vectorstore.search.visibility import Visibility, Visible
from vectorstore.signals.dense import NO_HITS, Hits, Vectors, best, cosines
from vectorstore.signals.lexical import Terms
from vectorstore.stores import AUTO, Mask, Store
from vectorstore.stores.exact import VectorTable
from vectorstore.stores.filters import Where
from vectorstore.versions import Document, IndexVersion
from vectorstore.wire import CutReason, Mode, Signal

logger = logging.getLogger(__name__)

_EXACT_NUMBERS = 20_000_000
"""Up to this many float32 in the index (52,000 chunks of 384 dimensions), `auto` compares the query with all vectors,
which is exact and not slower than a store (docs/decisions/0005)."""

_FILTERED_NUMBERS = 10_000_000
"""Up to this many float32 in the vectors that pass a filter, `auto` compares the query with all of them."""

_SPARE = 1.5
"""Oversampling factor if the filter is applied after the store's search."""

_INLINE_NUMBERS = 2_000_000
"""A search that compares at most this many float32 is faster than a switch of threads."""

_INLINE_CHARS = 20_000
"""A search for at most this many characters of queries runs in the event loop. Stemming takes 10 ms per 1,000 words."""

_MAX_BATCH = 64


class LoadedIndex:
    """An open index version with all its signals. Thread-safe. Close it after its last search."""

    def __init__(
        self,
        version: IndexVersion,
        *,
        store: str,
        candidates: int,
        rescore: int = 32,
        weights: Weights | None = None,
    ) -> None:
        self.version = version
        self.manifest = version.manifest
        self.name = version.name
        self.collection = version.manifest.name
        self.calibration: dict[str, Any] | None = None
        """Content of the version's calibration file, which may change while the version is served."""
        self.weights = weights or Weights()
        self.parts: Sequence[Signal] = version.manifest.parts
        """Signals that the version has."""
        self._weights_of: dict[Mode, Mapping[Signal, float]] = {}
        self._rescore = rescore
        self._candidates = candidates
        self._exact = version.exact
        self._vectors = version.exact.vectors
        self._lexical = version.lexical()
        self._sparse = version.sparse()
        self._multi_vectors = version.multi_vectors()
        self._lines = version.lines()
        self._order = self._lines.order
        self.visibility = Visibility(version, self._lexical)
        """Views of the index for its callers."""
        self.everything = self.visibility.everything
        self._filters_in_store = store != AUTO
        self._store = self._open_store(store)
        """None: queries are compared with all vectors."""
        self.tail = orjson.dumps({"collection": self.collection, "index_version": self.name})[1:]
        """Last part of the JSON of every passage."""
        self._batcher = MicroBatcher(self.rank_now, max_items=_MAX_BATCH, name=f"search-{version.name}")

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the embedder that made the vectors."""
        return self.version.manifest.embedder.fingerprint

    @property
    def dimension(self) -> int:
        """Dimension of the vectors."""
        return self.version.manifest.embedder.dimension

    def __len__(self) -> int:
        return len(self._lines)

    def applicable_calibration(self) -> dict[str, Any] | None:
        """The calibration, unless it was made with another version or embedder."""
        made_for = None if self.calibration is None else [self.calibration.get(key) for key in _CALIBRATED_FOR]
        return self.calibration if made_for == [self.name, self.fingerprint] else None

    def document(self, document_id: str, visible: Visible) -> Document:
        """A stored document. Blocks. Raises UnknownDocumentError also if the caller may not read it."""
        return self.version.document(document_id, visible.admits)

    def weights_of(self, mode: Mode) -> Mapping[Signal, float]:
        """Signals that this mode uses → their shares of the score.

        Raises:
            MissingPartError: the index lacks one of them.
        """
        weights = self._weights_of.get(mode)
        if weights is None:
            weights = self._weights_of[mode] = self.weights.of(self.parts, mode, self.version.manifest.trust)
        return weights

    def is_quick(self, queries: int) -> bool:
        """Whether a search for this many queries takes less time than a switch of threads."""
        few = self._vectors.size * queries <= _INLINE_NUMBERS
        return few and self._store is None and self._multi_vectors is None

    async def rank(self, searches: Sequence[Search], ctx: CallContext) -> list[Ranked]:
        """The candidates of each search, in their order.

        Raises:
            DeadlineExceededError: the search did not end in time.
        """
        left_s = ctx.check("the index was searched")
        if self.is_quick(len(searches)) and sum(len(search.query.text) for search in searches) <= _INLINE_CHARS:
            return self.rank_now(searches)
        try:
            return await asyncio.wait_for(self._batcher.submit(searches), left_s)
        except asyncio.TimeoutError as error:
            raise DeadlineExceededError("The index was not searched before the request's deadline.") from error

    def rank_now(self, searches: Sequence[Search]) -> list[Ranked]:
        """Like `rank`, in the calling thread and without a deadline."""
        weights = [self.weights_of(search.query.mode) for search in searches]
        nearest = self._nearest([search for search, of in zip(searches, weights, strict=True) if "dense" in of])
        return [
            self._rank(search.query, search.visible, of, next(nearest) if "dense" in of else NO_HITS)
            for search, of in zip(searches, weights, strict=True)
        ]

    def line(self, row: int) -> bytes:
        """JSON object with the fields of the row's passage that do not depend on the query."""
        return self._lines[row]

    def vectors(self, rows: npt.NDArray[np.int64]) -> Vectors:
        """float32[n, dim] of the rows."""
        return self._vectors[rows]

    def matched(self, terms: Terms, row: int) -> dict[str, float]:
        """Terms of the query in the row → their BM25 scores."""
        return self._lexical.matched(terms, row)

    def close(self) -> None:
        """Releases files, memory and the thread."""
        self._batcher.close()
        if self._store is not None:
            self._store.close()
        self.version.close()

    def _open_store(self, name: str) -> Store | None:
        if name == AUTO and self._vectors.size <= _EXACT_NUMBERS:
            return None
        try:
            store = self.version.open_store(None if name == AUTO else name)
            if isinstance(store, VectorTable):  # the same vectors are already open
                store.close()
                return None
            try:
                # Some stores read their files at the first search: do it before they can be pruned.
                store.search(self._vectors[:1], limit=1, where=None, mask=None)
            except StoreFailedError:
                store.close()
                raise
        except (StoreFailedError, SettingError) as error:
            if name != AUTO:
                raise
            logger.warning("comparing with all vectors of %s, because its store failed: %s", self.name, error)
            return None
        return store

    def _nearest(self, searches: Sequence[Search]) -> Iterator[Hits]:
        """Each query's nearest rows with their exact cosines. One call of the store for each filter and view."""
        groups: dict[tuple[bytes, int], list[int]] = {}
        for number, search in enumerate(searches):
            where = search.query.where
            key = b"" if where is None else orjson.dumps(where, option=orjson.OPT_SORT_KEYS)
            groups.setdefault((key, id(search.visible)), []).append(number)
        hits: dict[int, Hits] = {}
        for numbers in groups.values():
            first = searches[numbers[0]]
            limit = max(self._depth(searches[number].query) for number in numbers)
            vectors = np.stack([searches[number].query.vector for number in numbers])
            found = self._search(vectors, limit, first.query.where, first.visible)
            hits.update(zip(numbers, found, strict=True))
        for number, search in enumerate(searches):
            query = search.query
            depth = self._depth(query)
            rows, similarities = hits[number].rows[:depth], hits[number].scores[:depth]
            if self._store is not None:
                # Check the store's rows with the version's own metadata and vectors.
                mask = self._mask(query.where, search.visible)
                if mask is not None:
                    rows = rows[mask[rows]]
                similarities = cosines(self._vectors[rows], query.vector)
            yield Hits(rows, similarities)

    def _mask(self, where: Where | None, visible: Visible) -> Mask | None:
        """bool[rows]: rows that may be found; None: all."""
        if where is None:
            return visible.mask
        mask = self._exact.fields.mask(where)
        return mask if visible.mask is None else mask & visible.mask

    def _search(self, vectors: Vectors, limit: int, where: Where | None, visible: Visible) -> list[Hits]:
        """The nearest rows of each query. With a filter, or if rows are hidden, chooses the fastest method."""
        mask = self._mask(where, visible)
        if mask is None or (visible.mask is None and (self._store is None or self._filters_in_store)):
            return self._search_store(vectors, limit, where)
        if self._store is not None:
            passing = int(mask.sum())
            # Chroma takes 30 times as long with a filter, so ask for more rows and filter them here.
            if passing * self.dimension > _FILTERED_NUMBERS:
                asked = math.ceil(limit * len(mask) / passing * _SPARE)
                found = [_masked(hits, mask) for hits in self._search_store(vectors, asked, None)]
                if all(len(hits.rows) >= min(limit, passing) for hits in found):
                    return found
        return self._exact.search(vectors, limit=limit, mask=mask)

    def _search_store(self, vectors: Vectors, limit: int, where: Where | None) -> list[Hits]:
        if self._store is not None:
            try:
                return self._store.search(vectors, limit=limit, where=where, mask=None)
            except UnsupportedFilterError:
                pass
            except StoreFailedError:
                # If the version was pruned in the meantime, its store is gone, but its vectors are still mapped.
                if self.version.folder.exists():
                    raise
        return self._exact.search(vectors, limit=limit, where=where)

    def _depth(self, query: Query) -> int:
        return max(self._candidates, query.num_docs)

    def _rank(self, query: Query, visible: Visible, weights: Mapping[Signal, float], nearest: Hits) -> Ranked:
        depth = self._depth(query)
        lexical = visible.lexical or self._lexical
        terms = lexical.analyse(query.text)
        scores = lexical.scores(terms)
        mask = self._mask(query.where, visible)
        found = []
        if "lexical" in weights:
            found.append(best(scores, depth, mask, self._order).rows)
        sparse_scores: Vectors | None = None
        if "sparse" in weights and self._sparse is not None and query.sparse is not None:
            sparse_scores = self._sparse.scores(query.sparse)
            found.append(best(sparse_scores, depth, mask, self._order).rows)
        new = np.ones(len(self), np.bool_)
        new[nearest.rows] = False
        rows, similarities = nearest.rows, nearest.scores
        for other in found:
            fresh = other[new[other]]
            new[fresh] = False
            rows = np.concatenate([rows, fresh])
            similarities = np.concatenate([similarities, cosines(self._vectors[fresh], query.vector)])
        signals: dict[Signal, npt.NDArray[np.floating[Any]]] = {
            "dense": similarities,
            "lexical": scores[rows].astype(np.float64) / (terms.greatest or 1.0),
        }
        if sparse_scores is not None:
            signals["sparse"] = sparse_scores[rows]
        first_stage: dict[Signal, float] = {
            signal: weight for signal, weight in weights.items() if signal != "multi_vector"
        }
        totals = weighted(first_stage, signals)
        left_out: list[tuple[int, CutReason]] = []
        if "multi_vector" in weights and self._multi_vectors is not None and query.multi_vectors is not None:
            order = np.lexsort((self._order[rows], -totals))
            order, rest = np.split(order, [max(self._rescore, query.num_docs)])
            if query.explain:
                left_out.extend((int(row), "rescore") for row in rows[rest])
            rows = rows[order]
            signals = {signal: values[order] for signal, values in signals.items()}
            signals["multi_vector"] = self._multi_vectors.scores(query.multi_vectors, rows)
            totals = weighted(weights, signals)
        order = np.lexsort((self._order[rows], -totals))
        if query.explain and query.where is not None and mask is not None:
            left_out.extend((row, "filter") for row in self._filtered(query, visible, mask, scores))
        return Ranked(
            self,
            visible,
            rows[order],
            totals[order],
            weights,
            {signal: values[order] for signal, values in signals.items()},
            terms,
            tuple(left_out),
        )

    def similarity_of_parts(self, query: Vectors, row: int, bounds: Vectors) -> Vectors:
        """See `MultiVectorIndex.scores_of_parts`. Empty if the index has no multi-vectors."""
        if self._multi_vectors is None:
            return np.empty(0, np.float32)
        return self._multi_vectors.scores_of_parts(query, row, bounds)

    def _filtered(self, query: Query, visible: Visible, mask: Mask, scores: npt.NDArray[np.float32]) -> list[int]:
        """Visible rows that the search by vectors and words would find without its filter."""
        depth = self._depth(query)
        (near,) = self._search(query.vector[None], depth, None, visible)
        seen = np.union1d(near.rows, best(scores, depth, visible.mask).rows)
        return [int(row) for row in seen[~mask[seen]]]


def _masked(hits: Hits, mask: npt.NDArray[np.bool_]) -> Hits:
    kept = mask[hits.rows]
    return Hits(hits.rows[kept], hits.scores[kept])


_CALIBRATED_FOR = ("index_version", "embedder")
