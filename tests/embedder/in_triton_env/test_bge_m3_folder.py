"""Folders of BGE-M3 that cannot be served are refused, and the message names the file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from embedder.encoders import load_encoder
from embedder.errors import ModelFolderError
from embedder.settings import EncoderSettings

SETTINGS = EncoderSettings(architecture="bge_m3", backend="openvino")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(Path(__file__).parents[1] / "tiny_bge_m3", tmp_path / "model"))


def test_the_whole_folder_loads(folder: Path) -> None:
    encoder = load_encoder(folder, SETTINGS)
    assert encoder.dimension == 16
    assert encoder.max_tokens == 96


@pytest.mark.parametrize(
    "name", ["sparse_linear.pt", "colbert_linear.pt", "pytorch_model.bin", "config.json", "tokenizer.json"]
)
@pytest.mark.parametrize("damage", [None, b"", b"garbage " * 40])
def test_a_missing_or_damaged_file(folder: Path, name: str, damage: bytes | None) -> None:
    if damage is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(damage)
    with pytest.raises(ModelFolderError, match=name):
        load_encoder(folder, SETTINGS)


@pytest.mark.parametrize("name", ["sparse_linear.pt", "colbert_linear.pt", "pytorch_model.bin"])
def test_a_file_that_ends_early(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelFolderError, match=name):
        load_encoder(folder, SETTINGS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "bert"}, "bert"),
        ({"hidden_act": "relu"}, "relu"),
        ({"hidden_size": 32}, "word_embeddings"),
        ({"num_hidden_layers": 3}, "encoder.layer.2"),
        ({"num_attention_heads": 5}, "5 heads"),
        ({"layer_norm_eps": None}, "config.json"),
    ],
)
def test_a_configuration_that_does_not_fit(folder: Path, change: dict[str, Any], said: str) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelFolderError, match=said):
        load_encoder(folder, SETTINGS)
