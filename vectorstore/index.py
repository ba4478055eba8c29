"""An index version loaded for serving: the candidates of a query, with every signal's exact value and their score.

Stages: each first-stage signal (the vectors; BM25) gives its best rows; their union are the candidates; every one of
them gets the value of every signal; the score is the weighted mean.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson

from chassis.context import CallContext
from chassis.errors import DeadlineExceededError
from embedder.wire import SparseVector
from vectorstore.batching import MicroBatcher
from vectorstore.errors import StoreFailedError
from vectorstore.filters import Where, has_fractions
from vectorstore.lexical import Terms, best
from vectorstore.scoring import Scores, Weights, weighted
from vectorstore.stores import Hits, Store, Vectors, cosines
from vectorstore.versions import Document, IndexVersion
from vectorstore.wire import CutReason, Mode, Signal

logger = logging.getLogger("vectorstore.index")

StoreName = Literal["auto", "exact", "chroma"]

_EXACT_NUMBERS = 20_000_000
"""`auto` compares with every vector up to this many float32 in the index, and asks Chroma beyond: 52,000 chunks of 384
dimensions. Below, the comparison is exact and takes no longer (measured: docs/decisions)."""

_FILTERED_NUMBERS = 10_000_000
"""With a filter, `auto` compares with every vector that passes it, up to this many float32."""

_SPARE = 1.5
"""How many more neighbours Chroma is asked for than would do if the filter let the same share of all through."""

_INLINE_NUMBERS = 2_000_000
"""Up to this many float32 compared, a search takes less time than handing it to a thread and back."""

_INLINE_CHARS = 20_000
"""The same of the characters of the queries, which are stemmed: about ten milliseconds per thousand words."""

_MAX_BATCH = 64


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for."""

    text: str
    num_docs: int
    where: Where | None = None
    vector: Vectors = field(default_factory=lambda: np.empty(0, np.float32))
    """float32[dim], L2-normalised; none until the embedder has answered."""
    sparse: SparseVector | None = None
    multi_vectors: Vectors | None = None
    """float32[tokens, dim], rows L2-normalised."""
    mode: Mode = "rescored"
    min_score: float | None = None
    diversity: float = 0.0
    neighbours: int = 0
    explain: bool = False


@dataclass(frozen=True, slots=True)
class Ranked:
    """The candidates of one query in one index, best first; equal scores in the order of chunk ids."""

    index: LoadedIndex
    rows: npt.NDArray[np.int64]
    scores: Scores
    weights: Mapping[Signal, float]
    signals: Mapping[Signal, npt.NDArray[np.floating[Any]]]
    """Signal → its value for each candidate; `dense` and `lexical` always."""
    terms: Terms
    left_out: tuple[tuple[int, CutReason], ...] = ()
    """Rows that were looked at and are no candidates; only where the query asks to explain."""


class LoadedIndex:
    """Everything that a search needs, in memory or mapped. Close it when its last search has ended."""

    def __init__(
        self,
        version: IndexVersion,
        *,
        store: StoreName,
        candidates: int,
        rescore: int = 32,
        weights: Weights | None = None,
    ) -> None:
        self.version = version
        self.name = version.name
        self.collection = version.manifest.name
        self.calibration: dict[str, Any] | None = None
        """Content of the version's calibration file. It may appear or change while the version is served."""
        self.weights = weights or Weights()
        self.parts: Sequence[Signal] = version.manifest.parts
        """Signals that the version can be searched by."""
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
        self._store: Store = self._choose(store)
        self._may_choose = store == "auto"
        # Chroma reads its files at the first search: now, while nobody waits and before they could be pruned.
        try:
            self._store.search(self._vectors[:1], limit=1)
        except StoreFailedError:
            self._store.close()
            raise
        self.tail = orjson.dumps({"collection": self.collection, "index_version": self.name})[1:]
        """End of the JSON of every passage."""
        self._gatherer = MicroBatcher(self.rank_now, max_items=_MAX_BATCH, name=f"search-{version.name}")

    @property
    def fingerprint(self) -> str:
        """Of the embedder that made the vectors."""
        return self.version.manifest.embedder.fingerprint

    @property
    def dimension(self) -> int:
        """Of the vectors."""
        return self.version.manifest.embedder.dimension

    @property
    def fields(self) -> Collection[str]:
        """Metadata fields that filters may name."""
        return self.version.manifest.metadata_fields.keys()

    def __len__(self) -> int:
        return len(self._lines)

    def applicable_calibration(self) -> dict[str, Any] | None:
        """The calibration, unless it was made with another version or embedder."""
        made_for = None if self.calibration is None else [self.calibration.get(key) for key in _CALIBRATED_FOR]
        return self.calibration if made_for == [self.name, self.fingerprint] else None

    def document(self, document_id: str) -> Document:
        """A stored document. Blocks."""
        return self.version.document(document_id)

    def needs(self, mode: Mode) -> Collection[Signal]:
        """Signals that a query in this mode is searched by.

        Raises:
            MissingPartError: one that the index was built without.
        """
        return self._weights(mode)

    def is_quick(self, queries: int) -> bool:
        """Whether so many queries are searched in less time than it takes to hand them to a thread."""
        few = self._vectors.size * queries <= _INLINE_NUMBERS
        return few and self._store is self._exact and self._multi_vectors is None

    async def rank(self, queries: Sequence[Query], ctx: CallContext) -> list[Ranked]:
        """The candidates of each query, in their order.

        Raises:
            DeadlineExceededError: they were not found in time.
        """
        left_s = ctx.check("the index was searched")
        if self.is_quick(len(queries)) and sum(len(query.text) for query in queries) <= _INLINE_CHARS:
            return self.rank_now(queries)
        try:
            return await asyncio.wait_for(self._gatherer.submit(queries), left_s)
        except asyncio.TimeoutError as error:
            raise DeadlineExceededError("The index was not searched within the request's deadline.") from error

    def rank_now(self, queries: Sequence[Query]) -> list[Ranked]:
        """As `rank`, in the calling thread."""
        weights = [self._weights(query.mode) for query in queries]
        nearest = self._nearest([query for query, of in zip(queries, weights, strict=True) if "dense" in of])
        return [
            self._rank(query, of, next(nearest) if "dense" in of else _NO_HITS)
            for query, of in zip(queries, weights, strict=True)
        ]

    def line(self, row: int) -> bytes:
        """The fixed part of the row's passage: a JSON object."""
        return self._lines[row]

    def vectors(self, rows: npt.NDArray[np.int64]) -> Vectors:
        """float32[n, dim] of the rows."""
        return self._vectors[rows]

    def matched(self, terms: Terms, row: int) -> dict[str, float]:
        """Terms of the query that the row has → their BM25 scores."""
        return self._lexical.matched(terms, row)

    def health(self) -> None:
        """Returns if the store can answer, raises `StoreFailedError` otherwise."""
        self._store.health()

    def close(self) -> None:
        """Frees files, memory and the thread."""
        self._gatherer.close()
        if self._store is not self._exact:
            self._store.close()
        self.version.close()

    def _choose(self, name: StoreName) -> Store:
        if name == "exact" or (name == "auto" and self._vectors.size <= _EXACT_NUMBERS):
            return self._exact
        try:
            return self.version.chroma()
        except StoreFailedError as error:
            if name == "chroma":
                raise
            logger.warning("searching every vector of %s instead: %s", self.name, error.message)
            return self._exact

    def _nearest(self, queries: Sequence[Query]) -> Iterator[Hits]:
        """Each query's nearest rows with their exact cosines: one store call for each filter."""
        groups: dict[bytes, list[int]] = {}
        for number, query in enumerate(queries):
            key = b"" if query.where is None else orjson.dumps(query.where, option=orjson.OPT_SORT_KEYS)
            groups.setdefault(key, []).append(number)
        hits: dict[int, Hits] = {}
        for numbers in groups.values():
            limit = max(self._depth(queries[number]) for number in numbers)
            vectors = np.stack([queries[number].vector for number in numbers])
            found = self._search(vectors, limit, queries[numbers[0]].where)
            hits.update(zip(numbers, found, strict=True))
        for number, query in enumerate(queries):
            depth = self._depth(query)
            rows, similarities = hits[number].rows[:depth], hits[number].similarities[:depth]
            if self._store is not self._exact:
                if query.where is not None:
                    # Chroma compares 2021.5 as 2021 with whole numbers.
                    rows = rows[self._exact.fields.mask(query.where)[rows]]
                similarities = cosines(self._vectors[rows], query.vector)
            yield Hits(rows, similarities)

    def _search(self, vectors: Vectors, limit: int, where: Where | None) -> list[Hits]:
        """The nearest rows of each query; with a filter, in the way that takes least time."""
        trusted = not self._may_choose and not has_fractions(where)
        if where is None or trusted or self._store is self._exact:
            return self._ask_store(vectors, limit, where)
        mask = self._exact.fields.mask(where)
        passing = int(mask.sum())
        # Chroma takes thirty times as long with a filter as without: it is asked for more, and the rest taken out here.
        if passing * self.dimension > _FILTERED_NUMBERS:
            asked = math.ceil(limit * len(mask) / passing * _SPARE)
            found = [_masked(hits, mask) for hits in self._ask_store(vectors, asked, None)]
            if all(len(hits.rows) >= min(limit, passing) for hits in found):
                return found
        return self._exact.search(vectors, limit=limit, where=where)

    def _ask_store(self, vectors: Vectors, limit: int, where: Where | None) -> list[Hits]:
        try:
            return self._store.search(vectors, limit=limit, where=where)
        except StoreFailedError:
            # Chroma opens its database again when it likes, also that of a version which was pruned under its last
            # requests. The exact vectors are mapped: they stay.
            if self.version.folder.exists():
                raise
            return self._exact.search(vectors, limit=limit, where=where)

    def _depth(self, query: Query) -> int:
        return max(self._candidates, query.num_docs)

    def _rank(self, query: Query, weights: Mapping[Signal, float], nearest: Hits) -> Ranked:
        depth = self._depth(query)
        terms = self._lexical.analyse(query.text)
        scores = self._lexical.scores(terms)
        mask = None if query.where is None else self._exact.fields.mask(query.where)
        found = []
        if "lexical" in weights:
            found.append(best(scores, depth, mask, self._order).rows)
        sparse_scores: Vectors | None = None
        if "sparse" in weights and self._sparse is not None and query.sparse is not None:
            sparse_scores = self._sparse.scores(query.sparse)
            found.append(best(sparse_scores, depth, mask, self._order).rows)
        new = np.ones(len(self), np.bool_)
        new[nearest.rows] = False
        rows, similarities = nearest.rows, nearest.similarities
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
        if query.explain and mask is not None:
            left_out.extend((row, "filter") for row in self._filtered(query, mask, scores))
        return Ranked(
            self,
            rows[order],
            totals[order],
            weights,
            {signal: values[order] for signal, values in signals.items()},
            terms,
            tuple(left_out),
        )

    def _filtered(self, query: Query, mask: npt.NDArray[np.bool_], scores: npt.NDArray[np.float32]) -> list[int]:
        """Rows that the same search by vectors and words would have seen without its filter."""
        (near,) = self._store.search(query.vector[None], limit=self._depth(query))
        seen = np.union1d(near.rows, best(scores, self._depth(query)).rows)
        return [int(row) for row in seen[~mask[seen]]]

    def _weights(self, mode: Mode) -> Mapping[Signal, float]:
        weights = self._weights_of.get(mode)
        if weights is None:
            weights = self._weights_of[mode] = self.weights.of(self.parts, mode)
        return weights


def _masked(hits: Hits, mask: npt.NDArray[np.bool_]) -> Hits:
    kept = mask[hits.rows]
    return Hits(hits.rows[kept], hits.similarities[kept])


_CALIBRATED_FOR = ("index_version", "embedder")
_NO_HITS = Hits(np.empty(0, np.int64), np.empty(0, np.float32))
