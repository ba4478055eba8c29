"""Errors of loading a model and of encoding texts.

They are raised inside Triton, where the package `chassis` is not installed. A `TextError` fails one request; the others
keep the model from loading. `embedder.client` raises `chassis.errors.ServiceError` instead.
"""

from __future__ import annotations


class EmbedderError(Exception):
    """Base of the errors of this package."""


class SettingsError(EmbedderError):
    """A setting has an invalid value. The model does not load; the message names the setting."""


class ModelFolderError(EmbedderError):
    """A file of the model folder is missing, damaged, or belongs to another architecture. The model does not load."""


class TextError(EmbedderError):
    """The texts cannot be encoded. The response has status 400, and a retry does not help."""


class ExportError(EmbedderError):
    """An export failed: the target already exists or cannot be written."""
