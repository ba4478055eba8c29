"""A model's tokenizer, read from a Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from predictor.errors import ModelFilesError

END_OF_TURN = frozenset(
    {"<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>", "</s>"}
)
"""Control tokens that end an answer. Many models' files name only one of theirs, in `eos_token`.

Source: llama.cpp `llama-vocab.cpp`
"""


class TextTokenizer:
    """Converts text to token ids and back. Safe for concurrent use."""

    def __init__(self, tokenizer: Tokenizer, config: dict[str, Any], generation_config: dict[str, Any]) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.config = config
        """The parsed `tokenizer_config.json`."""
        added = tokenizer.get_added_tokens_decoder()
        self.added = {token_id: token.content for token_id, token in added.items()}
        """Id → text of the tokens that are matched before the text is split into words, such as control tokens."""
        self.matches_normalised = tokenizer.normalizer is not None and any(t.normalized for t in added.values())
        """Whether normalisation can create a token of `added` that is not in the original text."""
        self.bos = _token_text(config.get("bos_token"))
        self.eos = _token_text(config.get("eos_token"))
        self.unknown = _token_text(config.get("unk_token"))
        self.end_ids = self._find_end_ids(generation_config)
        """Tokens that end an answer. Never empty."""
        limit = config.get("model_max_length")
        self.context_tokens: int | None = int(limit) if isinstance(limit, (int, float)) and limit < 1e9 else None
        """Maximum number of tokens of prompt and answer together; None if the files have no limit."""
        empty: list[int] = tokenizer.encode("", add_special_tokens=True).ids
        bos_id = None if self.bos is None else tokenizer.token_to_id(self.bos)
        self._leading = empty[:1] if empty and empty[0] == bos_id else []

    @classmethod
    def load(cls, folder: Path) -> TextTokenizer:
        """Reads `tokenizer.json`, `tokenizer_config.json` and, if it exists, `generation_config.json`.

        Raises:
            ModelFilesError: a file is missing or cannot be parsed.
        """
        path = folder / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise ModelFilesError(f"{path} cannot be read as a Hugging Face tokenizer: {error}") from error
        generation = folder / "generation_config.json"
        return cls(tokenizer, read_json(folder / "tokenizer_config.json"), read_json(generation, missing_ok=True))

    def encode(self, text: str) -> list[int]:
        """Token ids of a rendered prompt, whose control tokens are recognised.

        The beginning-of-text token is added unless the prompt begins with it.
        """
        ids: list[int] = self._encode(text).ids
        return ids if ids[:1] == self._leading[:1] else self._leading + ids

    def count(self, text: str) -> int:
        """Number of tokens of `text` within a prompt, without a beginning-of-text token."""
        return len(self._encode(text))

    def spans(self, text: str) -> list[tuple[int, int, int]]:
        """(id, start, end) of every token, in characters of `text`."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return [(i, start, end) for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, without control tokens. Incomplete UTF-8 becomes U+FFFD."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def _encode(self, text: str) -> Encoding:
        # The fast variant, without offsets, exists only for batches.
        return self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0]

    def _find_end_ids(self, generation_config: dict[str, Any]) -> frozenset[int]:
        found: set[int | None] = {token_id for token_id, text in self.added.items() if text in END_OF_TURN}
        if self.eos is not None:
            found.add(self._tokenizer.token_to_id(self.eos))
        listed = generation_config.get("eos_token_id", [])
        found.update([listed] if isinstance(listed, int) else listed)
        ends = frozenset(token_id for token_id in found if token_id is not None)
        if not ends:
            raise ModelFilesError("The tokenizer has no end-of-answer token: set eos_token in tokenizer_config.json.")
        return ends


def read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """The JSON object in a file; empty if it is missing and `missing_ok`. Raises ModelFilesError if it is invalid."""
    if missing_ok and not path.exists():
        return {}
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFilesError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ModelFilesError(f"{path} does not contain a JSON object.")
    return parsed


def _token_text(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) and text else None
