"""BGE-M3 on the CPU without torch: dense, learned sparse and multi-vector embeddings out of one pass.

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
from embedder.encoders.checkpoint import read_weights
from embedder.encoders.engine import Engine
from embedder.encoders.texts import TextTokenizer
from embedder.encoders.xlm_roberta import XlmRobertaConfig, XlmRobertaGraph
from embedder.errors import ModelFolderError
from embedder.folder import ModelFolder
from embedder.settings import EncoderSettings
from embedder.wire import Embeddings, InputType, SparseVector

_SPECIAL_TOKENS = ("<s>", "</s>", "<pad>", "<unk>")
"""They carry no meaning of a text: no learned weights are given for them."""


@dataclass(frozen=True, slots=True)
class BgeM3Folder:
    """A folder in the Hugging Face layout of BAAI/bge-m3, with everything that this model needs."""

    folder: ModelFolder
    config: XlmRobertaConfig
    encoder_weights: Path
    sparse_head: Path
    multi_vector_head: Path

    @classmethod
    def open(cls, path: Path) -> BgeM3Folder:
        """Finds the files.

        Raises:
            ModelFolderError: one is missing. Heads are never made up: FlagEmbedding would take random ones.
        """
        folder = ModelFolder.open(path)
        config = XlmRobertaConfig.load(folder.file("config.json"))
        candidates = [path / "model.safetensors", path / "pytorch_model.bin"]
        found = [candidate for candidate in candidates if candidate.is_file()]
        if not found:
            raise ModelFolderError(f"The model folder {path} has no model.safetensors and no pytorch_model.bin.")
        return cls(folder, config, found[0], folder.file("sparse_linear.pt"), folder.file("colbert_linear.pt"))

    def fingerprint(self, model_id: str | None) -> str:
        """See `ModelFolder.fingerprint`."""
        return self.folder.fingerprint([self.encoder_weights, self.sparse_head, self.multi_vector_head], model_id)

    def tokenizer(self, settings: EncoderSettings) -> TextTokenizer:
        """The tokenizer, cutting at the model's last position unless something says less."""
        most = self.config.max_tokens
        return open_tokenizer(self.folder, settings, default_tokens=most, most_tokens=most)


class BgeM3Encoder:
    """BGE-M3 on OpenVINO. See `Encoder`."""

    def __init__(self, model_dir: Path, settings: EncoderSettings) -> None:
        """Loads the encoder and both heads.

        Raises:
            ModelFolderError: a file is missing or is not of such a model.
        """
        files = BgeM3Folder.open(model_dir)
        self._tokenizer = files.tokenizer(settings)
        self._padding_id, self._special_ids = files.config.padding_id, special_ids(self._tokenizer)
        self._engine = Engine(_graph(files), settings, default_streams=1)  # one pass has work for all threads
        self.dimension = files.config.hidden
        self.max_tokens = self._tokenizer.max_tokens
        self.fingerprint = files.fingerprint(settings.model_id)

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


def special_ids(tokenizer: TextTokenizer) -> npt.NDArray[np.int64]:
    """Ids of the tokens that get no learned weights.

    Raises:
        ModelFolderError: the tokenizer is not of this model.
    """
    ids = [tokenizer.token_id(token) for token in _SPECIAL_TOKENS]
    if None in ids:
        raise ModelFolderError(f"tokenizer.json lacks one of {' '.join(_SPECIAL_TOKENS)}: it is not of BGE-M3.")
    return np.array(ids, np.int64)


def sparse_vector(
    ids: npt.NDArray[np.int64], weights: npt.NDArray[np.float32], dropped: npt.NDArray[np.int64]
) -> SparseVector:
    """The largest weight of each token of one text; `dropped` ids and weights that are not positive are left out."""
    counted = (weights > 0) & ~np.isin(ids, dropped)
    unique, places = np.unique(ids[counted], return_inverse=True)
    largest = np.zeros(len(unique), np.float32)
    np.maximum.at(largest, places, weights[counted])
    return SparseVector(unique.astype(np.int32), largest)


def _graph(files: BgeM3Folder) -> ov.Model:
    """Inputs: int64[n, tokens] `input_ids` and `attention_mask`.

    Outputs: `dense` [n, hidden], `sparse` [n, tokens], `multi_vectors` [n, tokens - 1, hidden]; nothing is normalised.
    """
    size = files.config.hidden
    graph = XlmRobertaGraph(files.config, read_weights(files.encoder_weights))
    hidden = graph.hidden_states()
    dense = ops.gather(hidden, np.int64(0), np.int64(1))
    token_weights = graph.linear(hidden, read_weights(files.sparse_head), "", 1, size)
    sparse = ops.squeeze(ops.relu(token_weights), np.int64(2))
    one = np.array([1], np.int64)
    behind_first = ops.slice(hidden, one, np.array([np.iinfo(np.int64).max], np.int64), one, one)
    multi_vectors = graph.linear(behind_first, read_weights(files.multi_vector_head), "", size, size)
    results = []
    for name, node in (("dense", dense), ("sparse", sparse), ("multi_vectors", multi_vectors)):
        node.output(0).set_names({name})
        results.append(ops.result(node))
    return ov.Model(results, [graph.input_ids, graph.attention_mask], "bge_m3")
