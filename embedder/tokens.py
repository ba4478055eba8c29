"""Counts and locates tokens with the embedder's own tokenizer, for chunking."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from tokenizers import Tokenizer


class TokenCounter:
    """Counts and locates the embedder's tokens in a text, without special tokens. Safe for concurrent use."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @classmethod
    def load(cls, path: Path) -> TokenCounter:
        """Reads a `tokenizer.json`.

        Raises:
            ValueError: the file is missing or is not a tokenizer.
        """
        try:
            return cls(Tokenizer.from_file(str(path)))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{path} is not a tokenizer: {error}") from error

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Start and end of each token, in characters of `text`; no tokens for an empty text."""
        offsets: list[tuple[int, int]] = self._tokenizer.encode(
            _without_surrogates(text), add_special_tokens=False
        ).offsets
        return offsets

    def count(self, text: str) -> int:
        """Number of tokens of `text` in NFKC."""
        return len(self._tokenizer.encode(_without_surrogates(compatible(text)), add_special_tokens=False).ids)


def compatible(text: str) -> str:
    """The text in NFKC: models know `fi` and `1`, but not the ligature and the full-width digit."""
    return text if text.isascii() else unicodedata.normalize("NFKC", text)


def _without_surrogates(text: str) -> str:
    """`text` with each lone surrogate replaced by a question mark, as the embedder reads it. Offsets do not change."""
    return text.encode("utf-8", "replace").decode()
