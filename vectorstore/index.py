"""An index version loaded for serving: hybrid search over it, and passages as JSON."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import orjson

from chassis.context import CallContext
from chassis.errors import DeadlineExceededError
from vectorstore.batching import Gatherer
from vectorstore.errors import StoreFailedError
from vectorstore.filters import Where
from vectorstore.fusion import fuse
from vectorstore.lexical import best
from vectorstore.stores import Hits, Store, Vectors, cosines
from vectorstore.versions import Document, IndexVersion

logger = logging.getLogger("vectorstore.index")

StoreName = Literal["auto", "exact", "chroma"]

_EXACT_NUMBERS = 20_000_000
"""`auto` compares with every vector up to this many float32 in the index, and asks Chroma beyond: 52,000 chunks of 384
dimensions. Below, the comparison is exact and takes no longer (measured: docs/decisions)."""

_INLINE_NUMBERS = 2_000_000
"""Up to this many float32 compared, a search takes less time than handing it to a thread and back."""

_MAX_BATCH = 64


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for."""

    text: str
    vector: Vectors
    """float32[dim], L2-normalised."""
    num_docs: int
    where: Where | None


@dataclass(frozen=True, slots=True)
class Found:
    """What one query found, best first."""

    passages: list[bytes]
    """Each the JSON of a `wire.Passage`."""
    index_version: str
    query_tokens: int = 0
    query_truncated: bool = False
    timings_ms: Mapping[str, float] = field(default_factory=dict)

    def json(self) -> bytes:
        """The JSON of a `wire.Prediction`."""
        rest = {
            "index_version": self.index_version,
            "query_tokens": self.query_tokens,
            "query_truncated": self.query_truncated,
            "timings_ms": self.timings_ms,
        }
        return b'{"passages":[%b],%b' % (b",".join(self.passages), orjson.dumps(rest)[1:])

    def texts(self) -> list[str]:
        """The texts of the passages alone."""
        return [orjson.loads(passage)["text"] for passage in self.passages]


class LoadedIndex:
    """Everything that a search needs, in memory or mapped. Close it when its last search has ended."""

    def __init__(self, version: IndexVersion, *, store: StoreName, candidates: int) -> None:
        self.version = version
        self.name = version.name
        self._candidates = candidates
        self._exact = version.exact
        self._vectors = version.exact.vectors
        self._lexical = version.lexical()
        self._lines = version.lines()
        self._order = self._lines.order
        self._store: Store = self._choose(store)
        # Chroma reads its files at the first search: now, while nobody waits and before they could be pruned.
        try:
            self._store.search(self._vectors[:1], limit=1)
        except StoreFailedError:
            self._store.close()
            raise
        self._tail = f',"index_version":"{version.name}"}}'.encode()
        self._gatherer = Gatherer(self.search_now, max_items=_MAX_BATCH, name=f"search-{version.name}")

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

    def document(self, document_id: str) -> Document:
        """A stored document. Blocks."""
        return self.version.document(document_id)

    async def search(self, queries: Sequence[Query], ctx: CallContext) -> list[Found]:
        """What each query finds, in their order.

        Raises:
            DeadlineExceededError: it was not found in time.
        """
        left_s = ctx.check("the index was searched")
        if self._store is self._exact and self._vectors.size * len(queries) <= _INLINE_NUMBERS:
            return self.search_now(queries)
        try:
            return await asyncio.wait_for(self._gatherer.submit(queries), left_s)
        except asyncio.TimeoutError as error:
            raise DeadlineExceededError("The index was not searched within the request's deadline.") from error

    def search_now(self, queries: Sequence[Query]) -> list[Found]:
        """As `search`, in the calling thread."""
        found: list[Found | None] = [None] * len(queries)
        for number, dense in self._dense(queries):
            found[number] = self._passages(queries[number], dense)
        return [answer if answer is not None else Found([], self.name) for answer in found]

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

    def _dense(self, queries: Sequence[Query]) -> list[tuple[int, Hits]]:
        """Number of each query that wants passages, and its nearest vectors: one store call for each filter."""
        groups: dict[bytes, list[int]] = {}
        for number, query in enumerate(queries):
            if query.num_docs:
                key = b"" if query.where is None else orjson.dumps(query.where, option=orjson.OPT_SORT_KEYS)
                groups.setdefault(key, []).append(number)
        hits: list[tuple[int, Hits]] = []
        for numbers in groups.values():
            limit = max(self._depth(queries[number]) for number in numbers)
            vectors = np.stack([queries[number].vector for number in numbers])
            found = self._store.search(vectors, limit=limit, where=queries[numbers[0]].where)
            hits.extend(zip(numbers, found, strict=True))
        return hits

    def _depth(self, query: Query) -> int:
        return max(self._candidates, query.num_docs)

    def _passages(self, query: Query, dense: Hits) -> Found:
        depth = self._depth(query)
        mask = None if query.where is None else self._exact.fields.mask(query.where)
        scores = self._lexical.scores(query.text)
        lexical = best(scores, depth, mask)
        nearest = self._ranked(dense.rows, dense.similarities)[:depth]
        if mask is not None and self._store is not self._exact:
            # Chroma compares 2021.5 as 2021 with whole numbers.
            nearest = [row for row in nearest if mask[row]]
        rankings = [nearest, self._ranked(lexical.rows, lexical.scores)]
        fused = fuse(rankings, limit=query.num_docs, tie_order=self._order)
        # Both scores of all of them, whichever search saw them: their sum is compared between queries.
        rows = [row for row, _ in fused]
        similarities = cosines(self._vectors[rows], query.vector).tolist()
        greatest = self._lexical.greatest(query.text) or 1.0
        passages = []
        for (row, score), similarity, lexical_score in zip(fused, similarities, scores[rows].tolist(), strict=True):
            passages.append(
                b'%b,"score":%r,"similarity":%r,"lexical_score":%r,"support":%r%b'
                % (
                    self._lines[row][:-1],
                    score,
                    similarity,
                    lexical_score,
                    similarity + lexical_score / greatest,
                    self._tail,
                )
            )
        return Found(passages, self.name)

    def _ranked(self, rows: np.typing.NDArray[np.int64], scores: Vectors) -> list[int]:
        """Rows by score, ties in the order of chunk ids."""
        ranked: list[int] = rows[np.lexsort((self._order[rows], -scores))].tolist()
        return ranked
