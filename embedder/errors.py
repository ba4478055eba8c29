"""Errors of loading a model and of encoding texts.

They are raised in the embedder's own process, where the chassis is not installed. The Triton model answers a request
with a `TextError`; the others keep the model from loading. `embedder.client` raises `chassis.errors.ServiceError`
instead.
"""

from __future__ import annotations


class EmbedderError(Exception):
    """Base of the errors of this room."""


class SettingsError(EmbedderError):
    """A setting has an invalid value. The model does not load; the message names the setting."""


class ModelFolderError(EmbedderError):
    """A model folder lacks a file, or holds one that is damaged or of another architecture. The model does not load."""


class TextError(EmbedderError):
    """Texts that cannot be encoded. The response has status 400, and a retry does not help."""


class ExportError(EmbedderError):
    """An export failed: its target exists already, or cannot be written."""
