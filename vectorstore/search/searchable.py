"""Types that the stages of a search share: queries, candidates, and the interface of an index that can be searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from chassis.context import CallContext
from embedder.wire import SparseVector
from vectorstore.search.scoring import Scores
from vectorstore.search.visibility import Visible
from vectorstore.signals.dense import Vectors
from vectorstore.signals.lexical import Terms
from vectorstore.stores.filters import Where
from vectorstore.versions import Document
from vectorstore.versions.manifest import Manifest
from vectorstore.wire import CutReason, Mode, Signal


@dataclass(frozen=True, slots=True)
class Query:
    """A query for `LoadedIndex`."""

    text: str
    num_docs: int
    where: Where | None = None
    vector: Vectors = field(default_factory=lambda: np.empty(0, np.float32))
    """float32[dim], L2-normalised; empty until the query is embedded."""
    sparse: SparseVector | None = None
    multi_vectors: Vectors | None = None
    """float32[tokens, dim], rows L2-normalised."""
    mode: Mode = "rescored"
    min_score: float | None = None
    diversity: float = 0.0
    neighbours: int = 0
    explain: bool = False
    sentence_similarity: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    """A query of a caller who sees only a part of the index."""

    query: Query
    visible: Visible


@dataclass(frozen=True, slots=True)
class Ranked:
    """The candidates of a query in one index, best first; equal scores in the order of chunk ids."""

    index: PassageSource
    visible: Visible
    """The part of the index in which the candidates were found."""
    rows: npt.NDArray[np.int64]
    scores: Scores
    weights: Mapping[Signal, float]
    signals: Mapping[Signal, npt.NDArray[np.floating[Any]]]
    """Signal → its value for each candidate. Always has `dense` and `lexical`."""
    terms: Terms
    left_out: tuple[tuple[int, CutReason], ...] = ()
    """Rows that were found but are not candidates. Only if the query sets `explain`."""


class PassageSource(Protocol):
    """The rows that candidates refer to. Rows of a document are neighbours."""

    @property
    def collection(self) -> str:
        """Name of the index."""
        ...

    @property
    def tail(self) -> bytes:
        """Last part of the JSON of every passage."""
        ...

    def __len__(self) -> int: ...

    def line(self, row: int) -> bytes:
        """JSON object with the fields of the row's passage that do not depend on the query."""
        ...

    def vectors(self, rows: npt.NDArray[np.int64]) -> Vectors:
        """float32[n, dim] of the rows, L2-normalised."""
        ...

    def matched(self, terms: Terms, row: int) -> dict[str, float]:
        """Terms of the query in the row → their BM25 scores."""
        ...

    def similarity_of_parts(self, query: Vectors, row: int, bounds: Vectors) -> Vectors:
        """See `MultiVectorIndex.scores_of_parts`. Empty if the index has no multi-vectors."""
        ...

    def document(self, document_id: str, visible: Visible) -> Document:
        """A stored document. Blocks. Raises UnknownDocumentError also if the caller may not read it."""
        ...


class SearchableIndex(Protocol):
    """An index that is open for searches. Thread-safe. Close it after its last search."""

    name: str
    """Version of the index."""
    collection: str
    manifest: Manifest
    calibration: dict[str, Any] | None
    """Content of the version's calibration file, which may change while the version is served."""
    everything: Visible
    """The view of a caller who may see all of it."""

    @property
    def dimension(self) -> int:
        """Dimension of the vectors."""
        ...

    def __len__(self) -> int:
        """Number of chunks."""
        ...

    def applicable_calibration(self) -> dict[str, Any] | None:
        """The calibration, unless it was made with another version or embedder."""
        ...

    def weights_of(self, mode: Mode) -> Mapping[Signal, float]:
        """Signals that this mode uses → their shares of the score. Raises MissingPartError if the index lacks one."""
        ...

    def is_quick(self, queries: int) -> bool:
        """Whether a search for this many queries takes less time than a switch of threads."""
        ...

    async def rank(self, searches: Sequence[Search], ctx: CallContext) -> list[Ranked]:
        """The candidates of each search, in their order. Raises DeadlineExceededError."""
        ...

    def document(self, document_id: str, visible: Visible) -> Document:
        """A stored document. Blocks. Raises UnknownDocumentError also if the caller may not read it."""
        ...

    def close(self) -> None:
        """Releases files, memory and threads."""
        ...
