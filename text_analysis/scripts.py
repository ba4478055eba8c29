"""Scripts that are written without spaces between words, and how to segment them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import regex
from icu4py.breakers import WordBreaker

# Character classes for the `regex` module (version 1 syntax). They hold the combining marks of their scripts.
HANGUL = r"\p{Hangul}"
"""Korean has spaces, but particles are attached to words, so exact words rarely recur."""
PAIRED = r"\p{Hiragana}\p{Katakana}ー\p{Han}"
"""Scripts for which single characters and pairs retrieve more than words do. `ー` lengthens a Kana vowel."""

CLAUSE_SPACED = "\u0e01-\u0eff"
"""Thai and Lao, for `re`: a space separates clauses, and sentences have no mark at their end."""
SENTENCE_END = "。！？｡।॥۔؟។៕။።"
"""Marks that end a sentence without a space after them.

Source: the property Sentence_Terminal of Unicode Standard Annex 44, for scripts with more than ten million readers."""

_LETTER = regex.compile(r"[\p{L}\p{N}]")


def dictionary_words(run: str) -> list[str]:
    """Segments a run of characters into words with ICU's dictionaries. Drops punctuation."""
    return [word for word in WordBreaker(run, "") if _LETTER.search(word)]


SEGMENTERS: Mapping[str, Callable[[str], list[str]]] = {
    r"\p{Thai}": dictionary_words,
    r"\p{Lao}": dictionary_words,
    r"\p{Khmer}": dictionary_words,
    r"\p{Myanmar}": dictionary_words,
}
"""Character class → segmenter for a run of its characters. `PAIRED` scripts have none: see docs/decisions/0046."""

UNSPACED = PAIRED + "".join(SEGMENTERS)
"""Scripts written without spaces between words."""
