"""Encoders turn texts into embeddings, independent of Triton and HTTP."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from embedder.encoders.base import Encoder
from embedder.errors import SettingsError
from embedder.folder import is_exported
from embedder.settings import EncoderSettings

__all__ = ["Encoder", "load_encoder"]


def load_encoder(model_dir: Path, settings: EncoderSettings) -> Encoder:
    """Loads the encoder of a model folder.

    Only the chosen backend is imported, so that an image needs only one.

    Raises:
        ModelFolderError: a file is missing, damaged, or belongs to another architecture.
        SettingsError: the backend is not installed, or does not support the architecture.
    """
    if settings.architecture != "bge_m3" and settings.backend == "flagembedding":
        raise SettingsError(
            f"backend is 'flagembedding', which encodes bge_m3 only: choose openvino for {settings.architecture}."
        )
    if settings.architecture == "minilm":
        from embedder.encoders.minilm import MiniLmEncoder

        return MiniLmEncoder(model_dir, settings)
    if settings.architecture == "bert":
        from embedder.encoders.bert import BertEncoder

        return BertEncoder(model_dir, settings)
    if settings.backend == "flagembedding" and is_exported(model_dir):
        raise SettingsError(f"backend is flagembedding, but {model_dir} is an openvino export: set it to auto.")
    if settings.backend == "flagembedding" or (
        settings.backend == "auto" and not is_exported(model_dir) and _has_cuda()
    ):
        if importlib.util.find_spec("FlagEmbedding") is None:
            raise SettingsError("backend is flagembedding, which is not installed. Install kserve-rag[torch].")
        from embedder.encoders.flag_embedding import FlagEmbeddingEncoder

        return FlagEmbeddingEncoder(model_dir, settings)
    from embedder.encoders.bge_m3 import BgeM3Encoder

    return BgeM3Encoder(model_dir, settings)


def _has_cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())
