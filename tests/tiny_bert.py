"""Small encoders of BERT's family with random weights: Hugging Face folders, and their output computed in numpy."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, models, pre_tokenizers, processors

Weights = dict[str, npt.NDArray[np.float32]]

FAMILIES = ("bert", "roberta", "xlm-roberta", "camembert", "mpnet")
HIDDEN, HEADS, INNER, LAYERS, TOKENS = 24, 3, 40, 2, 48
EPSILON = 1e-5
WORDS = [
    "query:",
    "passage:",
    "a",
    "chunk",
    "is",
    "part",
    "of",
    "text",
    "what",
    "an",
    "index",
    "holds",
    "many",
    "?",
    ".",
]

TEXTS = [
    "what is a chunk ?",
    "",
    "an index holds many text . " * 3,
    "text " * 200,
    "unknown signs ☃ and <pad> </s> [SEP] in the text",
    "a",
    "what is a chunk ?",
]


def write_folder(folder: Path, family: str, card: Mapping[str, Any] | None = None, *, seed: int = 7) -> Weights:
    """A whole folder; `card` is its embedder.json. Returns the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, family)
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    (folder / "config.json").write_text(json.dumps(config(family, vocabulary)))
    weights = random_weights(family, vocabulary, seed)
    (folder / "model.safetensors").write_bytes(safetensors(weights))
    if card is not None:
        (folder / "embedder.json").write_text(json.dumps(card))
    return weights


def padding_id(family: str) -> int:
    return 0 if family == "bert" else 1


def positions(family: str) -> int:
    """Rows of the position embedding: those of all but BERT count from behind the padding token."""
    return TOKENS if family == "bert" else TOKENS + padding_id(family) + 1


def config(family: str, vocabulary: int) -> dict[str, Any]:
    return {
        "model_type": family,
        "hidden_act": "gelu",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "layer_norm_eps": EPSILON,
        "max_position_embeddings": positions(family),
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "pad_token_id": padding_id(family),
        "relative_attention_num_buckets": 32,
        "type_vocab_size": 2,
        "vocab_size": vocabulary,
    }


def write_tokenizer(folder: Path, family: str) -> None:
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"] if family == "bert" else ["<s>", "<pad>", "</s>", "<unk>"]
    first, last, unknown = ("[CLS]", "[SEP]", "[UNK]") if family == "bert" else ("<s>", "</s>", "<unk>")
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate([*special, *WORDS])}, unk_token=unknown)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        special_tokens=[(token, special.index(token)) for token in (first, last)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def random_weights(family: str, vocabulary: int, seed: int) -> Weights:
    random = np.random.default_rng(seed)
    weights: Weights = {}

    def add(name: str, *shape: int, around: float = 0.0) -> None:
        weights[name] = (around + 0.3 * random.standard_normal(shape)).astype(np.float32)

    def norm(name: str) -> None:
        add(f"{name}.weight", HIDDEN, around=1.0)
        add(f"{name}.bias", HIDDEN)

    def linear(name: str, outputs: int, inputs: int) -> None:
        add(f"{name}.weight", outputs, inputs)
        add(f"{name}.bias", outputs)

    add("embeddings.word_embeddings.weight", vocabulary, HIDDEN)
    add("embeddings.position_embeddings.weight", positions(family), HIDDEN)
    if family == "mpnet":
        add("encoder.relative_attention_bias.weight", 32, HEADS)
    else:
        add("embeddings.token_type_embeddings.weight", 2, HIDDEN)
    norm("embeddings.LayerNorm")
    for layer in range(LAYERS):
        names = names_of_layer(family, layer)
        for part in ("query", "key", "value", "output"):
            linear(names[part], HIDDEN, HIDDEN)
        norm(names["output_norm"])
        linear(names["wide"], INNER, HIDDEN)
        linear(names["narrow"], HIDDEN, INNER)
        norm(names["norm"])
    return weights


def names_of_layer(family: str, layer: int) -> dict[str, str]:
    prefix = f"encoder.layer.{layer}."
    attention = {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "output": "attention.output.dense",
        "output_norm": "attention.output.LayerNorm",
    }
    if family == "mpnet":
        attention = {name: f"attention.attn.{name[0]}" for name in ("query", "key", "value", "output")}
        attention["output_norm"] = "attention.LayerNorm"
    rest = {"wide": "intermediate.dense", "narrow": "output.dense", "norm": "output.LayerNorm"}
    return {name: prefix + path for name, path in {**attention, **rest}.items()}


def safetensors(weights: Mapping[str, npt.NDArray[np.float32]]) -> bytes:
    header: dict[str, Any] = {}
    position = 0
    for name, tensor in weights.items():
        header[name] = {
            "dtype": "F32",
            "shape": tensor.shape,
            "data_offsets": [position, position + tensor.nbytes],
        }
        position += tensor.nbytes
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(tensor.tobytes() for tensor in weights.values())


def embed(folder: Path, family: str, weights: Weights, text: str, pooling: str) -> npt.NDArray[np.float64]:
    """One text through the network in float64: pooled and L2-normalised.

    Source: transformers, models/bert/modeling_bert.py, models/mpnet/modeling_mpnet.py.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    ids = tokenizer.encode(text).ids
    hidden = _forward(family, {name: tensor.astype(np.float64) for name, tensor in weights.items()}, ids)
    vector = hidden[0] if pooling == "cls" else hidden.mean(axis=0)
    unit: npt.NDArray[np.float64] = vector / np.linalg.norm(vector)
    return unit


def _forward(family: str, w: Mapping[str, npt.NDArray[np.float64]], ids: list[int]) -> npt.NDArray[np.float64]:
    def linear(rows: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
        return rows @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(rows: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
        centred = rows - rows.mean(axis=1, keepdims=True)
        scaled = centred / np.sqrt(rows.var(axis=1, keepdims=True) + EPSILON)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    places, seen = [], 0
    for place, token in enumerate(ids):
        if family == "bert":
            places.append(place)
        else:  # a padding token takes no place, wherever it stands
            seen += token != padding_id(family)
            places.append(padding_id(family) + (seen if token != padding_id(family) else 0))
    hidden = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][places]
    bias: Callable[[int], Any] = lambda head: 0.0  # noqa: E731
    if family == "mpnet":
        table = w["encoder.relative_attention_bias.weight"]
        rows = [[_bucket(key - query) for key in range(len(ids))] for query in range(len(ids))]
        bias = lambda head: table[rows, head]  # noqa: E731
    else:
        hidden = hidden + w["embeddings.token_type_embeddings.weight"][0]
    hidden = norm(hidden, "embeddings.LayerNorm")
    size = HIDDEN // HEADS
    for layer in range(LAYERS):
        names = names_of_layer(family, layer)
        query, key, value = (linear(hidden, names[part]) for part in ("query", "key", "value"))
        attended = []
        for head in range(HEADS):
            own = slice(head * size, (head + 1) * size)
            scores = query[:, own] @ key[:, own].T / math.sqrt(size) + bias(head)
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            attended.append(shares / shares.sum(axis=1, keepdims=True) @ value[:, own])
        hidden = norm(hidden + linear(np.concatenate(attended, axis=1), names["output"]), names["output_norm"])
        wide = linear(hidden, names["wide"])
        wide = wide * (1 + np.vectorize(math.erf)(wide / math.sqrt(2))) / 2
        hidden = norm(hidden + linear(wide, names["narrow"]), names["norm"])
    return hidden


def _bucket(apart: int) -> int:
    """One of 32 buckets: 16 per direction. The first 8 hold one distance each; the others widen up to 128."""
    half = 16 if apart > 0 else 0
    apart = abs(apart)
    return half + (apart if apart < 8 else min(15, 8 + int(math.log(apart / 8) / math.log(128 / 8) * 8)))


def write_pack(path: Path, **changes: Any) -> Weights:
    """A tiny RoBERTa as an HMSEMB pack with int8 matrices in groups of 8. Returns the dequantised weights.

    `changes` replace values of the header.
    """
    write_tokenizer(path.parent, "roberta")
    tokenizer = (path.parent / "tokenizer.json").read_bytes()
    (path.parent / "tokenizer.json").unlink()
    vocabulary = json.loads(tokenizer)["model"]["vocab"]
    weights = random_weights("roberta", len(vocabulary), seed=3)
    random = np.random.default_rng(4)
    stored: list[tuple[dict[str, Any], bytes]] = []

    def store(name: str, *unpacked: str, quantised: bool = False) -> None:
        tensor = np.concatenate([weights[part] for part in unpacked])
        described: dict[str, Any] = {"name": name, "dtype": "f32", "shape": tensor.shape, "group": 0}
        data = tensor.tobytes()
        if quantised:
            numbers = random.integers(-127, 128, tensor.shape, np.int8)
            scales = random.uniform(0.001, 0.01, (len(tensor), tensor.shape[1] // 8)).astype(np.float32)
            for part, rows in zip(
                unpacked, np.split(numbers * np.repeat(scales, 8, axis=1), len(unpacked)), strict=True
            ):
                weights[part] = rows
            described |= {"dtype": "i8", "group": 8}
            data = numbers.tobytes() + scales.tobytes()
        stored.append(({**described, "len": len(data)}, data))

    store("word_emb", "embeddings.word_embeddings.weight", quantised=True)
    store("pos_emb", "embeddings.position_embeddings.weight")
    store("type_emb", "embeddings.token_type_embeddings.weight")
    for part, suffix in (("weight", "w"), ("bias", "b")):
        store(f"emb_ln.{suffix}", f"embeddings.LayerNorm.{part}")
        for layer in range(LAYERS):
            names = names_of_layer("roberta", layer)
            parts = [f"{names[which]}.{part}" for which in ("query", "key", "value")]
            store(f"l{layer}.qkv.{suffix}", *parts, quantised=part == "weight")
            for packed, which in (("ao", "output"), ("f1", "wide"), ("f2", "narrow")):
                store(f"l{layer}.{packed}.{suffix}", f"{names[which]}.{part}", quantised=part == "weight")
            for packed, which in (("aln", "output_norm"), ("fln", "norm")):
                store(f"l{layer}.{packed}.{suffix}", f"{names[which]}.{part}")
    header = {
        "format": 1,
        "meta": {"model": "tiny"},
        "arch": {
            "hidden": HIDDEN,
            "layers": LAYERS,
            "heads": HEADS,
            "intermediate": INNER,
            "vocab": len(vocabulary),
            "max_positions": positions("roberta"),
            "type_vocab": 2,
            "layer_norm_eps": EPSILON,
            "position_offset": 2,
        },
        "quantization": "int8",
        "tokenizer_len": len(tokenizer),
        "tensors": [described for described, _ in stored],
    } | changes
    text = json.dumps(header).encode()
    path.write_bytes(
        b"HMSEMB01" + struct.pack("<Q", len(text)) + text + tokenizer + b"".join(data for _, data in stored)
    )
    return weights


def write_e5_pack(path: Path, *, version: int = 1) -> Weights:
    """A tiny BERT of 32 dimensions as an E5S1 pack with one layer. Returns the dequantised weights."""
    random = np.random.default_rng(5)
    hidden, inner = 32, 64
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁a", "▁chunk", "▁", "½", "1⁄2", "<mask>"]
    blob = "".join(pieces).encode()
    offsets = np.cumsum([0, *(len(piece.encode()) for piece in pieces)]).astype("<u4")
    weights: Weights = {}
    tensors: list[tuple[bytes, int, int, bytes]] = []

    def store(name: str, renamed: str, *shape: int, blocks: bool = False) -> None:
        if blocks:
            numbers = random.integers(0, 16, (math.prod(shape) // 32, 32), np.uint8)
            scales = random.uniform(0.01, 0.1, (len(numbers), 1)).astype("<f2")
            weights[renamed] = ((numbers.astype(np.float32) - 8) * scales.astype(np.float32)).reshape(shape)
            halves = numbers[:, :16] | numbers[:, 16:] << 4
            data = b"".join(scale.tobytes() + row.tobytes() for scale, row in zip(scales, halves, strict=True))
        else:
            weights[renamed] = random.standard_normal(shape).astype("<f4")
            data = weights[renamed].tobytes()
        tensors.append((name.encode(), blocks, math.prod(shape), data))

    store("emb.word", "embeddings.word_embeddings.weight", len(pieces), hidden, blocks=True)
    store("emb.pos", "embeddings.position_embeddings.weight", 20, hidden)
    store("emb.type", "embeddings.token_type_embeddings.weight", 2, hidden)
    store("emb.ln.w", "embeddings.LayerNorm.weight", hidden)
    store("emb.ln.b", "embeddings.LayerNorm.bias", hidden)
    names = names_of_layer("bert", 0)
    for packed, which, outputs, inputs in (
        ("q", "query", hidden, hidden),
        ("k", "key", hidden, hidden),
        ("v", "value", hidden, hidden),
        ("ao", "output", hidden, hidden),
        ("fi", "wide", inner, hidden),
        ("fo", "narrow", hidden, inner),
    ):
        store(f"l0.{packed}.w", f"{names[which]}.weight", outputs, inputs, blocks=True)
        store(f"l0.{packed}.b", f"{names[which]}.bias", outputs)
    for packed, which in (("aln", "output_norm"), ("oln", "norm")):
        store(f"l0.{packed}.w", f"{names[which]}.weight", hidden)
        store(f"l0.{packed}.b", f"{names[which]}.bias", hidden)

    sizes = struct.pack("<4sI7ifi", b"E5S1", version, hidden, 1, 2, inner, len(pieces), 20, 2, 1e-12, 32)
    vocabulary = struct.pack("<5iQ", len(pieces), 0, 2, 1, 3, len(blob)) + offsets.tobytes()
    vocabulary += np.arange(0, -len(pieces), -1).astype("<f4").tobytes() + blob
    normalisation = struct.pack("<iIIBI", 1, 9, 9, 1, 32)  # a tab is a space
    head = sizes + vocabulary + normalisation + struct.pack("<i", len(tensors))
    start = len(head) + sum(2 + len(name) + 21 for name, *_ in tensors)
    for name, kind, numbers, data in tensors:
        head += struct.pack("<H", len(name)) + name + struct.pack("<BIQQ", kind, numbers, start, len(data))
        start += len(data)
    path.write_bytes(head + b"".join(data for *_, data in tensors))
    return weights
