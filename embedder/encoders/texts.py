"""Tokenises texts for an encoder, with prefixes and truncation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from embedder.errors import ModelFolderError, TextError
from embedder.wire import InputType

_CHARACTERS_PER_TOKEN = 100
"""A text is cut to this number of characters times `max_tokens` before it is tokenised, which limits the cost.

Only text that is almost all white space has so few tokens per character.
"""


@dataclass(frozen=True, slots=True)
class TokenizedTexts:
    """Token ids of n texts, including special tokens."""

    ids: tuple[npt.NDArray[np.int64], ...]
    truncated: npt.NDArray[np.bool_]
    """bool[n]: the text was truncated."""

    @property
    def counts(self) -> npt.NDArray[np.int32]:
        """int32[n]: number of tokens."""
        return np.fromiter((len(ids) for ids in self.ids), np.int32, len(self.ids))


class EncoderTokenizer:
    """An encoder's tokenizer. Truncates at `max_tokens` and does not pad. Safe for concurrent use."""

    def __init__(self, path: Path, *, max_tokens: int, query_prefix: str = "", passage_prefix: str = "") -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ModelFolderError(f"{path} is not a tokenizer: {error}") from error
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.no_padding()
        self._prefixes = {"query": query_prefix, "passage": passage_prefix}
        self._max_characters = max_tokens * _CHARACTERS_PER_TOKEN
        self.max_tokens = max_tokens

    def token_id(self, token: str) -> int | None:
        """The id of a token, or None."""
        number: int | None = self._tokenizer.token_to_id(token)
        return number

    @property
    def largest_id(self) -> int:
        """The largest token id."""
        return max(self._tokenizer.get_vocab().values())

    def __call__(self, texts: Sequence[str], input_type: InputType | Sequence[InputType]) -> TokenizedTexts:
        """Tokenises texts, in their order. `input_type` is one value for all texts, or one per text.

        Lone surrogates become question marks, because UTF-8 cannot encode them.

        Raises:
            TextError: an input type is unknown, or the number of types and texts differs.
        """
        types = [input_type] * len(texts) if isinstance(input_type, str) else input_type
        if len(types) != len(texts):
            raise TextError(f"There are {len(types)} input types for {len(texts)} texts: send one per text.")
        for name in set(types) - self._prefixes.keys():
            raise TextError(f"input_type is {name!r}: send 'query' or 'passage'.")
        limit = self._max_characters
        encodings = self._tokenizer.encode_batch_fast(
            [
                (self._prefixes[name] + text)[:limit].encode("utf-8", "replace").decode()
                for text, name in zip(texts, types, strict=True)
            ]
        )
        return TokenizedTexts(
            ids=tuple(np.array(encoding.ids, np.int64) for encoding in encodings),
            truncated=np.fromiter(
                (
                    bool(encoding.overflowing) or len(self._prefixes[name]) + len(text) > limit
                    for encoding, text, name in zip(encodings, texts, types, strict=True)
                ),
                np.bool_,
                len(texts),
            ),
        )
