"""Encoders that pool a network's token vectors into one embedding.

The token vectors also serve as multi-vectors. They were not trained for it, but late interaction over them finds more
than the pooled vector alone (docs/evaluation.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops

from embedder.encoders.base import normalize_rows
from embedder.encoders.batches import pad, padded_length
from embedder.encoders.engine import Engine
from embedder.encoders.texts import EncoderTokenizer
from embedder.errors import TextError
from embedder.folder import Pooling
from embedder.settings import EncoderSettings
from embedder.wire import Embeddings, InputType


class DenseEncoder:
    """A network with pooling, on the CPU. See `Encoder`."""

    def __init__(
        self,
        model: ov.Model,
        tokenizer: EncoderTokenizer,
        settings: EncoderSettings,
        *,
        fingerprint: str,
        padding_id: int = 0,
    ) -> None:
        """Compiles a network.

        Args:
            model: inputs int64[n, tokens] `input_ids`, `attention_mask` and optionally `token_type_ids`; outputs as in
                `with_pooling`.
            tokenizer: the network's tokenizer.
            settings: settings of the engine.
            fingerprint: see `Encoder`.
            padding_id: id of the padding token.
        """
        self._tokenizer, self._padding_id = tokenizer, padding_id
        self._inputs = {port.any_name for port in model.inputs}
        self._engine = Engine(model, settings)
        self.dimension: int = model.output(0).partial_shape[-1].get_length()
        self.max_tokens = tokenizer.max_tokens
        self.fingerprint = fingerprint

    def encode(
        self,
        texts: Sequence[str],
        *,
        input_type: InputType | Sequence[InputType] = "query",
        sparse: bool = False,
        multi_vectors: bool = False,
    ) -> Embeddings:
        """See `Encoder.encode`."""
        if sparse:
            raise TextError(f"The model {self.fingerprint.partition('@')[0]} has no learned token weights.")
        tokenized = self._tokenizer(texts, input_type)
        plan = self._engine.plan(tokenized.counts.tolist())
        dense = np.empty((len(texts), self.dimension), np.float32)
        matrices: dict[int, npt.NDArray[np.float32]] = {}

        def collect(position: int, outputs: Mapping[Any, npt.NDArray[np.float32]]) -> None:
            dense[plan[position]] = normalize_rows(outputs["embedding"])
            if multi_vectors:
                for row, text in enumerate(plan[position]):
                    matrices[text] = normalize_rows(
                        _without_special_tokens(outputs["tokens"][row, : len(tokenized.ids[text])])
                    )

        self._engine.run([self._feed([tokenized.ids[text] for text in batch]) for batch in plan], collect)
        return Embeddings(
            dense,
            tokenized.counts,
            tokenized.truncated,
            self.fingerprint,
            multi_vectors=tuple(matrices[text] for text in range(len(texts))) if multi_vectors else None,
        )

    def _feed(self, ids: Sequence[npt.NDArray[np.int64]]) -> dict[str, npt.NDArray[np.int64]]:
        padded, mask = pad(ids, self._padding_id, padded_length(max(map(len, ids)), self.max_tokens))
        feed = {"input_ids": padded, "attention_mask": mask}
        if "token_type_ids" in self._inputs:
            feed["token_type_ids"] = np.zeros_like(padded)
        return feed


def with_pooling(
    hidden: ov.Node, attention_mask: ov.Node, pooling: Pooling, parameters: Sequence[ov.Node], name: str
) -> ov.Model:
    """A model with the inputs `parameters` and the outputs `embedding` [n, dim] and `tokens` [n, tokens, dim].

    The embedding is the first token's vector, or the mean over all tokens except padding. Nothing is normalised.

    Source: sentence-transformers, models/Pooling.py.
    """
    if pooling == "cls":
        embedding = ops.gather(hidden, np.int64(0), np.int64(1))
    else:
        mask = ops.convert(ops.unsqueeze(attention_mask, np.int64(2)), "f32")
        embedding = ops.divide(
            ops.reduce_sum(ops.multiply(hidden, mask), np.int64(1)), ops.reduce_sum(mask, np.int64(1))
        )
    results = []
    for output, node in (("embedding", embedding), ("tokens", hidden)):
        result = ops.result(node)
        result.output(0).set_names({output})
        results.append(result)
    return ov.Model(results, parameters, name)


def _without_special_tokens(tokens: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """`tokens` without the special tokens at both ends. An empty text keeps the first."""
    return tokens[1:-1] if len(tokens) > 2 else tokens[:1]
