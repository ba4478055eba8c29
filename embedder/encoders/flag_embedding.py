"""BGE-M3 on a GPU, through FlagEmbedding's own BGEM3FlagModel. Needs the extra `torch`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from FlagEmbedding import BGEM3FlagModel

from embedder.encoders.base import normalize_rows
from embedder.encoders.batches import pad, plan_batches
from embedder.encoders.bge_m3 import BgeM3Folder, sparse_vector, special_ids
from embedder.settings import EncoderSettings
from embedder.wire import Embeddings, InputType, SparseVector

_BATCH_TEXTS = 64
_BATCH_TOKENS = 65_536
"""Eight texts of full length. A GPU needs larger batches than a CPU."""


class FlagEmbeddingEncoder:
    """BGE-M3 on torch, in fp16 on CUDA devices. See `Encoder`."""

    def __init__(self, model_dir: Path, settings: EncoderSettings, *, device: str = "cuda:0") -> None:
        """Loads the model onto `device`.

        Raises:
            ModelFolderError: a file is missing. FlagEmbedding would replace a missing head by a random one.
        """
        files = BgeM3Folder.open(model_dir)
        self._tokenizer = files.tokenizer(settings)
        self._padding_id, self._special_ids = files.config.padding_id, special_ids(self._tokenizer)
        self._device = torch.device(device)
        # We call the network instead of `encode`, which encodes the first batch twice to find a batch size, shrinks the
        # batch forever on any RuntimeError, and truncates texts at 512 tokens by default.
        self._network = BGEM3FlagModel(
            str(model_dir), use_fp16=self._device.type == "cuda", devices=device, normalize_embeddings=True
        ).model
        self._network.to(self._device).eval()
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
        dense = np.empty((len(texts), self.dimension), np.float32)
        sparse_vectors: dict[int, SparseVector] = {}
        matrices: dict[int, npt.NDArray[np.float32]] = {}
        for batch in plan_batches(tokenized.counts.tolist(), max_texts=_BATCH_TEXTS, max_tokens=_BATCH_TOKENS):
            ids, mask = (
                torch.from_numpy(array).to(self._device)
                for array in pad(
                    [tokenized.ids[text] for text in batch], self._padding_id, len(tokenized.ids[batch[0]])
                )
            )
            with torch.inference_mode():
                outputs = self._network(
                    {"input_ids": ids, "attention_mask": mask},
                    return_dense=True,
                    return_sparse=sparse,
                    return_colbert_vecs=multi_vectors,
                )
            arrays = {name: tensor.float().cpu().numpy() for name, tensor in outputs.items()}
            dense[batch] = normalize_rows(arrays["dense_vecs"])  # normalised again: fp16 leaves an error of 1e-3
            for row, text in enumerate(batch):
                count = len(tokenized.ids[text])
                if sparse:
                    weights = arrays["sparse_vecs"][row, :count, 0]
                    sparse_vectors[text] = sparse_vector(tokenized.ids[text], weights, self._special_ids)
                if multi_vectors:
                    matrices[text] = normalize_rows(arrays["colbert_vecs"][row, : count - 1])
        return Embeddings(
            dense,
            tokenized.counts,
            tokenized.truncated,
            self.fingerprint,
            tuple(sparse_vectors[text] for text in range(len(texts))) if sparse else None,
            tuple(matrices[text] for text in range(len(texts))) if multi_vectors else None,
        )
