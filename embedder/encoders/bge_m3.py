"""BGE-M3 on the CPU without torch: dense, learned sparse and multi-vector embeddings from one pass.

Source: Chen et al., "M3-Embedding", arXiv:2402.03216; FlagEmbedding 1.4.2, inference/embedder/encoder_only/m3.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops

from embedder.encoders.base import normalize_rows, open_tokenizer
from embedder.encoders.batches import pad, padded_length
from embedder.encoders.bert_graph import BertConfig, BertGraph, weight_of
from embedder.encoders.checkpoint import read_weights
from embedder.encoders.engine import PROPERTIES, Engine, computes_bfloat16
from embedder.encoders.exported import ExportedFolder, fingerprint_of
from embedder.encoders.linear import Storage, linear
from embedder.encoders.texts import EncoderTokenizer
from embedder.errors import ModelFolderError, SettingsError
from embedder.folder import EmbedderFolder, file_hashes, is_exported
from embedder.settings import Arithmetic, EncoderSettings
from embedder.wire import Embeddings, InputType, SparseVector

_SPECIAL_TOKENS = ("<s>", "</s>", "<pad>", "<unk>")
"""Special tokens carry no meaning, so they get no learned weights."""

_INT8_GROUP = 64
"""Activations that share a scale in front of int8 weights. docs/decisions/0013 compares other sizes."""


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
        """Finds the files.

        Raises:
            ModelFolderError: one is missing. FlagEmbedding would replace a missing head by a random one.
        """
        folder = EmbedderFolder.open(path)
        config = BertConfig.load(folder.file("config.json"), ["xlm-roberta"])
        candidates = [path / "model.safetensors", path / "pytorch_model.bin"]
        found = [candidate for candidate in candidates if candidate.is_file()]
        if not found:
            raise ModelFolderError(f"The model folder {path} has no model.safetensors and no pytorch_model.bin.")
        return cls(folder, config, found[0], folder.file("sparse_linear.pt"), folder.file("colbert_linear.pt"))

    def hashes(self) -> dict[str, str]:
        """File name → SHA-256, for each file of weights."""
        return file_hashes([self.encoder_weights, self.sparse_head, self.multi_vector_head])

    def fingerprint(self, model_id: str | None, precision: Arithmetic = "f32") -> str:
        """The fingerprint of the model in this precision; see `fingerprint_of`."""
        return fingerprint_of(self.folder, model_id, self.hashes(), precision)

    def tokenizer(self, settings: EncoderSettings) -> EncoderTokenizer:
        """The tokenizer. It truncates at the model's last position, or at a lower limit of settings or card."""
        most = self.config.max_tokens
        return open_tokenizer(self.folder, settings, default_tokens=most, most_tokens=most)


class BgeM3Encoder:
    """BGE-M3 on OpenVINO. See `Encoder`."""

    def __init__(self, model_dir: Path, settings: EncoderSettings) -> None:
        """Loads the encoder and both heads from the Hugging Face layout, or from an export of `embedder.export`.

        Raises:
            ModelFolderError: a file is missing, damaged, or belongs to another model.
            SettingsError: the folder was exported in another precision than the settings name.
        """
        if is_exported(model_dir):
            self._open_exported(ExportedFolder.open(model_dir), settings)
        else:
            self._open_checkpoint(BgeM3Folder.open(model_dir), settings)
        self._special_ids = special_ids(self._tokenizer)
        self.max_tokens = self._tokenizer.max_tokens

    def _open_checkpoint(self, files: BgeM3Folder, settings: EncoderSettings) -> None:
        precision = settings.precision
        if precision == "auto":
            precision = "bf16" if computes_bfloat16() else "f32"
        self._tokenizer = files.tokenizer(settings)
        self._load(build_graph(files, "int8" if precision == "int8" else "f32"), precision, settings)
        self._padding_id = files.config.padding_id
        self.fingerprint = files.fingerprint(settings.model_id, precision)

    def _open_exported(self, exported: ExportedFolder, settings: EncoderSettings) -> None:
        precision = exported.precision if settings.precision == "auto" else settings.precision
        if (precision == "int8") != (exported.precision == "int8"):
            raise SettingsError(
                f"precision is {precision}, and {exported.folder.path} was exported as {exported.precision}: "
                f"leave precision at auto, or export the model again with --precision {precision}."
            )
        most = exported.max_tokens
        self._tokenizer = open_tokenizer(exported.folder, settings, default_tokens=most, most_tokens=most)
        self._load(exported.read(), precision, settings)
        self._padding_id = exported.padding_id
        self.fingerprint = exported.fingerprint(settings.model_id)

    def _load(self, model: ov.Model, precision: Arithmetic, settings: EncoderSettings) -> None:
        self.precision: Arithmetic = precision
        self.dimension: int = model.output("dense").partial_shape[-1].get_length()
        properties = PROPERTIES[precision]
        if precision == "int8":
            between = "bf16" if computes_bfloat16() else "f32"  # for the operations between the linear maps
            properties = {"INFERENCE_PRECISION_HINT": between, "DYNAMIC_QUANTIZATION_GROUP_SIZE": _INT8_GROUP}
        # One pass keeps all threads busy.
        self._engine = Engine(model, settings, properties=properties, default_streams=1)

    def encode(
        self,
        texts: Sequence[str],
        *,
        input_type: InputType | Sequence[InputType] = "query",
        sparse: bool = False,
        multi_vectors: bool = False,
    ) -> Embeddings:
        """See `Encoder.encode`."""
        tokenized = self._tokenizer(texts, input_type)
        plan = self._engine.plan(tokenized.counts.tolist())
        dense = np.empty((len(texts), self.dimension), np.float32)
        sparse_vectors: dict[int, SparseVector] = {}
        matrices: dict[int, npt.NDArray[np.float32]] = {}

        def collect(position: int, outputs: Mapping[Any, npt.NDArray[np.float32]]) -> None:
            dense[plan[position]] = normalize_rows(outputs["dense"])
            for row, text in enumerate(plan[position]):
                ids = tokenized.ids[text]
                if sparse:
                    sparse_vectors[text] = sparse_vector(ids, outputs["sparse"][row, : len(ids)], self._special_ids)
                if multi_vectors:
                    matrices[text] = normalize_rows(outputs["multi_vectors"][row, : len(ids) - 1])

        self._engine.run([self._feed([tokenized.ids[text] for text in batch]) for batch in plan], collect)
        return Embeddings(
            dense,
            tokenized.counts,
            tokenized.truncated,
            self.fingerprint,
            tuple(sparse_vectors[text] for text in range(len(texts))) if sparse else None,
            tuple(matrices[text] for text in range(len(texts))) if multi_vectors else None,
        )

    def _feed(self, ids: Sequence[npt.NDArray[np.int64]]) -> dict[str, npt.NDArray[np.int64]]:
        padded, mask = pad(ids, self._padding_id, padded_length(max(map(len, ids)), self.max_tokens))
        return {"input_ids": padded, "attention_mask": mask}


def special_ids(tokenizer: EncoderTokenizer) -> npt.NDArray[np.int64]:
    """Ids of the tokens that get no learned weights.

    Raises:
        ModelFolderError: the tokenizer belongs to another model.
    """
    ids = [tokenizer.token_id(token) for token in _SPECIAL_TOKENS]
    if None in ids:
        raise ModelFolderError(f"tokenizer.json lacks one of {' '.join(_SPECIAL_TOKENS)}: it is not BGE-M3's.")
    return np.array(ids, np.int64)


def sparse_vector(
    ids: npt.NDArray[np.int64], weights: npt.NDArray[np.float32], dropped: npt.NDArray[np.int64]
) -> SparseVector:
    """The largest weight of each distinct token of one text, without `dropped` ids and without weights <= 0."""
    counted = (weights > 0) & ~np.isin(ids, dropped)
    unique, places = np.unique(ids[counted], return_inverse=True)
    largest = np.zeros(len(unique), np.float32)
    np.maximum.at(largest, places, weights[counted])
    return SparseVector(unique.astype(np.int32), largest)


def build_graph(files: BgeM3Folder, storage: Storage) -> ov.Model:
    """The encoder with all three heads, with its weights in the type `storage`.

    Inputs: int64[n, tokens] `input_ids` and `attention_mask`.
    Outputs: `dense` [n, hidden], `sparse` [n, tokens], `multi_vectors` [n, tokens - 1, hidden]; none is normalised.
    Both heads are always computed: they are 1/300 of the work.

    Raises:
        ModelFolderError: a weight is missing or has another shape.
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
    results = []
    for name, node in (("dense", dense), ("sparse", sparse), ("multi_vectors", multi_vectors)):
        node.output(0).set_names({name})
        results.append(ops.result(node))
    return ov.Model(results, [graph.input_ids, graph.attention_mask], "bge_m3")


def _head(path: Path, hidden: ov.Node, outputs: int, inputs: int, storage: Storage) -> ov.Node:
    weights = read_weights(path)
    try:
        weight, bias = weight_of(weights, "weight", (outputs, inputs)), weight_of(weights, "bias", (outputs,))
    except ModelFolderError as error:
        raise ModelFolderError(f"{path}: {error}") from error
    return linear(hidden, weight, bias, storage)
