"""BM25 over the chunks of an index version: an inverted index with precomputed weights, memory-mapped for searches.

docs/decisions/0006 explains why no library is used.

Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), with Lucene's inverse
document frequency, which is never negative. Scores are computed when indexing, as in Lù, "BM25S" (arXiv:2407.03618).
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from text_analysis import stems
from text_analysis.stems import UNSTEMMED, language_of
from text_analysis.terms import IndexAnalyzer
from vectorstore.errors import DamagedIndexError, UnsupportedFormatError
from vectorstore.signals.dense import Hits, best
from vectorstore.signals.postings import Floats, Ints, Posting, Postings, PostingsWriter

LANGUAGES = ("auto", UNSTEMMED, *stems.LANGUAGES)
"""Values of `LexicalSettings.language`. `auto`: detected from the words of the first texts."""

_TEXTS_TO_DECIDE = 500

_LENGTHS = "lengths.i32"
"""Number of terms of each row. Versions of earlier releases lack the file."""


@dataclass(frozen=True, slots=True)
class LexicalSettings:
    """Language of the texts, and constants of BM25."""

    language: str = "auto"
    """One of `LANGUAGES`."""
    k1: float = 1.5
    """Saturation: at higher values, repetitions of a term count more."""
    b: float = 0.75
    """Length normalisation, 0 (none) … 1 (full)."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms of a query in an index."""

    known: tuple[tuple[str, int, Posting], ...]
    """Term, its count in the query, and the rows that contain it."""
    greatest: float
    """Upper bound of a chunk's score: the limit for infinitely many repetitions of all terms, known or not."""


class LexicalWriter:
    """Builds the index in a folder. Only the vocabulary is in memory; everything else is streamed to disk."""

    def __init__(self, folder: Path, settings: LexicalSettings) -> None:
        self._postings = PostingsWriter(folder)
        self._folder = folder
        self._settings = settings
        self._language = settings.language
        self._analyzer: IndexAnalyzer | None = None
        self._undecided: list[str] = []
        self._vocabulary: dict[str, int] = {}
        self._lengths = (folder / "lengths.tmp").open("w+b")

    def add(self, texts: Iterable[str]) -> None:
        """Appends one row per text."""
        for text in texts:
            if self._analyzer is None:
                self._undecided.append(text)
                if self._language != "auto" or len(self._undecided) >= _TEXTS_TO_DECIDE:
                    self._decide()
            else:
                self._add(self._analyzer, text)

    def _decide(self) -> None:
        """Chooses the language (`auto`: from the texts so far), and indexes these texts."""
        if self._language == "auto":
            self._language = language_of(self._undecided)
        self._analyzer = IndexAnalyzer(self._language)
        for text in self._undecided:
            self._add(self._analyzer, text)
        self._undecided.clear()

    def _add(self, analyzer: IndexAnalyzer, text: str) -> None:
        vocabulary = self._vocabulary
        counts = Counter(analyzer.terms(text))
        keys = [vocabulary.setdefault(term, len(vocabulary)) for term in counts]
        self._postings.add(keys, list(counts.values()))
        self._lengths.write(sum(counts.values()).to_bytes(4, "little"))

    def finish(self) -> None:
        """Writes the searchable files and removes the temporary ones."""
        if self._analyzer is None:
            self._decide()
        self.close()
        folder, rows = self._folder, self._postings.rows
        lengths = np.fromfile(folder / "lengths.tmp", "<i4")
        k1, b = self._settings.k1, self._settings.b
        length_factor = k1 * (1 - b + b * lengths / _average(lengths))

        def weigh(frequencies: Ints) -> Callable[[Ints, Ints, Floats], Floats]:
            idf = _idf(rows, frequencies)

            def bm25(terms: Ints, chunks: Ints, counts: Floats) -> Floats:
                tf = counts.astype(np.float64)
                weights: Floats = idf[terms] * tf * (k1 + 1) / (tf + length_factor[chunks])
                return weights

            return bm25

        self._postings.finish(len(self._vocabulary), weigh)
        (folder / "terms.txt").write_text("\n".join(self._vocabulary), encoding="utf-8")
        description = {"analyzer": IndexAnalyzer.version, "language": self._language, "k1": k1, "b": b, "rows": rows}
        (folder / "lexical.json").write_bytes(orjson.dumps(description))
        (folder / "lengths.tmp").rename(folder / _LENGTHS)

    def close(self) -> None:
        """Closes the temporary files."""
        self._postings.close()
        self._lengths.close()


class LexicalIndex:
    """Searches the files of `LexicalWriter`. Thread-safe; works on read-only volumes."""

    def __init__(self, folder: Path) -> None:
        """Opens the index.

        Raises:
            DamagedIndexError: a file is missing or unreadable.
            UnsupportedFormatError: its terms come from an incompatible version of `IndexAnalyzer`.
        """
        try:
            description = orjson.loads((folder / "lexical.json").read_bytes())
            terms = (folder / "terms.txt").read_text(encoding="utf-8")
            if not IndexAnalyzer.reads(description.get("analyzer"), terms):
                raise UnsupportedFormatError(
                    f"The lexical index was built by analyzer {description.get('analyzer')}, but this release has "
                    f"analyzer {IndexAnalyzer.version}: build it again with `kserve-rag ingest`."
                )
            self._postings = Postings(folder)
            self._analyzer = IndexAnalyzer(description["language"])
            self._rows = int(description["rows"])
            self._k1, self._b = float(description["k1"]), float(description["b"])
            self._lengths = np.fromfile(folder / _LENGTHS, "<i4") if (folder / _LENGTHS).exists() else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedIndexError("The lexical index cannot be read: publish again.") from error
        self._vocabulary = {term: i for i, term in enumerate(terms.split("\n"))} if terms else {}
        if len(self._postings) != len(self._vocabulary):
            raise DamagedIndexError("The lexical index is incomplete: publish again.")
        self._count = self._rows
        """Number of rows that count for the inverse document frequency."""
        self._mask: npt.NDArray[np.bool_] | None = None
        self._average = self._average_seen = 1.0
        """Average length of all rows, and of those where the mask is true."""

    def __len__(self) -> int:
        return self._rows

    def within(self, mask: npt.NDArray[np.bool_]) -> LexicalIndex:
        """The same index as if it had only the rows where `mask`, bool[rows], is true. Shares the files.

        Raises:
            UnsupportedFormatError: an earlier release built the index.
        """
        if self._lengths is None:
            raise UnsupportedFormatError(
                "This version was built by an earlier release, and cannot be searched under access control: build it "
                "again with `kserve-rag ingest`."
            )
        narrowed = copy.copy(self)
        narrowed._mask, narrowed._count = mask, int(mask.sum())
        narrowed._average, narrowed._average_seen = _average(self._lengths), _average(self._lengths[mask])
        return narrowed

    def analyse(self, query: str) -> Terms:
        """The terms of the query in the index."""
        known: list[tuple[str, int, Posting]] = []
        greatest = 0.0
        for term, times in Counter(self._analyzer.terms(query)).items():
            number = self._vocabulary.get(term)
            frequency = 0
            if number is not None:
                posting = self._posting(number)
                frequency = len(posting.rows)
                known.append((term, times, posting))
            greatest += times * math.log1p((self._count - frequency + 0.5) / (frequency + 0.5))
        return Terms(tuple(known), greatest * (self._k1 + 1))

    def scores(self, query: str | Terms) -> npt.NDArray[np.float32]:
        """float32[rows]: BM25 score of every row; 0 if it contains no term of the query."""
        scores = np.zeros(self._rows, np.float32)
        for _, times, posting in self._terms(query).known:
            posting.add_to(scores, times)
        return scores

    def matched(self, query: str | Terms, row: int) -> dict[str, float]:
        """Terms of the query in the row → their share of its score, greatest first."""
        found: dict[str, float] = {}
        for term, times, posting in self._terms(query).known:
            weight = posting.weight(row)
            if weight is not None:
                found[term] = weight * times
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def search(self, query: str, *, limit: int, mask: npt.NDArray[np.bool_] | None = None) -> Hits:
        """The best `limit` rows that share a term with the query. `mask`: bool[rows], false for rows to exclude."""
        return best(self.scores(query), limit, mask)

    def _terms(self, query: str | Terms) -> Terms:
        return self.analyse(query) if isinstance(query, str) else query

    def _posting(self, number: int) -> Posting:
        """The rows of a term and their weights, computed again if only some rows count."""
        posting = self._postings[number]
        if self._mask is None or self._lengths is None:
            return posting
        chosen = self._mask[posting.rows]
        rows = posting.rows[chosen]
        # Solve BM25 for the term's count in each row, which is not stored.
        lengths, k1 = self._lengths[rows], self._k1
        share = posting.weights[chosen] / (_idf(self._rows, len(posting.rows)) * (k1 + 1))
        counts = share * self._length_factor(lengths, self._average) / np.maximum(1 - share, 1e-9)
        tf = np.maximum(np.rint(counts), 1)
        weights = _idf(self._count, len(rows)) * tf * (k1 + 1) / (tf + self._length_factor(lengths, self._average_seen))
        return Posting(rows, weights.astype(np.float32))

    def _length_factor(self, lengths: Ints, average: float) -> Floats:
        factor: Floats = self._k1 * (1 - self._b + self._b * lengths / average)
        return factor


def _average(lengths: Ints) -> float:
    return float(lengths.mean()) if lengths.sum() else 1.0


def _idf(rows: int, frequencies: Any) -> Any:
    """Lucene's formula, which is positive even for a term in every chunk."""
    return np.log1p((rows - frequencies + 0.5) / (frequencies + 0.5))
