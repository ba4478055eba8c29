"""Reads a model's pooling, maximum length and prefixes from the files of sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from embedder.errors import ModelFolderError

_Content = TypeVar("_Content", dict[str, Any], list[Any])

_POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
"""Flag of versions before 5 → value of `pooling_mode`."""
_NO_WINDOW = 1e9
"""Values this large mean "no limit": tokenizers without a limit write 1e30."""
_MODULES = {"Transformer", "Pooling", "Normalize"}
_PROMPTS = {"query_prefix": ("query",), "passage_prefix": ("passage", "document")}


def described(folder: Path) -> dict[str, Any]:
    """Fields of `embedder.json` from a folder in sentence-transformers' layout; empty for another layout.

    Source: sentence-transformers, models/{Transformer,Pooling}.py and SentenceTransformer.py.

    Raises:
        ModelFolderError: a file is damaged, or the model has unsupported modules.
    """
    modules = read_json(folder / "modules.json", list)
    for module in modules:
        kind = str(module.get("type")).rpartition(".")[2] if isinstance(module, dict) else module
        if kind not in _MODULES:
            raise ModelFolderError(f"{folder / 'modules.json'}: the module {kind} is not supported.")
    card: dict[str, Any] = {}
    pooling = read_json(folder / "1_Pooling/config.json", dict)
    if pooling:
        flags = [name for name, on in pooling.items() if name.startswith("pooling_mode_") and on is True]
        modes = (
            [pooling["pooling_mode"]] if "pooling_mode" in pooling else [_POOLINGS.get(name, name) for name in flags]
        )
        if modes not in (["mean"], ["cls"]) or pooling.get("include_prompt", True) is not True:
            raise ModelFolderError(
                f"{folder / '1_Pooling/config.json'}: the pooling modes mean and cls are supported, with the "
                f"prefix included, not {pooling}."
            )
        card["pooling"] = modes[0]
    window = read_json(folder / "sentence_bert_config.json", dict).get("max_seq_length")
    if window is None and modules:  # since version 6, it is the tokenizer's
        window = read_json(folder / "tokenizer_config.json", dict).get("model_max_length")
        if isinstance(window, (int, float)) and window >= _NO_WINDOW:
            window = None
    if window is not None:
        card["max_tokens"] = window
    prompts = read_json(folder / "config_sentence_transformers.json", dict).get("prompts")
    if isinstance(prompts, dict):
        for field, names in _PROMPTS.items():
            card[field] = next((prompts[name] for name in names if name in prompts), None)
    return card


def read_json(path: Path, kind: type[_Content]) -> _Content:
    """The content of a JSON file, an object or an array; empty if there is no such file."""
    if not path.is_file():
        return kind()
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, kind):
        raise ModelFolderError(f"{path} must hold a JSON {'object' if kind is dict else 'array'}.")
    return content
