"""The state of a search: one query, the indexes to search, and the candidates found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from embedder.wire import Embeddings
from vectorstore.search.passages import QueryResult, select_passages
from vectorstore.search.searchable import Query, Ranked, Search, SearchableIndex
from vectorstore.search.visibility import Visible
from vectorstore.wire import Signal


@dataclass(slots=True)
class SearchPlan:
    """One query on its way through the stages of a search."""

    query: Query
    indexes: Mapping[SearchableIndex, Visible]
    """Indexes that the query names, in order, and the part of each that the caller may see."""
    rankings: dict[SearchableIndex, Ranked] = field(default_factory=dict)
    """Index → candidates, filled by the search."""
    query_tokens: int = 0
    query_truncated: bool = False

    @property
    def searched(self) -> list[SearchableIndex]:
        """Indexes to search: those with documents for the caller. None if the query asks for no passages."""
        return [index for index, visible in self.indexes.items() if visible.rows] if self.query.num_docs else []

    @property
    def is_quick(self) -> bool:
        """Whether selecting the passages takes less time than a switch of threads."""
        query = self.query
        return not (query.neighbours or query.diversity or query.explain or query.sentence_similarity)

    def signals(self) -> set[Signal]:
        """Signals that the search needs. Raises MissingPartError if an index lacks one of them."""
        return {signal for index in self.indexes for signal in index.weights_of(self.query.mode)}

    def embed(self, embeddings: Embeddings, row: int) -> None:
        """Sets the query's vectors from a row of the embeddings."""
        self.query = replace(
            self.query,
            vector=embeddings.dense[row],
            sparse=None if embeddings.sparse is None else embeddings.sparse[row],
            multi_vectors=None if embeddings.multi_vectors is None else embeddings.multi_vectors[row],
        )
        self.query_tokens = int(embeddings.token_counts[row])
        self.query_truncated = bool(embeddings.truncated[row])

    def search_of(self, index: SearchableIndex) -> Search:
        """The query in one of its indexes."""
        return Search(self.query, self.indexes[index])

    def result(self) -> QueryResult:
        """Selects passages among the candidates. Reads files of the indexes."""
        passages, cut, similarity = select_passages(
            self.query, [self.rankings[index] for index in self.indexes if index in self.rankings]
        )
        return QueryResult(
            passages,
            {index.collection: index.name for index in self.indexes},
            cut,
            similarity,
            self.query_tokens,
            self.query_truncated,
            calibration=next(iter(self.indexes)).applicable_calibration(),
        )
