"""Finds the sentences of the sources that support a sentence of an answer, by words, numbers, names and negations.

No model runs. The words of the answer's sentence are compared with the words of every sentence of the passages,
weighted by inverse document frequency. A short answer's words occur in many places, so the question's words count too.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from text_analysis.question_words import asks_number
from text_analysis.sentences import sentence_spans, trimmed
from text_analysis.terms import SentenceAnalyzer, SentenceTerms
from text_analysis.words import has_digit

Matrix = npt.NDArray[np.float32]

_HEADING = re.compile(r"[ \t]*#{1,6}[ \t]")
_UNDERLINE = re.compile(r"[ \t]*(?:=+|[|:\t -]*--[|:\t -]*)(?:\n|\Z)")
"""A line below a heading, or below the header of a table."""
_ITEM_NUMBER = re.compile(r"\s*(?:[-*+•‣◦·–>]\s+|\(?\d{1,3}[.)]\s+|#{1,6}\s+)*")
_MAX_SENTENCES = 65_535
_KEPT_CHARS = 4_000_000
"""Total length of the passages in the cache."""

# How matches count. Chosen on one half of the questions of two public sets, reported on the other: docs/evaluation.md.
THRESHOLD = 0.35
"""Minimum support of evidence."""
_PREFIX_CHARS = 5
_PREFIX_MATCH = 0.6
"""Match of two words of more than five letters that share the first five."""
_HEADING_MATCH = 0.5
"""Match of a word that occurs in the headings above the passage."""
_ASKED_WEIGHT = 0.7
"""Weight of an answer's word that is in the question: it hardly shows whether the answer is right."""
_NUMBER_WEIGHT = 1.5
_FILLER_WEIGHT = 0.4
_CONFLICT = 1.0
"""Penalty for a word that is negated on one side only."""
_WRONG_NUMBER = 0.5
"""Factor on support if the evidence lacks a number of the sentence."""
_NEW_HELD = 0.3
"""Minimum share of a sentence's words beyond the question that the evidence has."""
_TOLD = 1 / 3
"""Minimum share of the words of a quote that answers, in a sentence that answers."""
_CONTEXT_SHARE = 0.8
"""Share of a one-word answer's support that comes from the question's words around it."""
_CONTEXT_TERMS = 3.0
"""Number of additional words of the answer that halves this share."""
_CONTEXT_ENOUGH = 0.8
"""Share of the question's words around an answer that counts as all of them."""
_CONTEXT_RANK = 1.0
_BEFORE, _AFTER_IT, _ANYWHERE = 0.6, 0.4, 0.5
"""Match of a question's word in the sentence before, in the one after, or anywhere in the passage."""
_LATER = 0.03
"""Penalty in the choice of evidence per more relevant passage."""
_MAX_EVIDENCE = 3
_PER_EVIDENCE = 3
"""Content words of a sentence per piece of evidence."""
_ENOUGH = 0.75
"""Support that needs no further evidence."""
_MIN_GAIN = 0.15
"""Minimum share of a sentence's words that further evidence must add."""
_GAP = "\x1f"
_ELSEWHERE = 0.5
"""Factor on the gain of further evidence from another passage."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A sentence of a passage that supports a sentence of an answer."""

    passage: int
    """Index of the passage."""
    start: int
    """Offset in the passage's text; the span has no white space at its ends."""
    end: int
    support: float
    """0 … 1."""


@dataclass(frozen=True, slots=True)
class PassageIndex:
    """An inverted index of a passage's sentences without its headings, built once per passage.

    Thousands are cached, so its values have types that the garbage collector does not traverse.
    """

    spans: tuple[int, ...]
    """Start and end of each sentence, flattened."""
    postings: dict[str, bytes]
    """Content term → uint16[n]: sentences that contain it."""
    prefixes: dict[str, bytes]
    """First five letters of a longer term → sentences, as in `postings`."""
    negated: dict[str, bytes]
    """Negated term → sentences."""
    sizes: tuple[int, ...]
    """Number of distinct content terms per sentence."""
    numbers: tuple[int, ...]
    """Position of each sentence among all sentences of `text_analysis.sentences`, including headings."""
    lines: tuple[str, ...]
    """All terms of each sentence, joined, to find phrases."""
    heading: frozenset[str]
    """Terms of the title and headings, including those in the text."""


def index_passage(text: str, heading: str, analyzer: SentenceAnalyzer) -> PassageIndex:
    """Index the first 65,535 sentences of a passage. `heading`: its title and the headings above it.

    Headings in the text, including table headers, are left out, because they support and answer nothing.
    """
    headings = [heading]
    spans: list[int] = []
    lines: list[str] = []
    sizes: list[int] = []
    numbers: list[int] = []
    postings: dict[str, list[int]] = {}
    prefixes: dict[str, list[int]] = {}
    negated: dict[str, list[int]] = {}
    for place, (start, end) in enumerate(sentence_spans(text)):
        if _HEADING.match(text, start) or _UNDERLINE.match(text, end):
            headings.append(text[start:end])
            continue
        words = analyzer.analyse(text[start:end])
        if not any(words.content):
            continue
        number = len(lines)
        if number == _MAX_SENTENCES:
            break
        numbers.append(place)
        spans += trimmed(text, start, end)
        lines.append(f"{_GAP}{_GAP.join(words.terms)}{_GAP}")
        terms = dict.fromkeys(words.content_terms())
        sizes.append(len(terms))
        for term in terms:
            postings.setdefault(term, []).append(number)
            if len(term) > _PREFIX_CHARS and term.isalpha():
                prefixes.setdefault(term[:_PREFIX_CHARS], []).append(number)
        for term in words.negated:
            negated.setdefault(term, []).append(number)
    return PassageIndex(
        tuple(spans),
        _pack(postings),
        _pack(prefixes),
        _pack(negated),
        tuple(sizes),
        tuple(numbers),
        tuple(lines),
        frozenset(analyzer.analyse("\n".join(headings)).terms),
    )


def _pack(numbers: dict[str, list[int]]) -> dict[str, bytes]:
    return {term: np.array(found, np.uint16).tobytes() for term, found in numbers.items()}


def _unpack(found: bytes) -> memoryview:
    return memoryview(found).cast("H")


class PassageIndexes:
    """Indexes of passages, cached. Thread-safe."""

    def __init__(self, language: str = "english") -> None:
        """Create an empty cache. `language`: one of `text_analysis.stems.LANGUAGES`."""
        self.analyzer = SentenceAnalyzer(language)
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[str, str], PassageIndex] = OrderedDict()
        self._cached_chars = 0

    def get(self, text: str, heading: str) -> PassageIndex:
        """The index of a passage. `heading`: as for `index_passage`."""
        key = (text, heading)
        with self._lock:
            found = self._cache.get(key)
            if found is not None:
                self._cache.move_to_end(key)
                return found
        made = index_passage(text, heading, self.analyzer)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = made
                self._cached_chars += len(text)
                while self._cached_chars > _KEPT_CHARS and len(self._cache) > 1:
                    (old, _), _ = self._cache.popitem(last=False)
                    self._cached_chars -= len(old)
        return made


class Aligner:
    """Finds evidence for sentences. Thread-safe."""

    def __init__(self, language: str = "english", *, threshold: float = THRESHOLD) -> None:
        """Create an aligner.

        Args:
            language: one of `text_analysis.stems.LANGUAGES`.
            threshold: minimum support of evidence, 0 … 1.
        """
        self.passages = PassageIndexes(language)
        """Shared with a `transformer.reader.Reader`."""
        self._threshold = threshold

    def answers(self, sentence: str, question: str, quotes: Sequence[str] = ()) -> bool:
        """Whether a supported sentence answers the question.

        It has a word beyond the question and, if there are `quotes` that answer, a third of those that one of them has,
        or its number if the question asks for one.
        """
        said, asked, *told = map(self.passages.analyzer.analyse, (sentence, question, *quotes))
        known = {*asked.content_terms(), *said.fillers}
        new = {*said.content_terms()} - known
        if not quotes:
            return bool(new)
        number = asks_number(question)
        for quote in told:
            words = {*quote.content_terms()} - known - quote.fillers
            shared = new & words
            if shared and (len(shared) >= _TOLD * len(words) or (number and any(map(has_digit, shared)))):
                return True
        return False

    def align(
        self,
        sentences: Sequence[str],
        question: str,
        passages: Sequence[tuple[str, str]],
        named: Sequence[Collection[int]] = (),
    ) -> list[list[Evidence] | None]:
        """Evidence for each sentence, best first: empty if no passage supports it, None if it has no content word.

        Args:
            sentences: of the answer.
            question: its words decide between places that contain a short answer.
            passages: text and headings of each, most relevant first; earlier ones win ties.
            named: per sentence, indexes of the passages that it cites. Each that supports the sentence is added to
                the best evidence.
        """
        answered = [self.passages.analyzer.analyse(_ITEM_NUMBER.sub("", sentence, count=1)) for sentence in sentences]
        matrix = SentenceMatrix(
            answered, self.passages.analyzer.analyse(question), [self.passages.get(*passage) for passage in passages]
        )
        found = [matrix.evidence(words, self._threshold) for words in answered]
        for words, evidence, places in zip(answered, found, named, strict=False):
            for place in sorted(set(places) - {one.passage for one in evidence or []}):
                if evidence is not None:
                    evidence += matrix.evidence(words, self._threshold, only=place) or []
        return found


class SentenceMatrix:
    """Terms of an answer and its question (rows) against the sentences of the passages ("units", columns)."""

    def __init__(self, answered: list[SentenceTerms], question: SentenceTerms, passages: list[PassageIndex]) -> None:
        self.passages = passages
        counts = [len(passage.lines) for passage in passages]
        self._starts = [0, *accumulate(counts)]
        self.owner = np.repeat(np.arange(len(passages)), counts)
        self.units = self._starts[-1]
        self.asked = dict.fromkeys(question.content_terms())
        terms = dict(self.asked)
        for words in answered:
            terms.update(dict.fromkeys(words.content_terms()))
        self._rows = {term: row for row, term in enumerate(terms)}
        self.held, self._negated = self._presence(terms)
        self._negations = any(passage.negated for passage in passages)
        self._nowhere = np.zeros(self.units, np.bool_)
        # Document frequency over units. A term in no unit counts as if it were in one.
        frequency = np.maximum((self.held >= _PREFIX_MATCH).sum(axis=1), 1)
        self.weights: Matrix = np.log1p((self.units + 1) / frequency).astype(np.float32)
        self.context = self._question_cover()
        self.sizes = np.array([size for passage in passages for size in passage.sizes], np.int64)
        """int64[units]: number of distinct content terms."""

    def evidence(self, words: SentenceTerms, threshold: float, *, only: int | None = None) -> list[Evidence] | None:
        """As `Aligner.align`, for one sentence; `only`: index of the one passage to search."""
        terms = list(dict.fromkeys(words.content_terms()))
        if not terms:
            return None
        out = self._nowhere if only is None else self.owner != only
        if out.all():
            return []
        rows = [self._rows[term] for term in terms]
        held = self.held[rows]
        # Words of a heading alone are no evidence.
        out = out | (held.max(axis=0) <= _HEADING_MATCH)
        if out.all():
            return []
        new_numbers = [has_digit(term) and term not in self.asked for term in terms]
        counts = [
            (_ASKED_WEIGHT if term in self.asked else _NUMBER_WEIGHT if new else 1.0)
            * (_FILLER_WEIGHT if term in words.fillers else 1.0)
            for term, new in zip(terms, new_numbers, strict=True)
        ]
        weights = self.weights[rows] * counts
        weights /= weights.sum()
        agreed = held
        cover: npt.NDArray[np.floating[Any]] = weights @ held
        if words.negated or self._negations:
            opposed = np.array([term in words.negated for term in terms])[:, None] != self._negated[rows]
            agreed = np.where(opposed, np.float32(0), held)
            cover = weights @ np.where(opposed, -_CONFLICT * held, held)
        match = np.maximum(np.clip(cover, 0, 1), self._phrase(words))
        share = _CONTEXT_SHARE / (1 + (len(terms) - 1) / _CONTEXT_TERMS)
        support = match * (1 - share + share * np.minimum(1, self.context / _CONTEXT_ENOUGH))
        later = _LATER * self.owner + 9 * out
        chosen = [int(np.argmax(support + _CONTEXT_RANK * share * match * self.context - later))]
        reached = float(support[chosen[0]])
        best = agreed[:, chosen[0]]
        while len(chosen) < min(_MAX_EVIDENCE, len(terms) // _PER_EVIDENCE) and reached < _ENOUGH:
            gain = weights @ np.clip(agreed - best[:, None], 0, 1)
            gain *= np.where(self.owner == self.owner[chosen[0]], 1, _ELSEWHERE)
            unit = int(np.argmax(gain - later))
            if gain[unit] < _MIN_GAIN:
                break
            chosen.append(unit)
            reached += float(gain[unit])
            best = np.maximum(best, agreed[:, unit])
        if any(new and share < _PREFIX_MATCH for new, share in zip(new_numbers, best, strict=True)):
            reached *= _WRONG_NUMBER
        new = np.array([term not in self.asked and term not in words.fillers for term in terms])
        if reached < threshold or weights[new] @ best[new] < _NEW_HELD * weights[new].sum():
            return []
        return [
            self.found(unit, reached if place == 0 else float(weights @ agreed[:, unit]))
            for place, unit in enumerate(chosen)
        ]

    def _presence(self, terms: Iterable[str]) -> tuple[Matrix, npt.NDArray[np.bool_]]:
        """float32[terms, units]: match of each term, 0 … 1; bool[terms, units]: whether it is negated there."""
        held = np.zeros((len(self._rows), self.units), np.float32)
        negated = np.zeros(held.shape, np.bool_)
        # Flat indexes: one assignment per kind is far faster than one per term.
        similar: list[int] = []
        same: list[int] = []
        denied: list[int] = []
        for row, term in enumerate(terms):
            prefix = term[:_PREFIX_CHARS] if len(term) > _PREFIX_CHARS and term.isalpha() else None
            for start, end, passage in zip(self._starts, self._starts[1:], self.passages, strict=False):
                first = row * self.units + start
                if term in passage.heading:
                    held[row, start:end] = _HEADING_MATCH
                if prefix in passage.prefixes:
                    similar += [first + unit for unit in _unpack(passage.prefixes[prefix])]
                if term in passage.postings:
                    same += [first + unit for unit in _unpack(passage.postings[term])]
                    if term in passage.negated:
                        denied += [first + unit for unit in _unpack(passage.negated[term])]
        held.reshape(-1)[similar] = _PREFIX_MATCH
        held.reshape(-1)[same] = 1
        negated.reshape(-1)[denied] = True
        return held, negated

    def _question_cover(self) -> Matrix:
        """float32[units]: share of the question's words in each unit, its neighbours and its passage, 0 … 1."""
        rows = len(self.asked)
        if not rows or not self.units:
            return np.zeros(self.units, np.float32)
        held, weights = self.held[:rows], self.weights[:rows]
        near = held.copy()
        same = self.owner[1:] == self.owner[:-1]
        near[:, 1:] = np.maximum(near[:, 1:], _BEFORE * held[:, :-1] * same)
        near[:, :-1] = np.maximum(near[:, :-1], _AFTER_IT * held[:, 1:] * same)
        for start, end in zip(self._starts, self._starts[1:], strict=False):
            if end > start:
                block = held[:, start:end]
                near[:, start:end] = np.maximum(near[:, start:end], _ANYWHERE * block.max(axis=1, keepdims=True))
        cover: Matrix = weights @ near / weights.sum()
        return cover

    def _phrase(self, words: SentenceTerms) -> npt.NDArray[np.bool_]:
        """bool[units]: whether the unit contains the whole sentence word for word."""
        phrase = f"{_GAP}{_GAP.join(words.terms)}{_GAP}"
        return np.array([phrase in line for passage in self.passages for line in passage.lines], np.bool_)

    def new_numbers(self) -> npt.NDArray[np.bool_]:
        """bool[units]: whether each has a number, or a name with a digit, that the question lacks."""
        found = np.zeros(self.units, np.bool_)
        for start, passage in zip(self._starts, self.passages, strict=False):
            for term, places in passage.postings.items():
                if has_digit(term) and term not in self.asked:
                    found[[start + place for place in _unpack(places)]] = True
        return found

    def spans(self, passage: int) -> list[tuple[int, int]]:
        """Start and end of each unit of a passage."""
        flat = self.passages[passage].spans
        return list(zip(flat[::2], flat[1::2], strict=True))

    def found(self, unit: int, support: float) -> Evidence:
        """The span of a unit."""
        passage = int(self.owner[unit])
        place = 2 * (unit - self._starts[passage])
        start, end = self.passages[passage].spans[place : place + 2]
        return Evidence(passage, start, end, round(min(1.0, support), 3))
