"""Which spans of the sources say what a sentence of an answer says: by words, numbers, names and negations.

No model is asked. A sentence's words are compared with those of every sentence of the passages, weighted by how rarely
the passages hold them (inverse document frequency); short answers, whose words may stand anywhere, also with the help
of the question's.
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

from text_analysis.sentences import sentence_spans, trimmed
from text_analysis.terms import SentenceAnalyzer, SentenceTerms
from text_analysis.words import has_digit

Matrix = npt.NDArray[np.float32]

_ITEM_NUMBER = re.compile(r"\s*(?:[-*+•‣◦·–>]\s+|\(?\d{1,3}[.)]\s+|#{1,6}\s+)*")
_MAX_SENTENCES = 65_535
_KEPT_CHARS = 4_000_000
"""Text of passages that are kept prepared."""

# How matches count. Chosen on one half of the questions of two public sets, reported on the other: docs/evaluation.md.
THRESHOLD = 0.35
"""Support from which a span is evidence."""
_PREFIX_CHARS = 5
_PREFIX_MATCH = 0.6
"""A word of more than five letters that shares the first five with one of the unit."""
_HEADING_MATCH = 0.5
"""A word that stands in the headings above the passage."""
_ASKED_WEIGHT = 0.7
"""A word of the question in the answer tells little of whether the answer is right."""
_NUMBER_WEIGHT = 1.5
_FILLER_WEIGHT = 0.4
_CONFLICT = 1.0
"""What a word that is negated on one side only takes away."""
_WRONG_NUMBER = 0.5
"""Factor of a sentence with a number that its evidence does not hold."""
_CONTEXT_SHARE = 0.8
"""How much of a one-word answer's support rests on the question's words around it."""
_CONTEXT_TERMS = 3.0
"""So many words more halve that share."""
_CONTEXT_ENOUGH = 0.8
"""Share of the question's words around an answer that is as good as all."""
_CONTEXT_RANK = 1.0
_BEFORE, _AFTER_IT, _ANYWHERE = 0.6, 0.4, 0.5
"""What a word of the question counts in the unit before, in the one after, or anywhere in the passage."""
_LATER = 0.03
"""What a passage loses in the choice for each passage that is more relevant."""
_MAX_EVIDENCE = 3
_PER_EVIDENCE = 3
"""Words of a sentence for each piece of evidence."""
_ENOUGH = 0.75
"""Support from which no further evidence is looked for."""
_MIN_GAIN = 0.15
"""Share of a sentence's words that further evidence must add."""
_SAID = 0.5
"""What the answer's own words count beside the question's, in the choice of a quote."""
_QUOTE_FROM = 0.3
"""Share of the question's words that a quote must have about it."""
_QUOTE_NEW_WORDS = 2
"""Words that it must have beside the question's."""
_GAP = "\x1f"
_ELSEWHERE = 0.5
"""Factor of such a gain from another passage."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A sentence of a passage that says what a sentence of an answer says."""

    passage: int
    """Its place among the passages."""
    start: int
    """Of the passage's text, white space at the ends left out."""
    end: int
    support: float
    """0 … 1."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A passage's sentences and where each word is in them. Made once per passage, not per answer.

    Thousands are kept: what is in them is of types that the garbage collector does not walk through.
    """

    spans: tuple[int, ...]
    """Start and end of each sentence, one after the other."""
    postings: dict[str, bytes]
    """Content term → uint16: numbers of the sentences that hold it."""
    prefixes: dict[str, bytes]
    negated: dict[str, bytes]
    sizes: tuple[int, ...]
    """Content terms of each sentence."""
    lines: tuple[str, ...]
    """Every term of each sentence, for phrases."""
    heading: frozenset[str]


def prepare(text: str, heading: str, analyzer: SentenceAnalyzer) -> Prepared:
    """The first 65,535 sentences of a passage. `heading` is what stands above it: title and headings."""
    spans: list[int] = []
    lines: list[str] = []
    sizes: list[int] = []
    postings: dict[str, list[int]] = {}
    prefixes: dict[str, list[int]] = {}
    negated: dict[str, list[int]] = {}
    for start, end in sentence_spans(text):
        words = analyzer.analyse(text[start:end])
        if not any(words.content):
            continue
        number = len(lines)
        if number == _MAX_SENTENCES:
            break
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
    return Prepared(
        tuple(spans),
        _packed(postings),
        _packed(prefixes),
        _packed(negated),
        tuple(sizes),
        tuple(lines),
        frozenset(analyzer.analyse(heading).terms),
    )


def _packed(numbers: dict[str, list[int]]) -> dict[str, bytes]:
    return {term: np.array(found, np.uint16).tobytes() for term, found in numbers.items()}


def _unpacked(found: bytes) -> memoryview:
    return memoryview(found).cast("H")


class Aligner:
    """Finds evidence for sentences. Keeps passages that it has prepared; safe for use from several threads."""

    def __init__(self, language: str = "english", *, threshold: float = THRESHOLD) -> None:
        """An aligner.

        Args:
            language: Snowball stemmer.
            threshold: support from which a span is evidence, 0 … 1.
        """
        self._analyzer = SentenceAnalyzer(language)
        self._threshold = threshold
        self._lock = threading.Lock()
        self._prepared: OrderedDict[tuple[str, str], Prepared] = OrderedDict()
        self._prepared_chars = 0

    def align(
        self,
        sentences: Sequence[str],
        question: str,
        passages: Sequence[tuple[str, str]],
        named: Sequence[Collection[int]] = (),
    ) -> list[list[Evidence] | None]:
        """Evidence for each sentence, best first; empty where no passage says it, None where it says nothing to check.

        Args:
            sentences: of an answer.
            question: what was asked. Its words tell apart the places that hold a short answer.
            passages: text and headings of each, most relevant first: earlier ones win ties.
            named: places of the passages that a sentence itself names, for each. They too are evidence where they
                support it, beside what supports it best.
        """
        answered = [self._analyzer.analyse(_ITEM_NUMBER.sub("", sentence, count=1)) for sentence in sentences]
        matrix = self._matrix(answered, question, passages)
        found = [matrix.evidence(words, self._threshold) for words in answered]
        for words, evidence, places in zip(answered, found, named, strict=False):
            for place in sorted(set(places) - {one.passage for one in evidence or []}):
                if evidence is not None:
                    evidence += matrix.evidence(words, self._threshold, only=place) or []
        return found

    def closest(self, answer: str, question: str, passages: Sequence[tuple[str, str]]) -> Evidence | None:
        """The unit that best answers the question: by the question's words, and less by those of an answer.

        None where none holds enough of them. Its support is the share of the question's words there.
        """
        words = self._analyzer.analyse(answer)
        return self._matrix([words], question, passages).closest(words)

    def _matrix(
        self, answered: list[SentenceTerms], question: str, passages: Sequence[tuple[str, str]]
    ) -> _SentenceMatrix:
        return _SentenceMatrix(
            answered, self._analyzer.analyse(question), [self._prepare(*passage) for passage in passages]
        )

    def _prepare(self, text: str, heading: str) -> Prepared:
        key = (text, heading)
        with self._lock:
            found = self._prepared.get(key)
            if found is not None:
                self._prepared.move_to_end(key)
                return found
        made = prepare(text, heading, self._analyzer)
        with self._lock:
            if key not in self._prepared:
                self._prepared[key] = made
                self._prepared_chars += len(text)
                while self._prepared_chars > _KEPT_CHARS and len(self._prepared) > 1:
                    (old, _), _ = self._prepared.popitem(last=False)
                    self._prepared_chars -= len(old)
        return made


class _SentenceMatrix:
    """The words of an answer and a question against the sentences of the passages ("units"), as matrices."""

    def __init__(self, answered: list[SentenceTerms], question: SentenceTerms, passages: list[Prepared]) -> None:
        self._passages = passages
        counts = [len(passage.lines) for passage in passages]
        self._starts = [0, *accumulate(counts)]
        self._owner = np.repeat(np.arange(len(passages)), counts)
        self._units = self._starts[-1]
        self._asked = dict.fromkeys(question.content_terms())
        terms = dict(self._asked)
        for words in answered:
            terms.update(dict.fromkeys(words.content_terms()))
        self._rows = {term: row for row, term in enumerate(terms)}
        self._held, self._negated = self._presence(terms)
        self._negations = any(passage.negated for passage in passages)
        self._nowhere = np.zeros(self._units, np.bool_)
        # In how many units: what the passages hold rarely tells most; what none holds counts as if one did.
        frequency = np.maximum((self._held >= _PREFIX_MATCH).sum(axis=1), 1)
        self._weights: Matrix = np.log1p((self._units + 1) / frequency).astype(np.float32)
        self._context = self._question_cover()

    def evidence(self, words: SentenceTerms, threshold: float, *, only: int | None = None) -> list[Evidence] | None:
        terms = list(dict.fromkeys(words.content_terms()))
        if not terms:
            return None
        out = self._nowhere if only is None else self._owner != only
        if out.all():
            return []
        rows = [self._rows[term] for term in terms]
        held = self._held[rows]
        if not held.any():
            return []
        new_numbers = [has_digit(term) and term not in self._asked for term in terms]
        counts = [
            (_ASKED_WEIGHT if term in self._asked else _NUMBER_WEIGHT if new else 1.0)
            * (_FILLER_WEIGHT if term in words.fillers else 1.0)
            for term, new in zip(terms, new_numbers, strict=True)
        ]
        weights = self._weights[rows] * counts
        weights /= weights.sum()
        agreed = held
        cover: npt.NDArray[np.floating[Any]] = weights @ held
        if words.negated or self._negations:
            opposed = np.array([term in words.negated for term in terms])[:, None] != self._negated[rows]
            agreed = np.where(opposed, np.float32(0), held)
            cover = weights @ np.where(opposed, -_CONFLICT * held, held)
        match = np.maximum(np.clip(cover, 0, 1), self._phrase(words))
        share = _CONTEXT_SHARE / (1 + (len(terms) - 1) / _CONTEXT_TERMS)
        support = match * (1 - share + share * np.minimum(1, self._context / _CONTEXT_ENOUGH))
        later = _LATER * self._owner + 9 * out
        chosen = [int(np.argmax(support + _CONTEXT_RANK * share * match * self._context - later))]
        reached = float(support[chosen[0]])
        best = agreed[:, chosen[0]]
        while len(chosen) < min(_MAX_EVIDENCE, len(terms) // _PER_EVIDENCE) and reached < _ENOUGH:
            gain = weights @ np.clip(agreed - best[:, None], 0, 1)
            gain *= np.where(self._owner == self._owner[chosen[0]], 1, _ELSEWHERE)
            unit = int(np.argmax(gain - later))
            if gain[unit] < _MIN_GAIN:
                break
            chosen.append(unit)
            reached += float(gain[unit])
            best = np.maximum(best, agreed[:, unit])
        if any(new and share < _PREFIX_MATCH for new, share in zip(new_numbers, best, strict=True)):
            reached *= _WRONG_NUMBER
        if reached < threshold:
            return []
        return [
            self._found(unit, reached if place == 0 else float(weights @ agreed[:, unit]))
            for place, unit in enumerate(chosen)
        ]

    def closest(self, words: SentenceTerms) -> Evidence | None:
        if not self._units or not self._asked:
            return None
        asked = self._held[: len(self._asked)]
        sizes = np.array([size for passage in self._passages for size in passage.sizes])
        # What holds the question's words alone, as headings do, tells nothing.
        telling = sizes - (asked == 1).sum(axis=0) >= _QUOTE_NEW_WORDS
        weights = self._weights[: len(self._asked)]
        near = self._context + weights @ asked / weights.sum()
        rows = [self._rows[term] for term in dict.fromkeys(words.content_terms()) if term not in self._asked]
        if rows:
            said = self._weights[rows]
            near += _SAID * (said @ self._held[rows] / said.sum())
        unit = int(np.argmax(np.where(telling, near - _LATER * self._owner, -1)))
        if not telling[unit] or self._context[unit] < _QUOTE_FROM:
            return None
        return self._found(unit, float(self._context[unit]))

    def _presence(self, terms: Iterable[str]) -> tuple[Matrix, npt.NDArray[np.bool_]]:
        """float32[terms, units]: how far each unit holds each term, 0 … 1; bool of that shape: negated there."""
        held = np.zeros((len(self._rows), self._units), np.float32)
        negated = np.zeros(held.shape, np.bool_)
        # Places in the flattened matrix: one assignment for all of a kind costs as much as one for each.
        similar: list[int] = []
        same: list[int] = []
        denied: list[int] = []
        for row, term in enumerate(terms):
            prefix = term[:_PREFIX_CHARS] if len(term) > _PREFIX_CHARS and term.isalpha() else None
            for start, end, passage in zip(self._starts, self._starts[1:], self._passages, strict=False):
                first = row * self._units + start
                if term in passage.heading:
                    held[row, start:end] = _HEADING_MATCH
                if prefix in passage.prefixes:
                    similar += [first + unit for unit in _unpacked(passage.prefixes[prefix])]
                if term in passage.postings:
                    same += [first + unit for unit in _unpacked(passage.postings[term])]
                    if term in passage.negated:
                        denied += [first + unit for unit in _unpacked(passage.negated[term])]
        held.reshape(-1)[similar] = _PREFIX_MATCH
        held.reshape(-1)[same] = 1
        negated.reshape(-1)[denied] = True
        return held, negated

    def _question_cover(self) -> Matrix:
        """float32[units]: the share of the question's words in each unit, its neighbours and its passage, 0 … 1."""
        rows = len(self._asked)
        if not rows or not self._units:
            return np.zeros(self._units, np.float32)
        held, weights = self._held[:rows], self._weights[:rows]
        near = held.copy()
        same = self._owner[1:] == self._owner[:-1]
        near[:, 1:] = np.maximum(near[:, 1:], _BEFORE * held[:, :-1] * same)
        near[:, :-1] = np.maximum(near[:, :-1], _AFTER_IT * held[:, 1:] * same)
        for start, end in zip(self._starts, self._starts[1:], strict=False):
            if end > start:
                block = held[:, start:end]
                near[:, start:end] = np.maximum(near[:, start:end], _ANYWHERE * block.max(axis=1, keepdims=True))
        cover: Matrix = weights @ near / weights.sum()
        return cover

    def _phrase(self, words: SentenceTerms) -> npt.NDArray[np.bool_]:
        """bool[units]: whether the unit holds the whole sentence word for word."""
        phrase = f"{_GAP}{_GAP.join(words.terms)}{_GAP}"
        return np.array([phrase in line for passage in self._passages for line in passage.lines], np.bool_)

    def _found(self, unit: int, support: float) -> Evidence:
        passage = int(self._owner[unit])
        place = 2 * (unit - self._starts[passage])
        start, end = self._passages[passage].spans[place : place + 2]
        return Evidence(passage, start, end, round(min(1.0, support), 3))
