"""Measures, without labels, how reliable each signal of a version is for its corpus and embedder.

Probes are sentences of the corpus without half of their words; each should find its own chunk. Complete sentences would
favour words and token vectors, which match them exactly. docs/decisions/0047 has the figures behind the limits.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from embedder.wire import Embeddings
from text_analysis.languages import language_shares
from text_analysis.sentences import sentence_spans
from text_analysis.words import has_segmented_script, is_run, words_with_contractions
from vectorstore.signals.dense import Vectors
from vectorstore.signals.lexical import LexicalIndex
from vectorstore.signals.multivectors import MultiVectorIndex
from vectorstore.signals.sparse import SparseIndex
from vectorstore.versions.content import Chunk
from vectorstore.wire import Signal

_PROBES = 96
"""Maximum number of probes, and of chunks whose language is detected."""
_MIN_PROBES = 8
"""With fewer probes, nothing is measured."""
_MIN_WORDS, _MAX_WORDS = 6, 40
"""Minimum and maximum number of words of a sentence. Later words are ignored."""
_ROWS = 20_000
"""Maximum number of rows that compete with a probe's own chunk. Larger indexes are sampled."""
_RESCORED_ROWS = 32
_DENSE_SHARE = 0.4
"""Weight of the cosine in the score that selects these rows. The rest is BM25."""

_LIMITS: Mapping[Signal, tuple[float, float]] = {
    "dense": (0.35, 0.45),
    "lexical": (0.35, 0.45),
    "sparse": (0.35, 0.45),
    "multi_vector": (0.75, 0.85),
}
"""Bounds of a signal's mean reciprocal rank, relative to the best signal's: trust rises from 0 at the first to 1 at the
second."""


class ProbeSampler:
    """Samples chunks while a version is built. The result does not depend on the order of the documents."""

    def __init__(self) -> None:
        self._pool: list[tuple[int, int, str]] = []
        """A heap of (negated hash of a chunk's id, row, text): the chunks with the lowest hashes."""

    def add(self, chunks: Sequence[Chunk], first_row: int) -> None:
        """Samples from the chunks of a document, whose rows begin at `first_row`."""
        for row, chunk in enumerate(chunks, first_row):
            entry = (-_hash(chunk.id), row, chunk.text)
            if len(self._pool) < 2 * _PROBES:
                heapq.heappush(self._pool, entry)
            else:
                heapq.heappushpop(self._pool, entry)

    def languages(self) -> dict[str, float]:
        """Language (ISO 639-1) → share of the sampled chunks, largest first."""
        return language_shares(text for *_, text in sorted(self._pool, reverse=True)[:_PROBES])

    def probes(self) -> list[tuple[int, str]]:
        """Row and query of each probe, from as many chunks as possible; empty if there are too few."""
        waiting = [(row, _queries(text)) for _, row, text in sorted(self._pool, reverse=True)]
        probes: list[tuple[int, str]] = []
        while waiting and len(probes) < _PROBES:
            round_of = [(row, query, queries) for row, queries in waiting if (query := next(queries, None)) is not None]
            probes += [(row, query) for row, query, _ in round_of]
            waiting = [(row, queries) for row, _, queries in round_of]
        return probes[:_PROBES] if len(probes) >= _MIN_PROBES else []


def measure(
    rows: Sequence[int],
    queries: Sequence[str],
    embeddings: Embeddings,
    *,
    vectors: Vectors,
    lexical: LexicalIndex,
    sparse: SparseIndex | None,
    multi_vectors: MultiVectorIndex | None,
) -> dict[Signal, float]:
    """Signal → trust, 0 … 1, for the signals of a version.

    Args:
        rows: row of each probe's own chunk.
        queries: text of each probe.
        embeddings: embeddings of the queries.
        vectors: float32[rows, dim], the version's vectors.
        lexical: the version's lexical index.
        sparse: its learned sparse vectors, if it has them.
        multi_vectors: its multi-vectors, if it has them.
    """
    sample = np.union1d(np.linspace(0, len(vectors) - 1, min(len(vectors), _ROWS)).astype(np.int64), rows)
    own = np.searchsorted(sample, rows)
    compared = vectors[sample]
    reciprocal: dict[Signal, list[float]] = {}
    for number, (place, query) in enumerate(zip(own.tolist(), queries, strict=True)):
        terms = lexical.analyse(query)
        signals: dict[Signal, npt.NDArray[np.floating[Any]]] = {
            "dense": compared @ embeddings.dense[number],
            "lexical": lexical.scores(terms)[sample] / (terms.greatest or 1.0),
        }
        if sparse is not None and embeddings.sparse is not None:
            signals["sparse"] = sparse.scores(embeddings.sparse[number])[sample]
        for signal, scores in signals.items():
            reciprocal.setdefault(signal, []).append(_reciprocal_rank(scores, place))
        if multi_vectors is not None and embeddings.multi_vectors is not None:
            first_stage = _DENSE_SHARE * signals["dense"] + (1 - _DENSE_SHARE) * signals["lexical"]
            best = np.argsort(-first_stage, kind="stable")[:_RESCORED_ROWS]
            late = multi_vectors.scores(embeddings.multi_vectors[number], sample[best])
            found = np.flatnonzero(best == place)
            rank = _reciprocal_rank(late, int(found[0])) if len(found) else 0.0
            reciprocal.setdefault("multi_vector", []).append(rank)
    means = {signal: float(np.mean(values)) for signal, values in reciprocal.items()}
    greatest = max(mean for signal, mean in means.items() if signal != "multi_vector")
    return {
        signal: round(float(np.interp(mean / greatest, _LIMITS[signal], (0, 1))), 2) if greatest else 1.0
        for signal, mean in means.items()
    }


def _reciprocal_rank(scores: npt.NDArray[np.floating[Any]], place: int) -> float:
    return 1 / (1 + int((scores > scores[place]).sum()))


def _queries(text: str) -> Iterator[str]:
    """The text's sentences with half of their words, in a fixed random order."""
    sentences = (text[start:end] for start, end in sentence_spans(text))
    return (query for sentence in sorted(sentences, key=_hash) if (query := _thinned(sentence)))


def _thinned(sentence: str) -> str:
    """Half of the sentence's words; empty if it has too few."""
    words = words_with_contractions(sentence)[:_MAX_WORDS]
    if len(set(words)) < _MIN_WORDS:
        return ""
    kept = sorted(range(len(words)), key=lambda place: _hash(f"{place} {sentence}"))[: (len(words) + 1) // 2]
    query = ""
    for word in (words[place] for place in sorted(kept)):
        unspaced = is_run(word) or has_segmented_script(word)
        query += word if unspaced or not query else f" {word}"
    return query


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big")
