"""Whether retrieved passages answer a question: a score, and the threshold below which an answer is refused.

A passage that is near a question need not answer it: "When was the bridge closed?" finds the paragraph that tells when
it was opened. Similarity sees the subject, not the difference. The score adds what differs: names, numbers and
negations of the question that the best sentence lacks, words in whose place it has their opposites, and the absence of
anything that could be the answer asked for (a date, an amount, a name). A logistic function weighs these signals; its
few coefficients are numbers of this module, made and reprinted by `python -m evaluation.refusal`.

No model runs here, no network is asked: a question with four passages takes a few milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from text_analysis import english
from text_analysis.english import singular
from text_analysis.sentences import prose_sentences
from text_analysis.words import normalise, words_with_contractions
from transformer.wire import Topic
from vectorstore.wire import Passage

PASSAGES = 4
"""Passages looked at, the first ones: more of them bring few answers and much that only resembles one."""
_QUESTION_CHARS = 2_000
_PASSAGE_CHARS = 8_000
_KEPT_PASSAGES = 1_000
"""Passages whose words are kept: users ask about the same ones again and again."""
_TERMS = 32
"""Words of a question that are looked for, the first ones."""

_NEAR = 0.45
"""Cosine below which a distance counts by itself."""
_SUPPORTED = 0.6
"""As `_NEAR`, for a passage's support (vectorstore/wire.py)."""
_COVERED = 0.4
"""As `_NEAR`, for the share of the question's words that the best sentence has."""
_MOST_MISSING = 3
"""More missing words than these tell nothing more."""

_PREFIX = 4
"""Inflected forms of a word share at least these first characters …"""
_SHARED_PERCENT = 65
"""… and this part of the longer form."""


@dataclass(frozen=True, slots=True)
class Model:
    """Weighs the signals of a question into one score."""

    name: str
    weights: Mapping[str, float]
    """Per signal."""
    bias: float

    def score(self, signals: Mapping[str, float]) -> float:
        """0 … 1: the logistic function of the weighted sum."""
        total = self.bias + math.fsum(weight * signals[name] for name, weight in self.weights.items())
        return 1 / (1 + math.exp(-total)) if total >= 0 else math.exp(total) / (1 + math.exp(total))


SIGNALS: Mapping[str, Literal[1, -1]] = {
    "similarity": 1,
    "far": -1,
    "unsupported": -1,
    "coverage": 1,
    "uncovered": -1,
    "pairs": 1,
    "names_missing": -1,
    "numbers_missing": -1,
    "negation": -1,
    "opposite": -1,
    "opposite_passage": -1,
    "no_candidate": -1,
}
"""The signals, and whether more of one speaks for an answer or against it: weights never have the other sign."""

DEFAULT_MODEL = Model(
    "signals-1",
    {
        "similarity": 2.8651,
        "far": 0.0,
        "unsupported": -5.8785,
        "coverage": 0.1072,
        "uncovered": -2.9366,
        "pairs": 0.4307,
        "names_missing": -0.4082,
        "numbers_missing": -0.9499,
        "negation": -2.2722,
        "opposite": -1.8329,
        "opposite_passage": -0.5408,
        "no_candidate": -0.6378,
    },
    -1.6474,
)
"""Fitted on one half of squad2-dev's articles, and on questions of mtrag-un and cranfield put to its passages, by
`python -m evaluation.refusal squad2-dev --off-topic mtrag-un --off-topic cranfield --skip-bad --fit`, with the local
graph's embedder. Of the corpora that it serves it has seen nothing: calibrate on their own questions."""

DEFAULT_THRESHOLD = 0.05
"""Refuses what is off the topic, on every set of docs/evaluation.md, and hardly anything else: questions in other words
than the documents' score low, and are not to be refused. Near misses are told apart by a calibration."""


@dataclass(frozen=True, slots=True)
class Answerability:
    """Whether passages answer a question."""

    score: float
    """0 … 1; higher where an answer is likelier."""
    signals: dict[str, float]
    """What the score is made of; empty where no passage holds a word."""
    passage: int | None
    """Place of the passage that holds the best sentence."""


class _Words:
    """The words of a text: as written, case-folded, and by the keys under which inflected forms are found again."""

    __slots__ = ("_starts", "keys", "lows", "raw")

    def __init__(self, text: str) -> None:
        self.raw: list[str] = words_with_contractions(text)
        self.lows = [_fold(word) for word in self.raw]
        self.keys = set(map(singular, self.lows))
        self._starts: dict[str, list[str]] | None = None

    def has(self, key: str) -> bool:
        if key in self.keys:
            return True
        if len(key) <= _PREFIX or key[0].isdigit():
            return False
        if self._starts is None:
            self._starts = {}
            for other in self.keys:
                if len(other) > _PREFIX:
                    self._starts.setdefault(other[:_PREFIX], []).append(other)
        for other in self._starts.get(key[:_PREFIX], ()):
            shared = -(-max(len(key), len(other)) * _SHARED_PERCENT // 100)
            if key[:shared] == other[:shared]:
                return True
        return False


@dataclass(frozen=True, slots=True)
class _Term:
    """A word of the question that an answer should speak of."""

    low: str
    key: str
    name: bool
    number: bool


class _Question:
    """What a question asks for, and with which words."""

    def __init__(self, text: str) -> None:
        # Of a query made of a conversation, the last line is the question.
        lines = text.strip().splitlines() or [""]
        words = _Words(normalise(lines[-1][-_QUESTION_CHARS:]))
        terms: dict[str, _Term] = {}
        for position, (raw, low) in enumerate(zip(words.raw, words.lows, strict=True)):
            key = singular(low)
            if low and low not in english.FUNCTION_WORDS and low not in english.NEGATIONS and key not in terms:
                number = raw[0].isdigit()
                terms[key] = _Term(low, key, raw[0].isupper() and position > 0, number)
        self.terms = list(terms.values())[:_TERMS]
        self.bits = [(1 << place, term.key) for place, term in enumerate(self.terms)]
        self.keys = words.keys
        self.negated = not english.NEGATIONS.isdisjoint(words.lows)
        self.asked = english.answer_kind(words.lows)


@dataclass(frozen=True, slots=True)
class _Sentence:
    words: _Words
    found: int
    """A bit per term of the question, the first lowest: whether the sentence, or a heading above it, has it."""


@dataclass(frozen=True, slots=True)
class _Read:
    """A passage, read for a question."""

    sentences: list[_Sentence]
    words: frozenset[str]


def _fold(word: str) -> str:
    word = word.casefold()
    if not word.isalnum():
        word = word[:-2] if word.endswith(("'s", "’s")) else word
        word = word.replace("'", "").replace("’", "")
    return word


@lru_cache(maxsize=_KEPT_PASSAGES)
def _parse(heading: str, text: str) -> tuple[_Words, tuple[_Words, ...], frozenset[str]]:
    """Of a passage: the words of its headings, of each of its sentences, and the keys of all sentences."""
    sentences = tuple(map(_Words, prose_sentences(normalise(text))))
    keys = frozenset().union(*(sentence.keys for sentence in sentences))
    return _Words(normalise(heading)), sentences, keys


def _read(passage: Passage, question: _Question) -> _Read:
    heading, sentences, keys = _parse(" ".join((passage.title, *passage.heading_path)), passage.text[:_PASSAGE_CHARS])
    above = _bits(heading, question)
    return _Read([_Sentence(words, above | _bits(words, question)) for words in sentences], keys)


def _bits(words: _Words, question: _Question) -> int:
    found = 0
    for bit, key in question.bits:
        if words.has(key):
            found |= bit
    return found


def _candidate(words: _Words, question: _Question) -> bool:
    """Whether a sentence holds something of the kind asked for that the question does not say itself."""
    for raw, low in zip(words.raw, words.lows, strict=True):
        if low in english.FUNCTION_WORDS or singular(low) in question.keys:
            continue
        if question.asked == "amount":
            fits = raw[0].isnumeric() or low in english.AMOUNT_WORDS
        elif question.asked == "time":
            fits = raw[0].isnumeric() or low in english.TIME_WORDS
        elif question.asked in ("person", "place"):
            fits = raw[0].isupper()
        else:
            fits = True
        if fits:
            return True
    return False


def _opposed(term: _Term, words: Set[str]) -> bool:
    """Whether a text lacks the term and has an opposite of it."""
    if term.key in words:
        return False
    if not words.isdisjoint(map(singular, english.OPPOSITES.get(term.low, ()))):
        return True
    if len(term.key) <= 5:
        return False
    return any(
        prefix + term.key in words or (term.key.startswith(prefix) and term.key[len(prefix) :] in words)
        for prefix in english.NEGATING_PREFIXES
    )


def _share(found: int, of: int) -> float:
    return found.bit_count() / of if of else 0.0


def score(question: str, passages: Sequence[Passage], model: Model = DEFAULT_MODEL) -> Answerability:
    """How likely it is that the passages answer the question; 0 where none holds a word.

    Takes a few milliseconds for four passages of ordinary length, and cuts what is far longer.

    Args:
        question: what was asked, of a conversation the last question: names in earlier turns are no part of it.
        passages: best first. Those beyond `PASSAGES` are not looked at.
        model: weighs the signals.
    """
    asks = _Question(question)
    shown = passages[:PASSAGES]
    reads = [_read(passage, asks) for passage in shown]
    terms = asks.terms
    best: tuple[tuple[float, float, float], int, _Read, _Sentence] | None = None
    for number, (passage, read) in enumerate(zip(passages, reads, strict=False)):
        support = _bounded(passage.support)
        found = [0, *(sentence.found for sentence in read.sentences), 0]
        for place, sentence in enumerate(read.sentences):
            around = found[place] | found[place + 1] | found[place + 2]
            if not around and best is not None and best[0][0]:
                continue  # no better than what has a word
            key = (_share(sentence.found, len(terms)) + 0.2 * _share(around, len(terms)), support, -place)
            if best is None or key > best[0]:
                best = key, number, read, sentence
    if best is None:
        return Answerability(0.0, {}, None)
    _, number, read, sentence = best
    missing = [term for place, term in enumerate(terms) if not sentence.found >> place & 1]
    pairs = sentence.found & sentence.found >> 1
    similarity = max(_bounded(passage.similarity) for passage in shown)
    support = max(_bounded(passage.support) for passage in shown)
    coverage = _share(sentence.found, len(terms))
    signals = {
        "similarity": similarity,
        "far": max(0.0, _NEAR - similarity),
        "unsupported": max(0.0, _SUPPORTED - support),
        "coverage": coverage,
        "uncovered": max(0.0, _COVERED - coverage),
        "pairs": _share(pairs, len(terms) - 1) if len(terms) > 1 else 0.5,
        "names_missing": float(min(_MOST_MISSING, sum(term.name for term in missing))),
        "numbers_missing": float(min(_MOST_MISSING, sum(term.number for term in missing))),
        "negation": float(asks.negated and english.NEGATIONS.isdisjoint(sentence.words.lows)),
        "opposite": float(any(_opposed(term, sentence.words.keys) for term in terms)),
        "opposite_passage": float(any(_opposed(term, read.words) for term in terms)),
        "no_candidate": float(not _candidate(sentence.words, asks)),
    }
    return Answerability(model.score(signals), signals, number)


def topics(passages: Iterable[Passage], limit: int = 3) -> list[Topic]:
    """What the nearest passages are about, nearest first: one topic per document and heading, at most `limit`."""
    found: dict[tuple[str, tuple[str, ...]], Topic] = {}
    for passage in passages:
        if len(found) >= limit:
            break
        title = passage.title or (passage.heading_path[0] if passage.heading_path else passage.source)
        heading = passage.heading_path[-1] if passage.heading_path else ""
        key = (passage.url or passage.document_id, tuple(passage.heading_path))
        if title and key not in found:
            found[key] = Topic(
                title=title,
                heading="" if heading == title else heading,
                url=passage.url,
                document_id=passage.document_id,
            )
    return list(found.values())


def _bounded(value: float) -> float:
    return min(2.0, max(-1.0, value)) if math.isfinite(value) else -1.0
