"""BGE-M3 on a GPU, through FlagEmbedding's own BGEM3FlagModel. Needs the extra `torch`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from FlagEmbedding import BGEM3FlagModel

from embedder.encoders.base import Collect, Encoder, TokenIds
from embedder.encoders.batches import pad, plan_batches
from embedder.encoders.bge_m3 import BgeM3Folder, special_ids
from embedder.settings import EncoderSettings

_BATCH_TEXTS = 64
_BATCH_TOKENS = 65_536
"""Eight texts of full length. A GPU needs larger batches than a CPU."""


_OUTPUTS = {"dense_vecs": "dense", "sparse_vecs": "sparse", "colbert_vecs": "multi_vectors"}


class FlagEmbeddingEncoder(Encoder):
    """BGE-M3 on torch, in fp16 on CUDA devices."""

    def __init__(self, model_dir: Path, settings: EncoderSettings, *, device: str = "cuda:0") -> None:
        """Loads the model onto `device`. Both heads must exist: FlagEmbedding would invent a missing one."""
        files = BgeM3Folder.open(model_dir)
        tokenizer = files.tokenizer(settings)
        super().__init__(tokenizer, special_ids=special_ids(tokenizer))
        self._padding_id = files.config.padding_id
        self._device = torch.device(device)
        # Its `encode` is not used: it encodes the first batch twice to find a batch size, shrinks the batch forever on
        # any RuntimeError, and truncates texts at 512 tokens by default.
        self._network = BGEM3FlagModel(
            str(model_dir), use_fp16=self._device.type == "cuda", devices=device, normalize_embeddings=True
        ).model
        self._network.to(self._device).eval()
        self.dimension = files.config.hidden
        self.fingerprint = files.fingerprint(settings.model_id)

    def _plan(self, lengths: Sequence[int]) -> list[list[int]]:
        return plan_batches(lengths, max_texts=_BATCH_TEXTS, max_tokens=_BATCH_TOKENS)

    def _run(
        self, batches: Sequence[Sequence[TokenIds]], collect: Collect, *, sparse: bool, multi_vectors: bool
    ) -> None:
        for position, batch in enumerate(batches):
            ids, mask = (
                torch.from_numpy(array).to(self._device) for array in pad(batch, self._padding_id, len(batch[0]))
            )
            with torch.inference_mode():
                outputs = self._network(
                    {"input_ids": ids, "attention_mask": mask},
                    return_dense=True,
                    return_sparse=sparse,
                    return_colbert_vecs=multi_vectors,
                )
            if sparse:
                outputs["sparse_vecs"] = outputs["sparse_vecs"][..., 0]
            collect(position, {_OUTPUTS[name]: tensor.float().cpu().numpy() for name, tensor in outputs.items()})

    def _vectors_of(self, tokens: int) -> slice:
        """All but one: the model returns no vector for the first token."""
        return slice(0, tokens - 1)
