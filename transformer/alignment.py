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
from text_analysis.sentences import BULLET, HEADING, NUMBERED, sentence_spans, trimmed
from text_analysis.terms import SentenceAnalyzer, SentenceTerms
from text_analysis.words import has_digit

Matrix = npt.NDArray[np.float32]

_HEADING = re.compile(rf"[ \t]*{HEADING}")
_UNDERLINE = re.compile(r"[ \t]*(?:=+|[|:\t -]*--[|:\t -]*)(?:\n|\Z)")
"""A line below a heading, or below the header of a table."""
_ITEM_NUMBER = re.compile(rf"\s*(?:(?:{BULLET}|{NUMBERED}|{HEADING})\s*)*")
_MAX_SENTENCES = 65_535
_CACHE_CHARS = 4_000_000
"""Maximum total length of the cached passages."""

# Weights of matches. Chosen on one half of the questions of two public sets, reported on the other: docs/evaluation.md.
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
_NEGATION_PENALTY = 1.0
"""Penalty for a word that is negated on one side only."""
_WRONG_NUMBER = 0.5
"""Factor on support if the evidence lacks a number of the sentence."""
_MIN_NEW_SHARE = 0.3
"""Minimum share, in the evidence, of the sentence's words that are not in the question, unless the evidence has the
whole sentence word for word."""
_MIN_QUOTE_SHARE = 1 / 3
"""Share of a quote's words from which a sentence says what the quote says."""
_CONTEXT_SHARE = 0.8
"""Weight of the question's words around the evidence in the support of a one-word answer."""
_CONTEXT_TERMS = 3.0
"""Number of further words in the answer that halves this weight."""
_FULL_CONTEXT = 0.8
"""Share of the question's words around the evidence that counts as all of them."""
_CONTEXT_PREFERENCE = 1.0
"""Weight of the context in the choice between sentences that match equally."""
_BEFORE, _AFTER, _ANYWHERE = 0.6, 0.4, 0.5
"""Match of a question word that occurs in the sentence before, in the sentence after, or elsewhere in the passage."""
_RANK_PENALTY = 0.03
"""Penalty for each rank of the evidence's passage."""
_MAX_EVIDENCE = 3
_PER_EVIDENCE = 3
"""A sentence may have one piece of evidence per this many content words."""
_SUFFICIENT = 0.75
"""Support from which no further evidence is searched for."""
_MIN_GAIN = 0.15
"""Minimum gain in support from a further piece of evidence."""
_SEPARATOR = "\x1f"
_OTHER_PASSAGE = 0.5
"""Factor on the gain if the further evidence is in another passage."""


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
    """An inverted index of a passage's sentences; headings are excluded.

    Thousands are cached, so the fields use types that the garbage collector does not traverse.
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
    positions: tuple[int, ...]
    """Index of each sentence in `sentence_spans(text)`, which includes headings."""
    term_lines: tuple[str, ...]
    """The terms of each sentence, joined, to search for phrases."""
    heading: frozenset[str]
    """Terms of the title and of all headings."""


def index_passage(text: str, heading: str, analyzer: SentenceAnalyzer) -> PassageIndex:
    """Index the first 65,535 sentences of a passage. `heading`: its title and the headings above it.

    Headings in the text and table headers are excluded, because they support and answer nothing.
    """
    headings = [heading]
    spans: list[int] = []
    lines: list[str] = []
    sizes: list[int] = []
    positions: list[int] = []
    postings: dict[str, list[int]] = {}
    prefixes: dict[str, list[int]] = {}
    negated: dict[str, list[int]] = {}
    for position, (start, end) in enumerate(sentence_spans(text)):
        if _HEADING.match(text, start) or _UNDERLINE.match(text, end):
            headings.append(text[start:end])
            continue
        words = analyzer.analyse(text[start:end])
        if not any(words.content):
            continue
        number = len(lines)
        if number == _MAX_SENTENCES:
            break
        positions.append(position)
        spans += trimmed(text, start, end)
        lines.append(f"{_SEPARATOR}{_SEPARATOR.join(words.terms)}{_SEPARATOR}")
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
        tuple(positions),
        tuple(lines),
        frozenset(analyzer.analyse("\n".join(headings)).terms),
    )


def _pack(postings: dict[str, list[int]]) -> dict[str, bytes]:
    return {term: np.array(numbers, np.uint16).tobytes() for term, numbers in postings.items()}


def _unpack(numbers: bytes) -> memoryview:
    return memoryview(numbers).cast("H")


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
            cached = self._cache.get(key)
            if cached is not None:
                self._cache.move_to_end(key)
                return cached
        index = index_passage(text, heading, self.analyzer)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = index
                self._cached_chars += len(text)
                while self._cached_chars > _CACHE_CHARS and len(self._cache) > 1:
                    (old, _), _ = self._cache.popitem(last=False)
                    self._cached_chars -= len(old)
        return index


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

    def answer_test(self, question: str, quotes: Sequence[str] = ()) -> AnswerTest:
        """A test whether sentences answer a question. `quotes`: sentences of the passages that answer it."""
        return AnswerTest(self.passages.analyzer, question, quotes)

    def align(
        self,
        sentences: Sequence[str],
        question: str,
        passages: Sequence[tuple[str, str]],
        named: Sequence[Collection[int]] = (),
    ) -> list[list[Evidence] | None]:
        """Evidence for each sentence, best first: empty if no passage supports it, None if it has no content word.

        Args:
            sentences: the answer's sentences.
            question: its words decide between passages that contain a short answer.
            passages: text and headings of each, most relevant first; earlier ones win ties.
            named: per sentence, indexes of the passages that it cites. Evidence from each of them is added to the
                best evidence.
        """
        answered = [self.passages.analyzer.analyse(_ITEM_NUMBER.sub("", sentence, count=1)) for sentence in sentences]
        matrix = SentenceMatrix(
            answered, self.passages.analyzer.analyse(question), [self.passages.get(*passage) for passage in passages]
        )
        found = [matrix.evidence(words, self._threshold) for words in answered]
        for words, evidence, cited in zip(answered, found, named, strict=False):
            if evidence is not None:
                for passage in sorted(set(cited) - {one.passage for one in evidence}):
                    evidence += matrix.evidence(words, self._threshold, only=passage) or []
        return found


class AnswerTest:
    """Tests whether supported sentences of one answer say what was asked."""

    def __init__(self, analyzer: SentenceAnalyzer, question: str, quotes: Sequence[str]) -> None:
        self._analyzer = analyzer
        self._asks_number = asks_number(question)
        self._asked = {*analyzer.analyse(question).content_terms()}
        self._quotes = [analyzer.analyse(quote) for quote in quotes]

    def answers(self, sentence: str, *, any_word: bool = False) -> bool:
        """Whether a sentence says something that is not in the question and, if there are quotes, is in one of them.

        It must have a third of the words that a quote adds to the question, or one of its numbers if the question asks
        for a number. `any_word`: ignore the quotes.
        """
        terms = self._analyzer.analyse(sentence)
        known = self._asked | terms.fillers
        new = {*terms.content_terms()} - known
        if any_word or not self._quotes:
            return bool(new)
        for quote in self._quotes:
            words = {*quote.content_terms()} - known - quote.fillers
            shared = new & words
            if shared and (
                len(shared) >= _MIN_QUOTE_SHARE * len(words) or (self._asks_number and any(map(has_digit, shared)))
            ):
                return True
        return False


class SentenceMatrix:
    """Matches of an answer's and its question's terms (rows) in the sentences of the passages (columns, "units")."""

    def __init__(self, answered: list[SentenceTerms], question: SentenceTerms, passages: list[PassageIndex]) -> None:
        self.passages = passages
        counts = [len(passage.sizes) for passage in passages]
        self._starts = [0, *accumulate(counts)]
        self.passage_of = np.repeat(np.arange(len(passages)), counts)
        self.units = self._starts[-1]
        self.asked = dict.fromkeys(question.content_terms())
        terms = dict(self.asked)
        for words in answered:
            terms.update(dict.fromkeys(words.content_terms()))
        self._rows = {term: row for row, term in enumerate(terms)}
        self.matches, self._negated = self._term_matches(terms)
        self._negations = any(passage.negated for passage in passages)
        self._no_unit = np.zeros(self.units, np.bool_)
        # Document frequency over units. A term in no unit counts as if it were in one.
        frequency = np.maximum((self.matches >= _PREFIX_MATCH).sum(axis=1), 1)
        self.weights: Matrix = np.log1p((self.units + 1) / frequency).astype(np.float32)
        self.context = self._question_coverage()
        self.sizes = np.array([size for passage in passages for size in passage.sizes], np.int64)
        """int64[units]: number of distinct content terms."""

    def evidence(self, words: SentenceTerms, threshold: float, *, only: int | None = None) -> list[Evidence] | None:
        """Like `Aligner.align`, for one sentence. `only`: index of the only passage to search."""
        terms = list(dict.fromkeys(words.content_terms()))
        if not terms:
            return None
        excluded = self._no_unit if only is None else self.passage_of != only
        if excluded.all():
            return []
        rows = [self._rows[term] for term in terms]
        matches = self.matches[rows]
        # Words of a heading alone are no evidence.
        excluded = excluded | (matches.max(axis=0) <= _HEADING_MATCH)
        if excluded.all():
            return []
        new_numbers = [has_digit(term) and term not in self.asked for term in terms]
        factors = [
            (_ASKED_WEIGHT if term in self.asked else _NUMBER_WEIGHT if new else 1.0)
            * (_FILLER_WEIGHT if term in words.fillers else 1.0)
            for term, new in zip(terms, new_numbers, strict=True)
        ]
        weights = self.weights[rows] * factors
        weights /= weights.sum()
        agreeing = matches
        coverage: npt.NDArray[np.floating[Any]] = weights @ matches
        if words.negated or self._negations:
            opposed = np.array([term in words.negated for term in terms])[:, None] != self._negated[rows]
            agreeing = np.where(opposed, np.float32(0), matches)
            coverage = weights @ np.where(opposed, -_NEGATION_PENALTY * matches, matches)
        verbatim = self._verbatim(words)
        match = np.maximum(np.clip(coverage, 0, 1), verbatim)
        share = _CONTEXT_SHARE / (1 + (len(terms) - 1) / _CONTEXT_TERMS)
        support = match * (1 - share + share * np.minimum(1, self.context / _FULL_CONTEXT))
        penalty = _RANK_PENALTY * self.passage_of + 9 * excluded
        chosen = [int(np.argmax(support + _CONTEXT_PREFERENCE * share * match * self.context - penalty))]
        reached = float(support[chosen[0]])
        best = agreeing[:, chosen[0]]
        while len(chosen) < min(_MAX_EVIDENCE, len(terms) // _PER_EVIDENCE) and reached < _SUFFICIENT:
            gain = weights @ np.clip(agreeing - best[:, None], 0, 1)
            gain *= np.where(self.passage_of == self.passage_of[chosen[0]], 1, _OTHER_PASSAGE)
            unit = int(np.argmax(gain - penalty))
            if gain[unit] < _MIN_GAIN:
                break
            chosen.append(unit)
            reached += float(gain[unit])
            best = np.maximum(best, agreeing[:, unit])
        if any(new and share < _PREFIX_MATCH for new, share in zip(new_numbers, best, strict=True)):
            reached *= _WRONG_NUMBER
        new = np.array([term not in self.asked and term not in words.fillers for term in terms])
        says_it = verbatim[chosen[0]] or weights[new] @ best[new] >= _MIN_NEW_SHARE * weights[new].sum()
        if reached < threshold or not says_it:
            return []
        return [
            self.evidence_at(unit, reached if rank == 0 else float(weights @ agreeing[:, unit]))
            for rank, unit in enumerate(chosen)
        ]

    def _term_matches(self, terms: Iterable[str]) -> tuple[Matrix, npt.NDArray[np.bool_]]:
        """float32[terms, units]: match of each term, 0 … 1; bool[terms, units]: whether it is negated in the unit."""
        matches = np.zeros((len(self._rows), self.units), np.float32)
        negated = np.zeros(matches.shape, np.bool_)
        # Flat indexes: three assignments are far faster than one per term.
        same_prefix: list[int] = []
        same: list[int] = []
        same_negated: list[int] = []
        for row, term in enumerate(terms):
            prefix = term[:_PREFIX_CHARS] if len(term) > _PREFIX_CHARS and term.isalpha() else None
            for start, end, passage in zip(self._starts, self._starts[1:], self.passages, strict=False):
                first = row * self.units + start
                if term in passage.heading:
                    matches[row, start:end] = _HEADING_MATCH
                if prefix in passage.prefixes:
                    same_prefix += [first + unit for unit in _unpack(passage.prefixes[prefix])]
                if term in passage.postings:
                    same += [first + unit for unit in _unpack(passage.postings[term])]
                    if term in passage.negated:
                        same_negated += [first + unit for unit in _unpack(passage.negated[term])]
        matches.reshape(-1)[same_prefix] = _PREFIX_MATCH
        matches.reshape(-1)[same] = 1
        negated.reshape(-1)[same_negated] = True
        return matches, negated

    def _question_coverage(self) -> Matrix:
        """float32[units]: share of the question's words in the unit, its neighbours and its passage, 0 … 1."""
        rows = len(self.asked)
        if not rows or not self.units:
            return np.zeros(self.units, np.float32)
        matches, weights = self.matches[:rows], self.weights[:rows]
        near = matches.copy()
        same = self.passage_of[1:] == self.passage_of[:-1]
        near[:, 1:] = np.maximum(near[:, 1:], _BEFORE * matches[:, :-1] * same)
        near[:, :-1] = np.maximum(near[:, :-1], _AFTER * matches[:, 1:] * same)
        for start, end in zip(self._starts, self._starts[1:], strict=False):
            if end > start:
                block = matches[:, start:end]
                near[:, start:end] = np.maximum(near[:, start:end], _ANYWHERE * block.max(axis=1, keepdims=True))
        coverage: Matrix = weights @ near / weights.sum()
        return coverage

    def _verbatim(self, words: SentenceTerms) -> npt.NDArray[np.bool_]:
        """bool[units]: whether the unit contains the whole sentence word for word."""
        phrase = f"{_SEPARATOR}{_SEPARATOR.join(words.terms)}{_SEPARATOR}"
        return np.array([phrase in line for passage in self.passages for line in passage.term_lines], np.bool_)

    def new_numbers(self) -> npt.NDArray[np.bool_]:
        """bool[units]: whether the unit has a number, or a name with a digit, that is not in the question."""
        found = np.zeros(self.units, np.bool_)
        for start, passage in zip(self._starts, self.passages, strict=False):
            for term, numbers in passage.postings.items():
                if has_digit(term) and term not in self.asked:
                    found[[start + number for number in _unpack(numbers)]] = True
        return found

    def spans(self, passage: int) -> list[tuple[int, int]]:
        """Start and end of each unit of a passage."""
        flat = self.passages[passage].spans
        return list(zip(flat[::2], flat[1::2], strict=True))

    def evidence_at(self, unit: int, support: float) -> Evidence:
        """A unit as evidence."""
        passage = int(self.passage_of[unit])
        offset = 2 * (unit - self._starts[passage])
        start, end = self.passages[passage].spans[offset : offset + 2]
        return Evidence(passage, start, end, round(min(1.0, support), 3))
