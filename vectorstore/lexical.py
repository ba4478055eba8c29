"""BM25 over the chunks of an index version: an inverted index with ready weights, built once, memory-mapped to search.

Why not a library: see `docs/decisions/`; the known ones hold every token of the corpus in memory while they build.

Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), with Lucene's inverse
document frequency, which is never negative; scores worked out when indexing as in Lù, "BM25S" (arXiv:2407.03618).
"""

from __future__ import annotations

import math
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import orjson
import snowballstemmer

from vectorstore.errors import DamagedIndexError

LANGUAGES: tuple[str, ...] = ("none", *sorted(snowballstemmer.algorithms()))
"""What `LexicalSettings.language` may be; `none` leaves words as they are."""

_TOKEN = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]|[^\W_]+")
"""A word, or one character of a script that is written without spaces."""

_MAX_TOKEN_CHARS = 64
_BLOCK = 1_000_000
"""Postings sorted at a time while building: about 50 MB."""
_CACHED_STEMS = 200_000


@dataclass(frozen=True, slots=True)
class LexicalSettings:
    """How text becomes terms, and BM25's constants."""

    language: str = "english"
    """Snowball stemmer, one of `LANGUAGES`."""
    k1: float = 1.5
    """How slowly repetitions of a term stop counting."""
    b: float = 0.75
    """How much a long chunk is held against it, 0 … 1."""


@dataclass(frozen=True, slots=True)
class LexicalHits:
    """The best chunks of one query, best first; equal scores in the order of rows."""

    rows: npt.NDArray[np.int64]
    """int64[k]: rows of the index version."""
    scores: npt.NDArray[np.float32]
    """float32[k]: BM25, above 0."""


@dataclass(frozen=True, slots=True)
class Terms:
    """A query as terms of an index."""

    known: tuple[tuple[str, int, int], ...]
    """Term, its number in the index, how often the query has it."""
    greatest: float
    """What no chunk's score can exceed."""


class Analyzer:
    """Text → terms: Unicode compatibility form, lower case, words, stems. Thread-safe."""

    def __init__(self, language: str) -> None:
        if language not in LANGUAGES:
            raise ValueError(f"There is no stemmer for {language!r}: use one of {', '.join(LANGUAGES)}.")
        self._stemmer = None if language == "none" else snowballstemmer.stemmer(language)
        self._stems: dict[str, str] = {}
        self._lock = threading.Lock()

    def terms(self, text: str) -> list[str]:
        """Terms in the order of the text, with repetitions."""
        text = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
        stems = self._stems
        return [stems.get(word) or self._stem(word) for word in _TOKEN.findall(text)]

    def _stem(self, word: str) -> str:
        if self._stemmer is None or len(word) > _MAX_TOKEN_CHARS:
            return word[:_MAX_TOKEN_CHARS]
        with self._lock:
            if len(self._stems) >= _CACHED_STEMS:
                self._stems.clear()
            stem = str(self._stemmer.stemWord(word)) or word
            self._stems[word] = stem
        return stem


class LexicalWriter:
    """Builds the index in a folder. Holds the vocabulary in memory; what grows with the corpus is on disk."""

    def __init__(self, folder: Path, settings: LexicalSettings) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._settings = settings
        self._analyzer = Analyzer(settings.language)
        self._vocabulary: dict[str, int] = {}
        self._postings = (folder / "postings.tmp").open("w+b")
        self._lengths = (folder / "lengths.tmp").open("w+b")
        self._rows = 0

    def add(self, texts: Iterable[str]) -> None:
        """Appends one row per text."""
        vocabulary = self._vocabulary
        for text in texts:
            counts = Counter(self._analyzer.terms(text))
            postings = np.empty((len(counts), 3), "<i4")
            postings[:, 0] = [vocabulary.setdefault(term, len(vocabulary)) for term in counts]
            postings[:, 1] = self._rows
            postings[:, 2] = list(counts.values())
            self._postings.write(postings.tobytes())
            self._lengths.write(int(postings[:, 2].sum()).to_bytes(4, "little"))
            self._rows += 1

    def finish(self) -> None:
        """Writes the searchable files and removes the temporary ones."""
        self.close()
        folder = self._folder
        lengths = np.fromfile(folder / "lengths.tmp", "<i4")
        source = folder / "postings.tmp"
        count = source.stat().st_size // 12
        postings = np.memmap(source, "<i4", "r", shape=(count, 3)) if count else np.empty((0, 3), "<i4")
        frequencies = np.zeros(len(self._vocabulary), np.int64)
        for start in range(0, count, _BLOCK):
            frequencies += np.bincount(postings[start : start + _BLOCK, 0], minlength=len(frequencies))
        starts = np.zeros(len(frequencies) + 1, "<i8")
        np.cumsum(frequencies, out=starts[1:])
        # Lucene's form: positive even for a term that every chunk has.
        idf = np.log1p((self._rows - frequencies + 0.5) / (frequencies + 0.5))
        average = float(lengths.mean()) if lengths.sum() else 1.0
        k1, b = self._settings.k1, self._settings.b
        length_factor = k1 * (1 - b + b * lengths / average)
        rows, weights = _create(folder / "rows.i32", "<i4", count), _create(folder / "weights.f32", "<f4", count)
        free = starts[:-1].copy()
        for start in range(0, count, _BLOCK):
            block = np.asarray(postings[start : start + _BLOCK])
            # Stable: within a term, rows stay ascending, block after block.
            block = block[np.argsort(block[:, 0], kind="stable")]
            terms, first, repeats = np.unique(block[:, 0], return_index=True, return_counts=True)
            places = free[block[:, 0]] + np.arange(len(block)) - np.repeat(first, repeats)
            free[terms] += repeats
            tf = block[:, 2].astype(np.float64)
            rows[places] = block[:, 1]
            weights[places] = idf[block[:, 0]] * tf * (k1 + 1) / (tf + length_factor[block[:, 1]])
        for array in (rows, weights):
            if isinstance(array, np.memmap):
                array.flush()
        starts.tofile(folder / "starts.i64")
        (folder / "terms.txt").write_text("\n".join(self._vocabulary), encoding="utf-8")
        description = {"language": self._settings.language, "k1": k1, "b": b, "rows": self._rows}
        (folder / "lexical.json").write_bytes(orjson.dumps(description))
        source.unlink()
        (folder / "lengths.tmp").unlink()

    def close(self) -> None:
        """Closes the temporary files."""
        self._postings.close()
        self._lengths.close()


class LexicalIndex:
    """Searches what `LexicalWriter` wrote. Thread-safe; works on read-only volumes."""

    def __init__(self, folder: Path) -> None:
        try:
            description = orjson.loads((folder / "lexical.json").read_bytes())
            terms = (folder / "terms.txt").read_text(encoding="utf-8")
            self._starts = np.fromfile(folder / "starts.i64", "<i8")
            self._rows = _open(folder / "rows.i32", "<i4")
            self._weights = _open(folder / "weights.f32", "<f4")
            self._analyzer = Analyzer(description["language"])
            self._count = int(description["rows"])
            self._k1 = float(description["k1"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedIndexError("The lexical index cannot be read: publish again.") from error
        self._vocabulary = {term: i for i, term in enumerate(terms.split("\n"))} if terms else {}
        if not len(self._starts) == len(self._vocabulary) + 1 or not len(self._rows) == len(self._weights):
            raise DamagedIndexError("The lexical index is incomplete: publish again.")

    def __len__(self) -> int:
        return self._count

    def analyse(self, query: str) -> Terms:
        """The query's terms as the index knows them."""
        known: list[tuple[str, int, int]] = []
        greatest = 0.0
        for term, times in Counter(self._analyzer.terms(query)).items():
            number = self._vocabulary.get(term)
            frequency = 0
            if number is not None:
                frequency = int(self._starts[number + 1] - self._starts[number])
                known.append((term, number, times))
            greatest += times * math.log1p((self._count - frequency + 0.5) / (frequency + 0.5))
        return Terms(tuple(known), greatest * (self._k1 + 1))

    def scores(self, query: str | Terms) -> npt.NDArray[np.float32]:
        """float32[rows]: BM25 of every row; 0 where it has no term of the query."""
        scores = np.zeros(self._count, np.float32)
        for _, number, times in self._terms(query).known:
            span = slice(self._starts[number], self._starts[number + 1])
            weights = self._weights[span]
            # A row occurs once in a term's postings, so adding by index loses nothing.
            scores[self._rows[span]] += weights if times == 1 else weights * times
        return scores

    def matched(self, query: str | Terms, row: int) -> dict[str, float]:
        """Terms of the query that the row has → their part of its score, greatest first."""
        found: dict[str, float] = {}
        for term, number, times in self._terms(query).known:
            first, end = int(self._starts[number]), int(self._starts[number + 1])
            place = first + int(np.searchsorted(self._rows[first:end], row))
            if place < end and self._rows[place] == row:
                found[term] = float(self._weights[place]) * times
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def greatest(self, query: str | Terms) -> float:
        """What no chunk's score for the query can exceed: every term there, again and again, unknown ones included."""
        return self._terms(query).greatest

    def search(self, query: str, *, limit: int, mask: npt.NDArray[np.bool_] | None = None) -> LexicalHits:
        """At most `limit` rows that share a term with the query; only those where `mask` (bool[rows]) is true."""
        return best(self.scores(query), limit, mask)

    def _terms(self, query: str | Terms) -> Terms:
        return self.analyse(query) if isinstance(query, str) else query


def best(scores: npt.NDArray[np.float32], limit: int, mask: npt.NDArray[np.bool_] | None = None) -> LexicalHits:
    """The greatest of float32[rows] that are above 0, and where `mask` (bool[rows]) is true."""
    if mask is not None:
        scores = np.where(mask, scores, np.float32(0))
    if limit <= 0:
        return LexicalHits(np.empty(0, np.int64), np.empty(0, np.float32))
    rows = np.flatnonzero(scores)
    values = scores[rows]
    if len(rows) > limit:
        border = np.partition(values, -limit)[-limit]
        keep = values >= border
        rows, values = rows[keep], values[keep]
    order = np.lexsort((rows, -values))[:limit]
    return LexicalHits(rows[order], values[order])


def _create(path: Path, dtype: str, count: int) -> npt.NDArray[np.generic]:
    if not count:  # an empty file cannot be mapped
        path.touch()
        return np.empty(0, dtype)
    return np.memmap(path, dtype, "w+", shape=(count,))


def _open(path: Path, dtype: str) -> npt.NDArray[np.generic]:
    # A plain view: slicing an np.memmap object costs several times as much.
    return np.asarray(np.memmap(path, dtype, "r")).view(np.ndarray) if path.stat().st_size else np.empty(0, dtype)
