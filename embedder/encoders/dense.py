"""Encoders that pool a network's token vectors into one embedding.

The token vectors also serve as multi-vectors. They were not trained for this, but late interaction over them improves
retrieval (docs/evaluation.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from embedder.encoders.engine import PROPERTIES, Engine, EngineEncoder, model_of
from embedder.encoders.texts import EncoderTokenizer
from embedder.folder import Pooling
from embedder.settings import EncoderSettings


class DenseEncoder(EngineEncoder):
    """A network with pooling, on the CPU."""

    def __init__(
        self,
        model: ov.Model,
        tokenizer: EncoderTokenizer,
        settings: EncoderSettings,
        *,
        fingerprint: str,
        padding_id: int = 0,
    ) -> None:
        """Compiles a network with the inputs of `Engine` and the outputs of `with_pooling`."""
        super().__init__(tokenizer)
        properties = PROPERTIES["f32" if settings.precision == "auto" else settings.precision]
        self._engine = Engine(model, settings, properties, padding_id=padding_id, max_tokens=self.max_tokens)
        self.dimension = model.output("dense").partial_shape[-1].get_length()
        self.fingerprint = fingerprint

    def _vectors_of(self, tokens: int) -> slice:
        """All but the special tokens at both ends. An empty text keeps the first."""
        return slice(1, tokens - 1) if tokens > 2 else slice(0, 1)


def with_pooling(
    hidden: ov.Node, attention_mask: ov.Node, pooling: Pooling, parameters: Sequence[ov.Node], name: str
) -> ov.Model:
    """A model with the inputs `parameters` and the outputs `dense` [n, dim] and `multi_vectors` [n, tokens, dim].

    `dense` is the first token's vector, or the mean over all tokens except padding. Nothing is normalised.

    Source: sentence-transformers, models/Pooling.py.
    """
    if pooling == "cls":
        embedding = ops.gather(hidden, np.int64(0), np.int64(1))
    else:
        mask = ops.convert(ops.unsqueeze(attention_mask, np.int64(2)), "f32")
        total = ops.reduce_sum(ops.multiply(hidden, mask), np.int64(1))
        embedding = ops.divide(total, ops.reduce_sum(mask, np.int64(1)))
    return model_of({"dense": embedding, "multi_vectors": hidden}, parameters, name)
