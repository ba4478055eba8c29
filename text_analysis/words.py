"""Text cut into words.

A *run* is a longest sequence of characters of scripts that are written without spaces (`scripts.UNSPACED`). No function
here knows where its words begin; callers cut it into characters or `pairs`.
"""

from __future__ import annotations

import re
import unicodedata

from text_analysis.scripts import HANGUL, UNSPACED

_ASCII_WORD = re.compile(r"[^\W_]+")
_WORD = re.compile(rf"[{UNSPACED}]+|[^\W_{UNSPACED}]+")
_CONTRACTION = re.compile(rf"[{UNSPACED}]|[^\W_]+(?:['’][^\W\d_]+)?")
_TOKEN = re.compile(
    rf"\d+(?:[.,]\d+)*|[{UNSPACED}{HANGUL}]+"
    r"|[^\W\d_]+(?:['’][^\W\d_]+|\d[^\W_]*)?|%"
)
_RUN = re.compile(f"[{UNSPACED}]")
_SENTENCE_RUN = re.compile(f"[{UNSPACED}{HANGUL}]")

COMPOUND = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*")
"""Words as a reader counts them: inner apostrophes, dots and hyphens join (`don't`, `3.5`, `e-mail`)."""


def normalise(text: str) -> str:
    """Unicode compatibility form (NFKC): `ﬁ` becomes `fi`, full-width digits become ASCII."""
    return text if text.isascii() else unicodedata.normalize("NFKC", text)


def fold(text: str) -> str:
    """NFKC and full case folding: `Straße` and `STRASSE` are equal."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def strip_accents(word: str) -> str:
    """The word without combining marks: `é` becomes `e`."""
    if word.isascii():
        return word
    return "".join(c for c in unicodedata.normalize("NFD", word) if not unicodedata.combining(c))


def words(text: str) -> list[str]:
    """Longest sequences of letters and digits, and runs, in order. Underscores separate."""
    return (_ASCII_WORD if text.isascii() else _WORD).findall(text)


def words_with_contractions(text: str) -> list[str]:
    """As `words`, but `don't` and `Bob's` stay whole, and a run comes as single characters."""
    return _CONTRACTION.findall(text)


def tokens(text: str) -> list[str]:
    """Numbers with their separators (`1,200.5`), words, names with digits (`E08`), `%`, and runs, in order.

    Contractions stay whole; Hangul forms runs.
    """
    return _TOKEN.findall(text)


def is_run(token: str) -> bool:
    """Whether a result of `words` is a run."""
    return _RUN.match(token) is not None


def is_sentence_run(token: str) -> bool:
    """Whether a result of `tokens` is a run."""
    return _SENTENCE_RUN.match(token) is not None


def pairs(run: str) -> list[str]:
    """Each two neighbouring characters of a run; none of a single character."""
    return [run[place : place + 2] for place in range(len(run) - 1)]


def has_digit(term: str) -> bool:
    """Whether the term is a number or a name with a digit in it."""
    return any(map(str.isdigit, term))
