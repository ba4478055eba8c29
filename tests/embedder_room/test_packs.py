"""HMSEMB packs become the Hugging Face layout, number by number; what is no such pack is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bert import config, write_pack
from tokenizers import Tokenizer

from embedder.encoders.checkpoint import read_weights
from embedder.errors import ModelFolderError
from embedder.packs import unpack


def test_every_number_arrives(tmp_path: Path) -> None:
    weights = write_pack(tmp_path / "pack")
    unpack(tmp_path / "pack", tmp_path)
    made = read_weights(tmp_path / "model.safetensors")
    assert made.keys() == weights.keys()
    for name, tensor in weights.items():
        np.testing.assert_array_equal(made[name], tensor, err_msg=name)
    vocabulary = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size()
    described = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert described.pop("architectures") == ["RobertaModel"]
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
    with pytest.raises(ModelFolderError, match=r"pack is not an HMSEMB pack .* or is damaged"):
        unpack(tmp_path / "pack", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


@pytest.mark.parametrize("kept", [0, 5, 12, 300, -1])
def test_a_pack_that_ends_early(tmp_path: Path, kept: int) -> None:
    write_pack(tmp_path / "pack")
    (tmp_path / "pack").write_bytes((tmp_path / "pack").read_bytes()[:kept])
    with pytest.raises(ModelFolderError, match="damaged"):
        unpack(tmp_path / "pack", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]
