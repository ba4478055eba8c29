"""The languages of texts, as ISO 639-1 codes. docs/decisions/0048 compares the libraries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import py3langid

UNKNOWN = "und"
"""Of a text without letters. Source: BCP 47."""

_CHARS = 400
"""Beginning of a text that decides."""


def language_of_text(text: str) -> str:
    """The language of a text; `UNKNOWN` without letters. Of XQuAD's questions, 1.5 % get a wrong one."""
    beginning = text[:_CHARS]
    return str(py3langid.classify(beginning)[0]) if any(map(str.isalpha, beginning)) else UNKNOWN


def language_shares(texts: Iterable[str]) -> dict[str, float]:
    """Language → share of the texts, largest first; equal shares in alphabetical order."""
    counts = Counter(map(language_of_text, texts))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {language: round(count / counts.total(), 3) for language, count in ordered}
