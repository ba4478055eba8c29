"""Sentence encoders as one ONNX file, such as all-MiniLM-L6-v2: pooled token embeddings, L2-normalised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops

from embedder.encoders.base import normalize_rows, open_tokenizer
from embedder.encoders.batches import pad, padded_length
from embedder.encoders.engine import Engine
from embedder.errors import ModelFolderError, TextError
from embedder.folder import ModelFolder, Pooling
from embedder.settings import EncoderSettings
from embedder.wire import Embeddings, InputType

WEIGHTS_NAME = "model.onnx"

_DEFAULT_TOKENS = 256
"""Source: sentence_bert_config.json of sentence-transformers/all-MiniLM-L6-v2."""
_POSITIONS = 512
"""Positions that BERT encoders of this kind have."""

_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}


class MiniLmEncoder:
    """An ONNX sentence encoder on the CPU. See `Encoder`."""

    def __init__(self, model_dir: Path, settings: EncoderSettings) -> None:
        """Loads `model.onnx` and `tokenizer.json`.

        Raises:
            ModelFolderError: a file is missing, or is not such a model.
        """
        folder = ModelFolder.open(model_dir)
        weights = folder.file(WEIGHTS_NAME)
        self._tokenizer = open_tokenizer(folder, settings, default_tokens=_DEFAULT_TOKENS, most_tokens=_POSITIONS)
        model = _read(weights, folder.card.pooling or "mean")
        self._inputs = {port.any_name for port in model.inputs}
        self._engine = Engine(model, settings)
        self.dimension = model.output(0).partial_shape[-1].get_length()
        self.max_tokens = self._tokenizer.max_tokens
        self.fingerprint = folder.fingerprint([weights], settings.model_id)

    def encode(
        self,
        texts: Sequence[str],
        *,
        input_type: InputType | Sequence[InputType] = "query",
        sparse: bool = False,
        multi_vectors: bool = False,
    ) -> Embeddings:
        """See `Encoder.encode`."""
        if sparse or multi_vectors:
            raise TextError(f"The model {self.fingerprint.partition('@')[0]} makes dense embeddings only.")
        tokenized = self._tokenizer(texts, input_type)
        plan = self._engine.plan(tokenized.counts.tolist())
        dense = np.empty((len(texts), self.dimension), np.float32)

        def collect(position: int, outputs: Mapping[Any, npt.NDArray[np.float32]]) -> None:
            dense[plan[position]] = normalize_rows(outputs[0])

        self._engine.run([self._feed([tokenized.ids[text] for text in batch]) for batch in plan], collect)
        return Embeddings(dense, tokenized.counts, tokenized.truncated, self.fingerprint)

    def _feed(self, ids: Sequence[npt.NDArray[np.int64]]) -> dict[str, npt.NDArray[np.int64]]:
        padded, mask = pad(ids, 0, padded_length(max(map(len, ids)), self.max_tokens))
        feed = {"input_ids": padded, "attention_mask": mask}
        if "token_type_ids" in self._inputs:
            feed["token_type_ids"] = np.zeros_like(padded)
        return feed


def _read(path: Path, pooling: Pooling) -> ov.Model:
    """The network of an ONNX file with its pooling: token ids in, float32[n, dim] out."""
    try:
        network = ov.Core().read_model(path)
    except RuntimeError as error:
        raise ModelFolderError(f"{path} is not an ONNX model that OpenVINO reads.") from error
    names = {port.any_name for port in network.inputs}
    if not {"input_ids", "attention_mask"} <= names <= _INPUTS:
        raise ModelFolderError(f"{path} has the inputs {', '.join(sorted(names))}: it is not a text encoder.")
    hidden = network.get_results()[0].input_value(0)
    shape = hidden.partial_shape
    if len(shape) != 3 or not shape[2].is_static:
        raise ModelFolderError(f"{path}: its output has the shape {shape}, not [texts, tokens, dimension].")
    if pooling == "cls":
        pooled = ops.gather(hidden, np.int64(0), np.int64(1))
    else:
        mask = ops.convert(ops.unsqueeze(network.input("attention_mask").get_node(), np.int64(2)), "f32")
        pooled = ops.divide(ops.reduce_sum(ops.multiply(hidden, mask), np.int64(1)), ops.reduce_sum(mask, np.int64(1)))
    return ov.Model([pooled], network.get_parameters(), path.parent.name)
