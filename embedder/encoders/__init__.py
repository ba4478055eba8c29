"""Encoders: texts to embeddings, without Triton and without HTTP."""

from __future__ import annotations

from pathlib import Path

from embedder.encoders.base import Encoder
from embedder.settings import EncoderSettings

__all__ = ["Encoder", "load_encoder"]


def load_encoder(model_dir: Path, settings: EncoderSettings) -> Encoder:
    """The encoder of a model folder, loaded and ready.

    Raises:
        ModelFolderError: the folder lacks a file, or holds one that is damaged or of another architecture.
        SettingsError: the settings ask for a backend that is not there.
    """
    from embedder.encoders.minilm import MiniLmEncoder

    return MiniLmEncoder(model_dir, settings)
