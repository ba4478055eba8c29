"""Sentence encoders in one ONNX file, for example all-MiniLM-L6-v2."""

from __future__ import annotations

from pathlib import Path

import openvino as ov

from embedder.encoders.base import open_tokenizer
from embedder.encoders.dense import DenseEncoder, with_pooling
from embedder.errors import ModelFolderError
from embedder.folder import EmbedderFolder, Pooling
from embedder.settings import EncoderSettings

WEIGHTS_NAME = "model.onnx"

_DEFAULT_TOKENS = 256
"""Source: sentence_bert_config.json of sentence-transformers/all-MiniLM-L6-v2."""
_POSITIONS = 512
"""Number of positions of BERT encoders of this kind."""

_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}


class MiniLmEncoder(DenseEncoder):
    """An ONNX sentence encoder on the CPU. See `Encoder`."""

    def __init__(self, model_dir: Path, settings: EncoderSettings) -> None:
        """Loads `model.onnx` and `tokenizer.json`."""
        folder = EmbedderFolder.open(model_dir)
        weights = folder.file(WEIGHTS_NAME)
        tokenizer = open_tokenizer(folder, settings, default_tokens=_DEFAULT_TOKENS, model_tokens=_POSITIONS)
        model = _read(weights, folder.card.pooling or "mean")
        super().__init__(model, tokenizer, settings, fingerprint=folder.fingerprint([weights], settings.model_id))


def _read(path: Path, pooling: Pooling) -> ov.Model:
    """The network of an ONNX file, with pooling and the outputs of `with_pooling`."""
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
    mask = network.input("attention_mask").get_node()
    return with_pooling(hidden, mask, pooling, network.get_parameters(), path.parent.name)
