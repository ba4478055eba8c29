"""Converts text to terms, for a lexical index or for comparing sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from text_analysis.stems import MAX_STEM_CHARS, Stemmer, shared_stemmer
from text_analysis.word_lists import FILLERS, NEGATIONS, NUMBER_WORDS, STOP_WORDS
from text_analysis.words import (
    fold,
    has_digit,
    has_segmented_script,
    is_run,
    is_sentence_run,
    normalise,
    pairs,
    tokens,
    words,
)

_NEGATION_REACH = 3
"""Number of content words after a negation that count as negated."""


class IndexAnalyzer:
    """Converts text to the terms of a lexical index: folds, splits into words, stems. Thread-safe.

    A run (see `text_analysis.words`) becomes its characters and its pairs of neighbours: characters alone are too
    unspecific, and pairs alone miss words of one character.
    """

    version: ClassVar[int] = 3
    """Version of the rules. An index with terms of another version is searched only if `reads` allows it."""

    def __init__(self, language: str) -> None:
        """Create an analyzer for one of `stems.LANGUAGES`, or `stems.UNSTEMMED`.

        Raises:
            ValueError: there is no stemmer for the language.
        """
        self._stemmer = Stemmer(language)

    @classmethod
    def reads(cls, version: object, vocabulary: str) -> bool:
        """Whether an index has the same terms as the current rules would produce.

        Args:
            version: version of the rules that produced the index's terms.
            vocabulary: the index's terms. Version 2 differs only for scripts that have a segmenter.
        """
        return version == cls.version or (version == 2 and not has_segmented_script(vocabulary))

    def terms(self, text: str) -> list[str]:
        """The terms, in the order of the text, with repetitions."""
        stem = self._stemmer.stem
        folded = fold(text)
        if folded.isascii():
            return [stem(word) for word in words(folded)]
        terms: list[str] = []
        for token in words(folded):
            if is_run(token):
                terms += token
                terms += pairs(token)
            else:
                terms.append(stem(token))
        return terms


@dataclass(frozen=True, slots=True)
class SentenceTerms:
    """The terms of a sentence, in order."""

    terms: list[str]
    """Stems without accents; numbers without separators; the `pairs` of runs. Negations are left out."""
    content: list[bool]
    """For each term, whether it is a content word, not a stop word."""
    negated: frozenset[str]
    """Terms shortly after a negation."""
    fillers: frozenset[str]
    """Terms that are in `word_lists.FILLERS`."""

    def content_terms(self) -> list[str]:
        """Content words, with repetitions."""
        return [term for term, is_content in zip(self.terms, self.content, strict=True) if is_content]


class SentenceAnalyzer:
    """Converts sentences to terms for comparing them. Thread-safe."""

    def __init__(self, language: str = "english") -> None:
        """Create an analyzer for one of `stems.LANGUAGES`.

        Raises:
            ValueError: there is no stemmer for the language.
        """
        self._stemmer = shared_stemmer(language, accents=False)

    def analyse(self, sentence: str) -> SentenceTerms:
        """The terms of a sentence; empty if it has no word."""
        terms: list[str] = []
        content: list[bool] = []
        negated: list[str] = []
        fillers: set[str] = set()
        reach = 0
        for token in tokens(normalise(sentence)):
            lower = token.lower()
            if is_sentence_run(token) or (has_digit(token) and not token[0].isdigit()):
                # Negations do not cover these.
                uncovered = (pairs(token) or [token]) if is_sentence_run(token) else [lower[:MAX_STEM_CHARS]]
                terms += uncovered
                content += [True] * len(uncovered)
                continue
            if lower in NEGATIONS or lower.endswith(("n't", "n’t")):
                reach = _NEGATION_REACH
                continue
            if has_digit(token):
                term, is_content = token.replace(",", "").replace(".", ""), True
            else:
                lower = lower.removesuffix("'s").removesuffix("’s")
                is_content = lower not in STOP_WORDS or (len(token) > 1 and token.isupper())
                term = NUMBER_WORDS.get(lower) or self._stemmer.stem(lower)
                if lower in FILLERS:
                    fillers.add(term)
            terms.append(term)
            content.append(is_content)
            if is_content and reach:
                negated.append(term)
                reach -= 1
        return SentenceTerms(terms, content, frozenset(negated), frozenset(fillers))
