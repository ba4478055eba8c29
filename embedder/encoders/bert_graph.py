"""Builds an encoder of the BERT family as an OpenVINO graph, from a checkpoint's weights."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops

from embedder.encoders.checkpoint import Weights
from embedder.encoders.linear import constant, linear, rows
from embedder.errors import ModelFolderError
from embedder.settings import Precision

_MASKED = np.finfo(np.float32).min
"""Added to the attention score of a padding token."""


@dataclass(frozen=True, slots=True)
class _Family:
    """Names and conventions of the checkpoints of one `model_type`."""

    prefix: str
    """Prefix of the names of weights in checkpoints that have a task head."""
    padding_id: int
    """Default, if config.json does not set it."""
    positions_behind_padding: bool = True
    """Whether positions start at `padding_id` + 1 instead of 0."""
    token_types: bool = True
    query: str = "attention.self.query."
    key: str = "attention.self.key."
    value: str = "attention.self.value."
    output: str = "attention.output.dense."
    output_norm: str = "attention.output.LayerNorm."


_ROBERTA = _Family("roberta.", padding_id=1)

FAMILIES: dict[str, _Family] = {
    "bert": _Family("bert.", padding_id=0, positions_behind_padding=False),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "mpnet": _Family(
        "mpnet.",
        padding_id=1,
        token_types=False,
        query="attention.attn.q.",
        key="attention.attn.k.",
        value="attention.attn.v.",
        output="attention.attn.o.",
        output_norm="attention.LayerNorm.",
    ),
}
"""`model_type` in config.json → conventions.

Source: transformers, models/{bert,roberta,xlm_roberta,camembert,mpnet}/modeling_*.py.
"""


@dataclass(frozen=True, slots=True)
class BertConfig:
    """Dimensions of the network, from `config.json` of a Hugging Face checkpoint."""

    family: _Family
    layers: int
    hidden: int
    heads: int
    inner: int
    """Width of the feed-forward layer."""
    positions: int
    """Rows of the position embedding."""
    padding_id: int
    epsilon: float
    """Epsilon of the layer normalisations."""
    relative_buckets: int
    """Rows of MPNet's table of relative positions. 0: no relative positions."""

    @classmethod
    def load(cls, path: Path, families: Collection[str] = FAMILIES) -> BertConfig:
        """Reads `config.json`.

        Raises:
            ModelFolderError: it does not describe an encoder of `families` with exact GELU and absolute positions.
        """
        try:
            content: Any = json.loads(path.read_text("utf-8"))
            model_type = content["model_type"]
            if model_type not in families:
                raise ModelFolderError(f"{path}: model_type is {model_type!r}; supported are {', '.join(families)}.")
            family = FAMILIES[model_type]
            config = cls(
                family=family,
                layers=int(content["num_hidden_layers"]),
                hidden=int(content["hidden_size"]),
                heads=int(content["num_attention_heads"]),
                inner=int(content["intermediate_size"]),
                positions=int(content["max_position_embeddings"]),
                padding_id=int(content.get("pad_token_id", family.padding_id)),
                epsilon=float(content["layer_norm_eps"]),
                relative_buckets=int(content["relative_attention_num_buckets"]) if model_type == "mpnet" else 0,
            )
            activation = content.get("hidden_act", "gelu")
            placing = content.get("position_embedding_type", "absolute")
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelFolderError(f"{path} does not describe an encoder: {error!r}") from error
        if activation != "gelu" or placing != "absolute":
            raise ModelFolderError(
                f"{path}: gelu and absolute positions are supported, not {activation} and {placing}."
            )
        if config.heads < 1 or config.hidden % config.heads:
            raise ModelFolderError(f"{path}: {config.hidden} dimensions cannot be split into {config.heads} heads.")
        return config

    @property
    def max_tokens(self) -> int:
        """Maximum length of a text in tokens."""
        return self.positions - (self.padding_id + 1 if self.family.positions_behind_padding else 0)


class BertGraph:
    """Builds the network. Each method adds nodes to the same graph."""

    def __init__(self, config: BertConfig, weights: Weights, storage: Precision = "f32") -> None:
        self._config, self._family, self._storage = config, config.family, storage
        self._weights = {name.removeprefix(config.family.prefix): tensor for name, tensor in weights.items()}
        self.input_ids = ops.parameter([-1, -1], np.int64, name="input_ids")
        self.attention_mask = ops.parameter([-1, -1], np.int64, name="attention_mask")

    @property
    def vocabulary(self) -> int:
        """Number of tokens that have an embedding."""
        return len(self._tensor("embeddings.word_embeddings.weight"))

    def hidden_states(self) -> ov.Node:
        """float32[n, tokens, hidden]: the last layer's output."""
        hidden = self._embeddings()
        scores = self._scores()
        for layer in range(self._config.layers):
            hidden = self._layer(hidden, scores, f"encoder.layer.{layer}.")
        return hidden

    def _embeddings(self) -> ov.Node:
        size = self._config.hidden
        words = self._tensor("embeddings.word_embeddings.weight", (self.vocabulary, size))
        places = self._tensor("embeddings.position_embeddings.weight", (self._config.positions, size))
        hidden = rows(words, self.input_ids, self._storage)
        if self._family.token_types:
            name = "embeddings.token_type_embeddings.weight"
            types = self._tensor(name, (len(self._tensor(name)), size))
            hidden = ops.add(hidden, constant(types[0]))
        hidden = ops.add(hidden, rows(places, self._positions(), self._storage))
        return self._normalize(hidden, "embeddings.LayerNorm.")

    def _positions(self) -> ov.Node:
        if not self._family.positions_behind_padding:
            return self._range()
        padding = np.int64(self._config.padding_id)
        is_token = ops.convert(ops.not_equal(self.input_ids, padding), np.int64)
        return ops.add(ops.multiply(ops.cumsum(is_token, np.int64(1)), is_token), padding)

    def _range(self) -> ov.Node:
        """int64[tokens]: 0, 1, 2 and so on."""
        tokens = ops.gather(ops.shape_of(self.input_ids), np.int64(1), np.int64(0))
        return ops.range(np.int64(0), tokens, np.int64(1), "i64")

    def _scores(self) -> ov.Node:
        """Mask and biases added to attention scores: float32[n, 1, 1, tokens], or [n, heads, tokens, tokens]."""
        mask = ops.convert(self.attention_mask, np.float32)
        scores = ops.multiply(ops.subtract(np.float32(1), mask), _MASKED)
        scores = ops.unsqueeze(scores, np.array([1, 2], np.int64))
        if not self._config.relative_buckets:
            return scores
        table = self._tensor("encoder.relative_attention_bias.weight")
        if table.shape != (self._config.relative_buckets, self._config.heads):
            raise ModelFolderError(f"The weight encoder.relative_attention_bias.weight has the shape {table.shape}.")
        length = self._config.max_tokens
        distances = np.arange(1 - length, length)
        biases = ops.constant(np.ascontiguousarray(table[_buckets(distances, len(table))]))
        places = self._range()
        apart = ops.subtract(ops.unsqueeze(places, np.int64(0)), ops.unsqueeze(places, np.int64(1)))  # key - query
        bias = ops.gather(biases, ops.add(apart, np.int64(length - 1)), np.int64(0))
        return ops.add(scores, ops.unsqueeze(ops.transpose(bias, np.array([2, 0, 1], np.int64)), np.int64(0)))

    def _layer(self, hidden: ov.Node, scores: ov.Node, name: str) -> ov.Node:
        size, inner, family = self._config.hidden, self._config.inner, self._family
        query, key, value = (self._heads(hidden, name + part) for part in (family.query, family.key, family.value))
        attended = ops.scaled_dot_product_attention(query, key, value, scores)
        attended = ops.transpose(attended, np.array([0, 2, 1, 3], np.int64))
        attended = ops.reshape(attended, np.array([0, 0, size], np.int64), True)
        attended = self._linear(attended, name + family.output, size, size)
        hidden = self._normalize(ops.add(attended, hidden), name + family.output_norm)
        wide = ops.gelu(self._linear(hidden, f"{name}intermediate.dense.", inner, size), "erf")
        narrow = self._linear(wide, f"{name}output.dense.", size, inner)
        return self._normalize(ops.add(narrow, hidden), f"{name}output.LayerNorm.")

    def _heads(self, hidden: ov.Node, name: str) -> ov.Node:
        """float32[n, heads, tokens, hidden / heads]."""
        size, heads = self._config.hidden, self._config.heads
        split = ops.reshape(
            self._linear(hidden, name, size, size), np.array([0, 0, heads, size // heads], np.int64), True
        )
        return ops.transpose(split, np.array([0, 2, 1, 3], np.int64))

    def _linear(self, hidden: ov.Node, name: str, outputs: int, inputs: int) -> ov.Node:
        weight, bias = self._tensor(f"{name}weight", (outputs, inputs)), self._tensor(f"{name}bias", (outputs,))
        return linear(hidden, weight, bias, self._storage)

    def _normalize(self, hidden: ov.Node, name: str) -> ov.Node:
        size = (self._config.hidden,)
        normal = ops.mvn(hidden, np.array([-1], np.int64), True, self._config.epsilon, "inside_sqrt")
        scaled = ops.multiply(normal, constant(self._tensor(f"{name}weight", size)))
        return ops.add(scaled, constant(self._tensor(f"{name}bias", size)))

    def _tensor(self, name: str, shape: tuple[int, ...] | None = None) -> npt.NDArray[np.float32]:
        return weight_of(self._weights, name, shape)


def weight_of(weights: Weights, name: str, shape: tuple[int, ...] | None) -> npt.NDArray[np.float32]:
    """The tensor with this name.

    Raises:
        ModelFolderError: there is none, or its shape is not `shape`.
    """
    if name not in weights:
        raise ModelFolderError(f"The weights have no {name}: they belong to another architecture.")
    tensor = weights[name]
    if shape is not None and tensor.shape != shape:
        raise ModelFolderError(
            f"The weight {name} has the shape {list(tensor.shape)}; config.json requires {list(shape)}."
        )
    return tensor


def _buckets(distances: npt.NDArray[np.int64], buckets: int, furthest: int = 128) -> npt.NDArray[np.int64]:
    """The row of the bias table for each distance, in tokens, from a query to its key.

    Source: transformers, models/mpnet/modeling_mpnet.py, `relative_position_bucket`.
    """
    half = buckets // 2
    exact = half // 2
    apart = np.abs(distances)
    share = np.log(np.maximum(apart, 1).astype(np.float32) / exact) / math.log(furthest / exact)
    far = np.minimum(exact + (share * (half - exact)).astype(np.int64), half - 1)
    return np.where(distances > 0, half, 0) + np.where(apart < exact, apart, far)
