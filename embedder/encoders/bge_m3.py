"""BGE-M3 on the CPU without torch: dense, learned sparse and multi-vector embeddings from one forward pass.

Source: Chen et al., "M3-Embedding", arXiv:2402.03216; FlagEmbedding 1.4.2, inference/embedder/encoder_only/m3.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from embedder.encoders.base import TokenIds, open_tokenizer
from embedder.encoders.bert_graph import BertConfig, BertGraph, weight_of
from embedder.encoders.checkpoint import read_weights
from embedder.encoders.engine import PROPERTIES, Engine, EngineEncoder, computes_bfloat16, model_of
from embedder.encoders.exported import ExportedFolder, fingerprint_of
from embedder.encoders.linear import linear
from embedder.encoders.texts import EncoderTokenizer
from embedder.errors import ModelFolderError, SettingsError
from embedder.folder import EmbedderFolder, file_hashes, is_exported
from embedder.settings import EncoderSettings, Precision

_SPECIAL_TOKENS = ("<s>", "</s>", "<pad>", "<unk>")
"""Special tokens carry no meaning, so they get no learned weights."""

_INT8_GROUP = 64
"""Number of activations that share a scale when they are quantised. docs/decisions/0013 compares other sizes."""


@dataclass(frozen=True, slots=True)
class BgeM3Folder:
    """A folder with all files of BAAI/bge-m3 in the Hugging Face layout."""

    folder: EmbedderFolder
    config: BertConfig
    encoder_weights: Path
    sparse_head: Path
    multi_vector_head: Path

    @classmethod
    def open(cls, path: Path) -> BgeM3Folder:
        """Finds the files."""
        folder = EmbedderFolder.open(path)
        config = BertConfig.load(folder.file("config.json"), ["xlm-roberta"])
        heads = folder.file("sparse_linear.pt"), folder.file("colbert_linear.pt")
        return cls(folder, config, folder.weights(), *heads)

    def hashes(self) -> dict[str, str]:
        """File name → SHA-256, for each file of weights."""
        return file_hashes([self.encoder_weights, self.sparse_head, self.multi_vector_head])

    def fingerprint(self, model_id: str | None, precision: Precision = "f32") -> str:
        """The fingerprint of the model in this precision; see `fingerprint_of`."""
        return fingerprint_of(self.folder, model_id, self.hashes(), precision)

    def tokenizer(self, settings: EncoderSettings) -> EncoderTokenizer:
        """The tokenizer. It truncates at the model's last position, or at a lower limit from settings or card."""
        limit = self.config.max_tokens
        return open_tokenizer(self.folder, settings, default_tokens=limit, model_tokens=limit)


class BgeM3Encoder(EngineEncoder):
    """BGE-M3 on OpenVINO."""

    def __init__(self, model_dir: Path, settings: EncoderSettings) -> None:
        """Loads the encoder and both heads from the Hugging Face layout, or from an export of `embedder.export`.

        Raises:
            ModelFolderError: a file is missing, damaged, or belongs to another model.
            SettingsError: the folder was exported in a precision other than the settings'.
        """
        if is_exported(model_dir):
            exported = ExportedFolder.open(model_dir)
            precision = exported.precision if settings.precision == "auto" else settings.precision
            if (precision == "int8") != (exported.precision == "int8"):
                raise SettingsError(
                    f"precision is {precision}, but {model_dir} was exported as {exported.precision}: set precision to "
                    f"auto, or export the model again with --precision {precision}."
                )
            limit, padding_id = exported.max_tokens, exported.padding_id
            tokenizer = open_tokenizer(exported.folder, settings, default_tokens=limit, model_tokens=limit)
            model = exported.read()
            self.fingerprint = exported.fingerprint(settings.model_id)
        else:
            files = BgeM3Folder.open(model_dir)
            fastest: Precision = "bf16" if computes_bfloat16() else "f32"
            precision = fastest if settings.precision == "auto" else settings.precision
            padding_id = files.config.padding_id
            tokenizer = files.tokenizer(settings)
            model = build_graph(files, "int8" if precision == "int8" else "f32")
            self.fingerprint = files.fingerprint(settings.model_id, precision)
        super().__init__(tokenizer, special_ids=special_ids(tokenizer))
        self.precision: Precision = precision
        self.dimension = model.output("dense").partial_shape[-1].get_length()
        properties = PROPERTIES[precision]
        if precision == "int8":
            between = "bf16" if computes_bfloat16() else "f32"  # for the operations between the linear maps
            properties = {"INFERENCE_PRECISION_HINT": between, "DYNAMIC_QUANTIZATION_GROUP_SIZE": _INT8_GROUP}
        self._engine = Engine(
            model,
            settings,
            properties,
            padding_id=padding_id,
            max_tokens=self.max_tokens,
            default_streams=1,  # one forward pass keeps all threads busy
        )

    def _vectors_of(self, tokens: int) -> slice:
        """All but one: the model returns no vector for the first token."""
        return slice(0, tokens - 1)


def special_ids(tokenizer: EncoderTokenizer) -> TokenIds:
    """Ids of the tokens that get no learned weights."""
    ids = [tokenizer.token_id(token) for token in _SPECIAL_TOKENS]
    if None in ids:
        raise ModelFolderError(f"tokenizer.json lacks one of {' '.join(_SPECIAL_TOKENS)}: it is not BGE-M3's.")
    return np.array(ids, np.int64)


def build_graph(files: BgeM3Folder, storage: Precision) -> ov.Model:
    """The encoder with all three heads, its weights stored in the precision `storage`.

    Inputs: int64[n, tokens] `input_ids` and `attention_mask`.
    Outputs: `dense` [n, hidden], `sparse` [n, tokens], `multi_vectors` [n, tokens - 1, hidden]; none is normalised.
    The sparse and multi-vector heads are always computed: they are 1/300 of the work.
    """
    size = files.config.hidden
    graph = BertGraph(files.config, read_weights(files.encoder_weights), storage)
    hidden = graph.hidden_states()
    dense = ops.gather(hidden, np.int64(0), np.int64(1))
    token_weights = _head(files.sparse_head, hidden, 1, size, "f32")
    sparse = ops.squeeze(ops.relu(token_weights), np.int64(2))
    one = np.array([1], np.int64)
    behind_first = ops.slice(hidden, one, np.array([np.iinfo(np.int64).max], np.int64), one, one)
    multi_vectors = _head(files.multi_vector_head, behind_first, size, size, storage)
    outputs = {"dense": dense, "sparse": sparse, "multi_vectors": multi_vectors}
    return model_of(outputs, [graph.input_ids, graph.attention_mask], "bge_m3")


def _head(path: Path, hidden: ov.Node, outputs: int, inputs: int, storage: Precision) -> ov.Node:
    weights = read_weights(path)
    try:
        weight, bias = weight_of(weights, "weight", (outputs, inputs)), weight_of(weights, "bias", (outputs,))
    except ModelFolderError as error:
        raise ModelFolderError(f"{path}: {error}") from error
    return linear(hidden, weight, bias, storage)
