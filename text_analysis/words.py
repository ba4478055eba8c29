"""Splits text into words.

A *letter* is a Unicode letter or number. A *word* is a letter and the letters, combining marks (such as the vowel signs
of Indic scripts) and joiners after it. Scripts without spaces are split by their segmenter (`scripts.SEGMENTERS`). If
there is none, a longest sequence of their characters stays whole: a *run*, which callers split into characters or
`pairs`.

Source: Unicode Standard Annex 29, "Unicode Text Segmentation", rule WB4, for marks and joiners.
"""

from __future__ import annotations

import re
import unicodedata

import regex

from text_analysis.scripts import HANGUL, PAIRED, SEGMENTERS, UNSPACED

_INNER = r"\p{L}\p{N}\p{M}\u200c\u200d"
_WORD = rf"[\p{{L}}\p{{N}}--[{UNSPACED}]][{_INNER}--[{UNSPACED}]]*"
_RUNS = "|".join(f"[{script}]+" for script in SEGMENTERS)
_ANY_WORD = rf"[\p{{L}}\p{{N}}][{_INNER}]*"
_LETTERS = r"\p{L}[\p{L}\p{M}\u200c\u200d]*"

_ASCII_WORD = re.compile(r"[^\W_]+")
_WORD_OR_RUN = regex.compile(rf"{_RUNS}|[{PAIRED}]+|{_WORD}", regex.V1)
_CONTRACTION = regex.compile(rf"{_RUNS}|[{PAIRED}]|{_WORD}(?:['’]{_LETTERS})?", regex.V1)
_TOKEN = regex.compile(
    rf"\d+(?:[.,]\d+)*|{_RUNS}|[{PAIRED}{HANGUL}]+|{_LETTERS}(?:['’]{_LETTERS}|\d[{_INNER}]*)?|%", regex.V1
)
_HAS_SEGMENTED = regex.compile(f"[{''.join(SEGMENTERS)}]", regex.V1)
_SEGMENTERS = [(regex.compile(f"[{script}]"), segmenter) for script, segmenter in SEGMENTERS.items()]
_POINTS = regex.compile(r"[\p{Arabic}\p{Hebrew}\u064b-\u0655\u0670&&\p{M}]", regex.V1)
"""Arabic and Hebrew vowel points, which most texts omit."""
_RUN = regex.compile(f"[{PAIRED}]", regex.V1)
_SENTENCE_RUN = regex.compile(f"[{PAIRED}{HANGUL}]", regex.V1)

COMPOUND = regex.compile(rf"{_ANY_WORD}(?:['’.-]{_ANY_WORD})*", regex.V1)
"""Words as a reader counts them: inner apostrophes, dots and hyphens belong to the word (`don't`, `3.5`, `e-mail`)."""


def normalise(text: str) -> str:
    """Unicode compatibility form (NFKC): `ﬁ` becomes `fi`, full-width digits become ASCII."""
    return text if text.isascii() else unicodedata.normalize("NFKC", text)


def fold(text: str) -> str:
    """NFKC and full case folding, without vowel points: `Straße` equals `STRASSE`, and `كَتَبَ` equals `كتب`."""
    if text.isascii():
        return text.lower()
    # Case folding decomposes a few letters, such as Greek ΐ.
    return normalise(_POINTS.sub("", normalise(text).casefold()))


def strip_accents(word: str) -> str:
    """The word without combining marks: `é` becomes `e`."""
    if word.isascii():
        return word
    return "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))


def words(text: str) -> list[str]:
    """Words and runs, in order. Underscores separate words."""
    return _ASCII_WORD.findall(text) if text.isascii() else _segmented(_WORD_OR_RUN.findall(text), text)


def words_with_contractions(text: str) -> list[str]:
    """Like `words`, but contractions such as `don't` stay whole, and runs are split into characters."""
    return _segmented(_CONTRACTION.findall(text), text)


def tokens(text: str) -> list[str]:
    """Numbers with their separators (`1,200.5`), words, names with digits (`E08`), `%`, and runs, in order.

    Contractions stay whole. Hangul forms runs.
    """
    return _segmented(_TOKEN.findall(text), text)


def has_segmented_script(text: str) -> bool:
    """Whether the text has a character of a script in `scripts.SEGMENTERS`."""
    return not text.isascii() and _HAS_SEGMENTED.search(text) is not None


def is_run(token: str) -> bool:
    """Whether a result of `words` is a run."""
    return _RUN.match(token) is not None


def is_sentence_run(token: str) -> bool:
    """Whether a result of `tokens` is a run."""
    return not token.isascii() and _SENTENCE_RUN.match(token) is not None


def pairs(run: str) -> list[str]:
    """All pairs of neighbouring characters of a run; empty for a single character."""
    return [run[place : place + 2] for place in range(len(run) - 1)]


def has_digit(term: str) -> bool:
    """Whether the term is a number or a name with a digit in it."""
    return not term.isalpha() and any(map(str.isdigit, term))


def _segmented(found: list[str], text: str) -> list[str]:
    """Splits the runs of scripts in `scripts.SEGMENTERS` into words."""
    if not has_segmented_script(text):
        return found
    words: list[str] = []
    for token in found:
        segmenter = next((cut for script, cut in _SEGMENTERS if script.match(token)), None)
        words += [token] if segmenter is None else segmenter(token)
    return words
