"""Scores how likely retrieved passages answer a question. Below a threshold the transformer refuses to answer.

A similar passage need not answer the question: "When was the bridge closed?" finds the paragraph about its opening.
Similarity shows the common subject, not the difference. The score therefore also looks for differences: names, numbers
and negations of the question that the best sentence lacks, opposites of the question's words, and the lack of a word of
the kind asked for (a date, an amount, a name). A logistic function combines the signals; `python -m evaluation.refusal`
fits its coefficients.

No model and no network: a question with four passages takes a few milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from text_analysis import english
from text_analysis.english import singular
from text_analysis.question_words import asking
from text_analysis.sentences import prose_sentences
from text_analysis.words import normalise, words_with_contractions
from vectorstore.wire import Passage

PASSAGES = 4
"""Number of passages that are scored. More would add few answers and many false candidates."""
_QUESTION_CHARS = 2_000
_PASSAGE_CHARS = 8_000
_KEPT_PASSAGES = 1_000
"""Size of the cache of parsed passages."""
_TERMS = 32
"""Maximum number of content words of a question that are searched for."""

_NEAR = 0.45
"""Cosine similarity below which the signal `far` is positive."""
_SUPPORTED = 0.6
"""Like `_NEAR`, for a passage's `support` and the signal `unsupported`."""
_COVERED = 0.4
"""Like `_NEAR`, for the share of the question's words in the best sentence and the signal `uncovered`."""
_MOST_MISSING = 3
"""Cap of the counts of missing names and numbers."""

_PREFIX = 4
_SHARED_PERCENT = 65
"""Inflected forms of a word share at least `_PREFIX` first characters, and this percentage of the longer form."""


@dataclass(frozen=True, slots=True)
class Model:
    """A logistic model of the signals."""

    name: str
    weights: Mapping[str, float]
    """By name of the signal."""
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
    "score": 1,
}
"""Signal → sign of its weight: 1 if a higher value makes an answer more likely."""

DEFAULT_MODEL = Model(
    "signals-2",
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
        "score": 4.0,
    },
    -2.8474,
)
"""Fitted on one half of squad2-dev's articles, with mtrag-un and cranfield as off-topic questions, by `python -m
evaluation.refusal squad2-dev --off-topic mtrag-un --off-topic cranfield --skip-bad --fit` and the local graph's
embedder. The weight of `score` is not fitted: it is the largest with which no dataset is significantly below its best
single score (docs/decisions/0054). Not fitted to any other corpus: calibrate with your own questions."""

DEFAULT_THRESHOLD = 0.13
"""Refuses 5 % of the answerable questions, as a mean over the datasets of docs/evaluation.md: between 1 % of squad2-dev
and 15 % of the bundled questions, which paraphrase the documents (docs/decisions/0087). To refuse near misses,
calibrate."""


@dataclass(frozen=True, slots=True)
class Answerability:
    """How likely passages answer a question."""

    score: float
    """0 … 1; higher: an answer is more likely."""
    signals: dict[str, float]
    """Values of `SIGNALS`; empty if no passage has a word."""
    passage: int | None
    """Index of the passage with the best sentence; None if no passage has a word."""


class _Words:
    """The words of a text: as written (`raw`), case-folded (`lows`), and in the singular (`keys`)."""

    __slots__ = ("_starts", "keys", "lows", "raw")

    def __init__(self, text: str) -> None:
        self.raw: list[str] = words_with_contractions(text)
        self.lows = [_fold(word) for word in self.raw]
        self.keys = set(map(singular, self.lows))
        self._starts: dict[str, list[str]] | None = None

    def has(self, key: str) -> bool:
        """Whether the text has the word or an inflected form of it."""
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
    """A content word of the question."""

    low: str
    key: str
    name: bool
    number: bool


class _Question:
    """The content words of a question, and the kind of answer that it asks for."""

    def __init__(self, text: str) -> None:
        words = _Words(normalise(text[-_QUESTION_CHARS:]))
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
    """Bit n is set if the sentence or a heading above it has the question's term n."""


@dataclass(frozen=True, slots=True)
class _ParsedPassage:
    """A passage compared with a question."""

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
    """Words of a passage's headings, words of each of its sentences, and the keys of all sentences."""
    sentences = tuple(map(_Words, prose_sentences(normalise(text))))
    keys = frozenset().union(*(sentence.keys for sentence in sentences))
    return _Words(normalise(heading)), sentences, keys


def _read(passage: Passage, question: _Question) -> _ParsedPassage:
    heading, sentences, keys = _parse(" ".join((passage.title, *passage.heading_path)), passage.text[:_PASSAGE_CHARS])
    above = _bits(heading, question)
    return _ParsedPassage([_Sentence(words, above | _bits(words, question)) for words in sentences], keys)


def _bits(words: _Words, question: _Question) -> int:
    found = 0
    for bit, key in question.bits:
        if words.has(key):
            found |= bit
    return found


def _candidate(words: _Words, question: _Question) -> bool:
    """Whether a sentence has a word of the kind asked for that is not in the question."""
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
    """Whether a text lacks the term but has an opposite of it."""
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
    """How likely the passages answer the question; 0 if they have no word.

    If the question has several sentences, the best score of the whole and of the sentences that ask, so that
    instructions and background do not count as missing words. Takes a few milliseconds; long passages are truncated.

    Args:
        question: in a conversation, only the last question.
        passages: best first; only the first `PASSAGES` count.
        model: weights of the signals.
    """
    shown = passages[:PASSAGES]
    return max((_score(text, shown, model) for text in (question, *asking(question))), key=lambda found: found.score)


def _score(question: str, shown: Sequence[Passage], model: Model) -> Answerability:
    asks = _Question(question)
    reads = [_read(passage, asks) for passage in shown]
    terms = asks.terms
    best: tuple[tuple[float, float, float], int, _ParsedPassage, _Sentence] | None = None
    for number, (passage, read) in enumerate(zip(shown, reads, strict=True)):
        support = _bounded(passage.support)
        found = [0, *(sentence.found for sentence in read.sentences), 0]
        for place, sentence in enumerate(read.sentences):
            around = found[place] | found[place + 1] | found[place + 2]
            if not around and best is not None and best[0][0]:
                continue  # cannot be better than a sentence with a word of the question
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
        "score": max(_bounded(passage.score) for passage in shown),
    }
    return Answerability(model.score(signals), signals, number)


def _bounded(value: float) -> float:
    return min(2.0, max(-1.0, value)) if math.isfinite(value) else -1.0
