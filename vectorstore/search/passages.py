"""Turns ranked candidates into passages as JSON: merges collections, cuts, diversifies, joins neighbours."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from text_analysis.sentences import sentence_spans
from vectorstore.search.searchable import PassageSource, Query, Ranked
from vectorstore.wire import Cut, CutReason, Evidence, Explanation


@dataclass(frozen=True, slots=True)
class QueryResult:
    """Passages of one query, best first."""

    passages: list[bytes]
    """Each is the JSON of a `wire.Passage`."""
    index_versions: Mapping[str, str]
    """Collection → version, in the order of the query."""
    cut: list[Cut] = field(default_factory=list)
    sentence_similarity: Mapping[str, list[float]] = field(default_factory=dict)
    query_tokens: int = 0
    query_truncated: bool = False
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    calibration: Mapping[str, Any] | None = None
    """Calibration of refusals for the first collection; see `wire.Prediction`."""

    def json(self) -> bytes:
        """The JSON of a `wire.Prediction`."""
        rest = {
            "index_version": next(iter(self.index_versions.values()), ""),
            "index_versions": self.index_versions,
            "cut": [cut.model_dump() for cut in self.cut],
            "sentence_similarity": self.sentence_similarity,
            "query_tokens": self.query_tokens,
            "query_truncated": self.query_truncated,
            "timings_ms": self.timings_ms,
            "calibration": self.calibration,
        }
        return b'{"passages":[%b],%b' % (b",".join(self.passages), orjson.dumps(rest)[1:])

    def texts(self) -> list[str]:
        """Only the texts of the passages."""
        return [orjson.loads(passage)["text"] for passage in self.passages]


@dataclass(slots=True)
class _Candidate:
    ranked: Ranked
    place: int
    """Its index in the arrays of `ranked`."""
    score: float
    document_id: str = ""
    """With `start` and `end`, the passage's span. Set only if neighbours are joined."""
    start: int = 0
    end: int = 0

    @property
    def index(self) -> PassageSource:
        return self.ranked.index

    @property
    def row(self) -> int:
        return int(self.ranked.rows[self.place])


def select_passages(query: Query, ranked: Sequence[Ranked]) -> tuple[list[bytes], list[Cut], dict[str, list[float]]]:
    """Passages of a query as JSON, the candidates cut, and the similarity of sentences (the last two if requested).

    Passages are ordered by descending score, then by collection, then by chunk id. `diversity` affects which candidates
    become passages, but not their order. Reads files of the indexes.

    Args:
        query: the query.
        ranked: its candidates in each collection.
    """
    # If only the score matters, the best candidates are enough.
    best = None if query.explain or query.diversity or query.neighbours else query.num_docs
    candidates = [
        _Candidate(one, place, score) for one in ranked for place, score in enumerate(one.scores[:best].tolist())
    ]
    if len(ranked) > 1:
        candidates.sort(key=lambda candidate: -candidate.score)  # stable
    enough = len(candidates)
    if query.min_score is not None:
        enough = bisect.bisect_right(candidates, -query.min_score, key=lambda candidate: -candidate.score)
    cut: list[tuple[_Candidate, CutReason]] = [(candidate, "min_score") for candidate in candidates[enough:]]
    chosen = _choose(query, candidates[:enough], cut)
    passages = [_passage(query, candidate) for candidate in chosen]
    similarity: dict[str, list[float]] = {}
    if query.sentence_similarity and query.multi_vectors is not None and not query.neighbours:
        similarity = dict(_sentence_similarity(query.multi_vectors, candidate) for candidate in chosen)
    if not query.explain:
        return passages, [], similarity
    cut.sort(key=lambda item: -item[0].score)
    explained = [_cut(item.index, item.row, item.score, reason) for item, reason in cut]
    explained.extend(_cut(one.index, row, None, reason) for one in ranked for row, reason in one.left_out)
    return passages, explained, similarity


def _choose(
    query: Query, candidates: Sequence[_Candidate], cut: list[tuple[_Candidate, CutReason]]
) -> list[_Candidate]:
    """At most `num_docs` of the candidates, best first. Appends the others to `cut`."""
    order = _most_different(candidates, query.diversity) if query.diversity > 0 else iter(range(len(candidates)))
    chosen: dict[int, _Candidate] = {}
    merged: set[int] = set()
    for number in order:
        if len(chosen) == query.num_docs:
            break
        candidate = candidates[number]
        if query.neighbours:
            _widen(candidate, query.neighbours)
            overlapping = [other for other, one in chosen.items() if _overlap(one, candidate)]
            if overlapping:
                # Overlapping passages become one, at the rank of the best.
                group = sorted([*overlapping, number])
                for other in group:
                    chosen.pop(other, None)
                kept = candidates[group[0]]
                kept.start = min(candidates[other].start for other in group)
                kept.end = max(candidates[other].end for other in group)
                chosen[group[0]] = kept
                merged.update(group[1:])
                continue
        chosen[number] = candidate
    if query.explain:
        lowest = max(chosen, default=-1)
        for number, candidate in enumerate(candidates):
            if number in merged:
                cut.append((candidate, "duplicate"))
            elif number not in chosen:
                cut.append((candidate, "diversity" if number < lowest and query.diversity > 0 else "num_docs"))
    return [chosen[number] for number in sorted(chosen)]


def _most_different(candidates: Sequence[_Candidate], diversity: float) -> Iterator[int]:
    """Positions of the candidates in the order of maximal marginal relevance.

    Source: Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking for Reordering Documents and Producing
    Summaries" (SIGIR 1998), with lambda = 1 - diversity, relevance the score, similarity the cosine of vectors.
    """
    if not candidates:
        return
    vectors = np.stack([candidate.index.vectors(np.array([candidate.row]))[0] for candidate in candidates])
    scores = np.array([candidate.score for candidate in candidates])
    free = np.ones(len(candidates), np.bool_)
    nearest = np.full(len(candidates), -np.inf)
    number = 0  # the best candidate comes first
    while True:
        yield number
        free[number] = False
        if not free.any():
            return
        nearest = np.maximum(nearest, (vectors * vectors[number]).sum(axis=1))
        number = int(np.argmax(np.where(free, (1 - diversity) * scores - diversity * nearest, -np.inf)))


def _widen(candidate: _Candidate, neighbours: int) -> None:
    """Extends the span by neighbouring rows of the same document."""
    index, row = candidate.index, candidate.row
    own = orjson.loads(index.line(row))
    candidate.document_id = own["document_id"]
    candidate.start, candidate.end = own["span"]["start"], own["span"]["end"]
    for step in (-1, 1):
        for other in range(row + step, row + step * (neighbours + 1), step):
            line = orjson.loads(index.line(other)) if 0 <= other < len(index) else own
            if line is own or line["document_id"] != candidate.document_id:
                break
            candidate.start = min(candidate.start, line["span"]["start"])
            candidate.end = max(candidate.end, line["span"]["end"])


def _overlap(one: _Candidate, other: _Candidate) -> bool:
    return (
        one.index is other.index
        and one.document_id == other.document_id
        and one.start < other.end
        and other.start < one.end
    )


def _passage(query: Query, candidate: _Candidate) -> bytes:
    index, row = candidate.index, candidate.row
    line = index.line(row)
    if query.neighbours:
        values = orjson.loads(line)
        # Taken from the stored document, because chunks may overlap or omit the space between them.
        text = index.document(candidate.document_id, candidate.ranked.visible).text[candidate.start : candidate.end]
        values.update(text=text, span={"start": candidate.start, "end": candidate.end})
        line = orjson.dumps(values)
    ranked, place = candidate.ranked, candidate.place
    similarity = float(ranked.signals["dense"][place])
    share = float(ranked.signals["lexical"][place])
    explained = b'"explain":%b,' % orjson.dumps(_explained(ranked, place)) if query.explain else b""
    return b'%b,"score":%r,"similarity":%r,"lexical_score":%r,"support":%r,%b%b' % (
        line[:-1],
        candidate.score,
        similarity,
        share * (ranked.terms.greatest or 1.0),
        similarity + share,
        explained,
        index.tail,
    )


def _sentence_similarity(query: npt.NDArray[np.float32], candidate: _Candidate) -> tuple[str, list[float]]:
    """An item of `wire.Prediction.sentence_similarity`; empty if the multi-vectors do not affect the score."""
    line = orjson.loads(candidate.index.line(candidate.row))
    if not candidate.ranked.weights.get("multi_vector"):
        return line["chunk_id"], []
    # Title and headings are embedded before the text.
    before = len("\n".join(dict.fromkeys((line["title"], *line["heading_path"])))) + 2
    ends = [0, *(end for _, end in sentence_spans(line["text"]))]
    bounds = (np.array(ends, np.float32) + np.float32(before)) / np.float32(ends[-1] + before)
    found = candidate.index.similarity_of_parts(query, candidate.row, bounds)
    return line["chunk_id"], [round(value, 4) for value in found.tolist()]


def _explained(ranked: Ranked, place: int) -> dict[str, Any]:
    explanation = Explanation(
        signals={
            signal: Evidence(
                score=float(values[place]),
                weight=ranked.weights.get(signal, 0.0),
                rank=int((values > values[place]).sum()) + 1 if signal in ranked.weights else None,
            )
            for signal, values in ranked.signals.items()
        },
        terms=ranked.index.matched(ranked.terms, int(ranked.rows[place])),
    )
    return explanation.model_dump()


def _cut(index: PassageSource, row: int, score: float | None, reason: CutReason) -> Cut:
    line = orjson.loads(index.line(row))
    return Cut(
        collection=index.collection,
        chunk_id=line["chunk_id"],
        document_id=line["document_id"],
        score=score,
        reason=reason,
    )
