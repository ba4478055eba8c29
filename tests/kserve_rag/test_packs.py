"""Packs are converted to the Hugging Face layout; invalid packs are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from embedder.encoders.checkpoint import read_weights
from embedder.errors import ModelFolderError
from kserve_rag.models.packs import unpack
from tests.tiny_bert import Weights, config, write_e5_pack, write_pack


def assert_weights(folder: Path, expected: Weights) -> None:
    made = read_weights(folder / "model.safetensors")
    assert made.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(made[name], tensor, err_msg=name)


def test_every_number_arrives(tmp_path: Path) -> None:
    weights = write_pack(tmp_path / "pack")
    unpack(tmp_path / "pack", tmp_path)
    assert_weights(tmp_path, weights)
    vocabulary = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size()
    described = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert described.items() <= config("roberta", vocabulary).items()


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"arch": {}},
        {"tokenizer_len": 10},
        {"tokenizer_len": -5},
        {"tensors": []},
        {"tensors": [{"name": "word_emb", "dtype": "i4", "shape": [2, 8], "group": 8, "len": 4}]},
        {"tensors": [{"name": "word_emb", "dtype": "i8", "shape": [2, 8], "group": 0, "len": 16}]},
        {"tensors": [{"name": "word_emb", "dtype": "f32", "shape": [2, 8], "group": 0, "len": 10**9}]},
    ],
)
def test_a_header_that_does_not_fit(tmp_path: Path, change: dict[str, Any]) -> None:
    write_pack(tmp_path / "pack", **change)
    with pytest.raises(ModelFolderError, match=r"pack is not a pack .* or is damaged"):
        unpack(tmp_path / "pack", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


def test_blocks_of_four_bits(tmp_path: Path) -> None:
    weights = write_e5_pack(tmp_path / "pack")
    unpack(tmp_path / "pack", tmp_path)
    assert_weights(tmp_path, weights)
    described = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert described == {
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": 32,
        "intermediate_size": 64,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 20,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": 10,
    }


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a chunk", ["▁a", "▁chunk"]),
        (" a\t \u200b chunk\x07\n", ["▁a", "▁chunk"]),
        ("½", ["▁", "1⁄2"]),
        ("a <pad> ☃", ["▁a", "<pad>", "▁", "<unk>"]),
        ("", []),
    ],
)
def test_the_tokenizer_of_a_pack_of_pieces(tmp_path: Path, text: str, pieces: list[str]) -> None:
    write_e5_pack(tmp_path / "pack")
    unpack(tmp_path / "pack", tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = tokenizer.encode(text).ids
    assert [tokenizer.id_to_token(number) for number in ids] == ["<s>", *pieces, "</s>"]


def test_another_version(tmp_path: Path) -> None:
    write_e5_pack(tmp_path / "pack", version=2)
    with pytest.raises(ModelFolderError, match="its version is 2"):
        unpack(tmp_path / "pack", tmp_path)


@pytest.mark.parametrize("write", [write_pack, write_e5_pack])
@pytest.mark.parametrize("kept", [0, 5, 12, 150, 300, -1])
def test_a_pack_that_ends_early(tmp_path: Path, kept: int, write: Callable[[Path], Weights]) -> None:
    write(tmp_path / "pack")
    (tmp_path / "pack").write_bytes((tmp_path / "pack").read_bytes()[:kept])
    with pytest.raises(ModelFolderError, match="damaged"):
        unpack(tmp_path / "pack", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]
