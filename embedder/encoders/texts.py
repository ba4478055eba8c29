"""Texts to token ids: prefixes, truncation and how much of each text was read."""

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
"""More characters than this times `max_tokens` are not tokenised at all.

Only text that is nearly all white space reads that far with the tokens that a model has. It bounds what one text can
cost.
"""


@dataclass(frozen=True, slots=True)
class TokenizedTexts:
    """Token ids of n texts, special tokens included."""

    ids: tuple[npt.NDArray[np.int64], ...]
    truncated: npt.NDArray[np.bool_]
    """bool[n]: the end of the text was cut off."""

    @property
    def counts(self) -> npt.NDArray[np.int32]:
        """int32[n]: number of tokens."""
        return np.fromiter((len(ids) for ids in self.ids), np.int32, len(self.ids))


class TextTokenizer:
    """A model's own tokenizer, with truncation at `max_tokens` and without padding. Safe for concurrent use."""

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
        """The id of a token, if there is one."""
        number: int | None = self._tokenizer.token_to_id(token)
        return number

    @property
    def largest_id(self) -> int:
        """The largest id that a token has."""
        return max(self._tokenizer.get_vocab().values())

    def __call__(self, texts: Sequence[str], input_type: InputType | Sequence[InputType]) -> TokenizedTexts:
        """Tokenises texts, in their order. `input_type` holds for all of them or is given for each.

        A lone surrogate, which no UTF-8 can carry, is read as a question mark.

        Raises:
            TextError: an unknown input type, or not one per text.
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
