"""Model cards: `embedder.json` and, without it, the files of sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from embedder.errors import ModelFolderError
from embedder.folder import Card, read_card


def _write(folder: Path, **files: Any) -> Path:
    """`files`: content by the file's name without `.json`; `pooling` is 1_Pooling/config.json."""
    for name, content in files.items():
        path = folder / "1_Pooling" / "config.json" if name == "pooling" else folder / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


MODULES = [{"type": f"sentence_transformers.models.{name}"} for name in ("Transformer", "Pooling", "Normalize")]


def test_a_folder_without_cards(tmp_path: Path) -> None:
    assert read_card(tmp_path) == Card()


def test_fields_of_the_cards(tmp_path: Path) -> None:
    _write(
        tmp_path,
        modules=MODULES,
        pooling={"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "word_embedding_dimension": 8},
        sentence_bert_config={"max_seq_length": 384, "do_lower_case": False},
        config_sentence_transformers={"prompts": {"query": "find: ", "document": "text: "}},
    )
    assert read_card(tmp_path) == Card(None, "mean", 384, "find: ", "text: ")


@pytest.mark.parametrize(("said", "window"), [(256, 256), (int(1e30), None), (1e30, None)])
def test_the_window_comes_from_the_tokenizer(tmp_path: Path, said: float, window: int | None) -> None:
    _write(tmp_path, modules=MODULES, tokenizer_config={"model_max_length": said})
    assert read_card(tmp_path).max_tokens == window
    (tmp_path / "modules.json").unlink()
    assert read_card(tmp_path).max_tokens is None


def test_the_newer_spelling(tmp_path: Path) -> None:
    _write(
        tmp_path,
        modules=[{"type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling"}],
        pooling={"embedding_dimension": 8, "pooling_mode": "cls", "include_prompt": True},
        config_sentence_transformers={"prompts": {"query": "find: "}},
    )
    assert read_card(tmp_path) == Card(None, "cls", None, "find: ", "")


def test_embedder_json_comes_first_and_alone(tmp_path: Path) -> None:
    _write(
        tmp_path,
        embedder={"id": "mine"},
        pooling={"pooling_mode_max_tokens": True},
        sentence_bert_config={"max_seq_length": 384},
    )
    assert read_card(tmp_path) == Card("mine")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"modules": [*MODULES, {"type": "sentence_transformers.models.Dense"}]}, "the module Dense"),
        ({"modules": ["Dense"]}, "the module Dense"),
        ({"modules": {}}, r"modules\.json must hold a JSON array"),
        ({"pooling": {"pooling_mode_max_tokens": True}}, "the pooling modes mean and cls are supported"),
        ({"pooling": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}}, "are supported"),
        ({"pooling": {"pooling_mode": "lasttoken"}}, "are supported"),
        ({"pooling": {"pooling_mode": ["mean", "cls"]}}, "are supported"),
        ({"pooling": {"pooling_mode": "mean", "include_prompt": False}}, "prefix included"),
        ({"pooling": "{"}, "cannot be read as JSON"),
        ({"sentence_bert_config": {"max_seq_length": 1}}, "max_tokens is 1"),
        ({"config_sentence_transformers": {"prompts": {"query": 3}}}, "query_prefix is 3"),
        ({"config_sentence_transformers": []}, "must hold a JSON object"),
    ],
)
def test_unsupported_models_are_refused(tmp_path: Path, files: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelFolderError, match=said):
        read_card(_write(tmp_path, **files))
