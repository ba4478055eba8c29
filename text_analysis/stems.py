"""Stems words, and detects a text's language for choosing a stemmer."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache

import snowballstemmer

from text_analysis.words import strip_accents, words

LANGUAGES: tuple[str, ...] = tuple(sorted(snowballstemmer.algorithms()))
"""Languages with a Snowball stemmer, by Snowball's names."""

UNSTEMMED = "none"
"""Name of the stemmer that does not change words."""

MAX_STEM_CHARS = 64
"""Longer words are cut to this length and not stemmed."""

_CACHED_WORDS = 200_000

_COMMON_WORDS: Mapping[str, frozenset[str]] = {
    language: frozenset(common.split())
    for language, common in {
        "english": "the of and to is that for with was are",
        "german": "der die und das ist nicht mit von den ein",
        "french": "le les des est dans que pour une sur pas",
        "spanish": "el los las que una por con para del es",
        "italian": "il che di della per una sono con nel gli",
        "portuguese": "os das que uma para com não dos em ao",
        "dutch": "de het een van en niet zijn dat voor met",
        "swedish": "och att det som är en inte på för av",
        "danish": "og det at er en ikke på af som til",
        "norwegian": "og det er en ikke på av som til å",
        "finnish": "ja on ei että se oli ovat mutta kun tai",
        "hungarian": "a az és hogy nem egy is van ez volt",
        "romanian": "și în de la cu care nu pe este din",
        "turkish": "ve bir bu için ile da de olarak çok daha",
        "russian": "и в не на что с по как это для",
    }.items()
}
_MIN_COMMON_SHARE = 0.05
"""Minimum share of a language's common words in a text for detecting it. In prose they make up 0.1 to 0.33."""


def known_language(name: str) -> str:
    """Returns the name of a language.

    Raises:
        ValueError: there is no stemmer for it.
    """
    if name not in LANGUAGES:
        raise ValueError(f"there is no stemmer for {name!r}: use one of {', '.join(LANGUAGES)}")
    return name


def language_of(texts: Iterable[str]) -> str:
    """The language whose ten most common words are the most frequent; `english` if they are too rare."""
    counts = Counter(word for text in texts for word in words(text.lower()))
    shares = {language: sum(counts[word] for word in common) for language, common in _COMMON_WORDS.items()}
    language = max(shares, key=lambda name: shares[name])
    return language if shares[language] >= _MIN_COMMON_SHARE * counts.total() else "english"


class Stemmer:
    """Stems lower-case words. Thread-safe. Caches stems."""

    def __init__(self, language: str, *, accents: bool = True) -> None:
        """Create a stemmer.

        Args:
            language: one of `LANGUAGES`, or `UNSTEMMED`.
            accents: whether to keep accents before stemming.

        Raises:
            ValueError: there is no stemmer for the language.
        """
        self._stemmer = None if language == UNSTEMMED else snowballstemmer.stemmer(known_language(language))
        self._accents = accents
        self._stems: dict[str, str] = {}
        self._lock = threading.Lock()

    def stem(self, word: str) -> str:
        """The stem, or the word itself if the stem would be empty."""
        return self._stems.get(word) or self._compute(word)

    def _compute(self, word: str) -> str:
        plain = word if self._accents else strip_accents(word)
        if self._stemmer is None or len(plain) > MAX_STEM_CHARS:
            return plain[:MAX_STEM_CHARS]
        with self._lock:
            if len(self._stems) >= _CACHED_WORDS:
                self._stems.clear()
            self._stems[word] = stem = str(self._stemmer.stemWord(plain)) or plain
        return stem


@lru_cache(64)
def shared_stemmer(language: str, *, accents: bool = True) -> Stemmer:
    """Like `Stemmer`, with a cache that all callers share."""
    return Stemmer(language, accents=accents)
