"""The XLM-RoBERTa encoder as an OpenVINO graph, built from a checkpoint's weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops

from embedder.encoders.checkpoint import Weights
from embedder.errors import ModelFolderError

_MASKED = np.finfo(np.float32).min
"""Added to the score of a token that is padding."""


@dataclass(frozen=True, slots=True)
class XlmRobertaConfig:
    """What `config.json` of a Hugging Face checkpoint says of the network."""

    layers: int
    hidden: int
    heads: int
    positions: int
    """Rows of the position embedding; the first `padding_id` + 1 are not used by tokens."""
    padding_id: int
    epsilon: float
    """Of the layer normalisations."""

    @classmethod
    def load(cls, path: Path) -> XlmRobertaConfig:
        """Reads `config.json`.

        Raises:
            ModelFolderError: it is not of an XLM-RoBERTa encoder with the exact GELU.
        """
        try:
            content: Any = json.loads(path.read_text("utf-8"))
            model_type, activation = content["model_type"], content.get("hidden_act", "gelu")
            config = cls(
                layers=int(content["num_hidden_layers"]),
                hidden=int(content["hidden_size"]),
                heads=int(content["num_attention_heads"]),
                positions=int(content["max_position_embeddings"]),
                padding_id=int(content["pad_token_id"]),
                epsilon=float(content["layer_norm_eps"]),
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelFolderError(f"{path} does not describe an encoder: {error!r}") from error
        if model_type != "xlm-roberta" or activation != "gelu":
            raise ModelFolderError(f"{path} is of a {model_type} with {activation}, not of an xlm-roberta with gelu.")
        if config.heads < 1 or config.hidden % config.heads:
            raise ModelFolderError(f"{path}: {config.hidden} dimensions cannot be split into {config.heads} heads.")
        return config

    @property
    def max_tokens(self) -> int:
        """Tokens that have a position."""
        return self.positions - self.padding_id - 1


class XlmRobertaGraph:
    """Builds the network; every method adds to one graph.

    Source: transformers, models/xlm_roberta/modeling_xlm_roberta.py.
    """

    def __init__(self, config: XlmRobertaConfig, weights: Weights) -> None:
        self._config = config
        # A checkpoint of a model with a task's head has the encoder under this name.
        self._weights = {name.removeprefix("roberta."): tensor for name, tensor in weights.items()}
        self.input_ids = ops.parameter([-1, -1], np.int64, name="input_ids")
        self.attention_mask = ops.parameter([-1, -1], np.int64, name="attention_mask")

    def hidden_states(self) -> ov.Node:
        """float32[n, tokens, hidden]: the last layer's output.

        Raises:
            ModelFolderError: a weight is missing or has another shape.
        """
        hidden = self._embeddings()
        mask = ops.convert(self.attention_mask, np.float32)
        scores = ops.multiply(ops.subtract(np.float32(1), mask), _MASKED)
        scores = ops.unsqueeze(scores, np.array([1, 2], np.int64))
        for layer in range(self._config.layers):
            hidden = self._layer(hidden, scores, f"encoder.layer.{layer}.")
        return hidden

    def linear(self, hidden: ov.Node, weights: Weights, prefix: str, outputs: int, inputs: int) -> ov.Node:
        """Hidden @ weight.T + bias, of the tensors `<prefix>weight` and `<prefix>bias`."""
        weight = _constant(weights, f"{prefix}weight", (outputs, inputs))
        bias = _constant(weights, f"{prefix}bias", (outputs,))
        return ops.add(ops.matmul(hidden, weight, False, True), bias)

    def _embeddings(self) -> ov.Node:
        padding, axis = np.int64(self._config.padding_id), np.int64(0)
        is_token = ops.convert(ops.not_equal(self.input_ids, padding), np.int64)
        positions = ops.add(ops.multiply(ops.cumsum(is_token, np.int64(1)), is_token), padding)
        names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
        words, places, types = (self._table(f"embeddings.{name}.weight") for name in names)
        hidden = ops.add(ops.gather(words, self.input_ids, axis), ops.gather(types, np.int64(0), axis))
        hidden = ops.add(hidden, ops.gather(places, positions, axis))
        return self._normalize(hidden, "embeddings.LayerNorm.")

    def _layer(self, hidden: ov.Node, scores: ov.Node, name: str) -> ov.Node:
        size = self._config.hidden
        query, key, value = (self._heads(hidden, f"{name}attention.self.{part}.") for part in ("query", "key", "value"))
        attended = ops.scaled_dot_product_attention(query, key, value, scores)
        attended = ops.transpose(attended, np.array([0, 2, 1, 3], np.int64))
        attended = ops.reshape(attended, np.array([0, 0, size], np.int64), True)
        attended = self._linear(attended, f"{name}attention.output.dense.", size, size)
        hidden = self._normalize(ops.add(attended, hidden), f"{name}attention.output.LayerNorm.")
        inner = self._shape(f"{name}intermediate.dense.bias")[0]
        wide = ops.gelu(self._linear(hidden, f"{name}intermediate.dense.", inner, size), "erf")
        narrow = self._linear(wide, f"{name}output.dense.", size, inner)
        return self._normalize(ops.add(narrow, hidden), f"{name}output.LayerNorm.")

    def _heads(self, hidden: ov.Node, name: str) -> ov.Node:
        """float32[n, heads, tokens, hidden / heads]."""
        size, heads = self._config.hidden, self._config.heads
        projected = self._linear(hidden, name, size, size)
        split = ops.reshape(projected, np.array([0, 0, heads, size // heads], np.int64), True)
        return ops.transpose(split, np.array([0, 2, 1, 3], np.int64))

    def _normalize(self, hidden: ov.Node, name: str) -> ov.Node:
        size = (self._config.hidden,)
        normal = ops.mvn(hidden, np.array([-1], np.int64), True, self._config.epsilon, "inside_sqrt")
        scaled = ops.multiply(normal, _constant(self._weights, f"{name}weight", size))
        return ops.add(scaled, _constant(self._weights, f"{name}bias", size))

    def _linear(self, hidden: ov.Node, name: str, outputs: int, inputs: int) -> ov.Node:
        return self.linear(hidden, self._weights, name, outputs, inputs)

    def _table(self, name: str) -> ov.Node:
        return _constant(self._weights, name, (self._shape(name)[0], self._config.hidden))

    def _shape(self, name: str) -> tuple[int, ...]:
        return _tensor(self._weights, name).shape


def _tensor(weights: Mapping[str, npt.NDArray[np.float32]], name: str) -> npt.NDArray[np.float32]:
    if name not in weights:
        raise ModelFolderError(f"The weights have no {name}: they are not of this architecture.")
    return weights[name]


def _constant(weights: Weights, name: str, shape: tuple[int, ...]) -> ov.Node:
    """A constant on the tensor's own memory, which the graph keeps alive."""
    tensor = _tensor(weights, name)
    if tensor.shape != shape:
        raise ModelFolderError(
            f"The weight {name} has the shape {list(tensor.shape)}; config.json wants {list(shape)}."
        )
    return ov.op.Constant(np.ascontiguousarray(tensor), shared_memory=True)
