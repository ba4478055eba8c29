"""Detects the languages of texts (ISO 639-1). docs/decisions/0048 compares libraries."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable

import py3langid
from py3langid.langid import MODEL_FILE, LanguageIdentifier

UNKNOWN = "und"
"""The language of a text without letters. Source: BCP 47."""

_CHARS = 200
"""Length of the part of a text that is classified."""

_SURE = 0.6
"""Minimum probability of a question's language. 0.1 % of XQuAD's questions in eight languages get a wrong one."""


def language_of_text(text: str) -> str:
    """The language of a text; `UNKNOWN` without letters."""
    beginning = text[:_CHARS]
    return str(py3langid.classify(beginning)[0]) if any(map(str.isalpha, beginning)) else UNKNOWN


def language_among(question: str, languages: tuple[str, ...]) -> str:
    """The language of a question among `languages`; the first of them if the detection is uncertain."""
    language, probability = _identifier(languages).classify(question[-_CHARS:])
    return str(language) if probability >= _SURE else languages[0]


def language_shares(texts: Iterable[str]) -> dict[str, float]:
    """Language → share of the texts, largest first; equal shares in alphabetical order."""
    counts = Counter(map(language_of_text, texts))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {language: round(count / counts.total(), 3) for language, count in ordered}


@functools.cache
def _identifier(languages: tuple[str, ...]) -> LanguageIdentifier:
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(list(languages))
    return identifier
