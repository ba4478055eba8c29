"""What may go wrong while a model is loaded or texts are encoded.

These are raised inside the embedder's own process, where the chassis is not installed: the Triton adapter turns a
`TextError` into an error answer of that request, and the others into a model that does not load. What callers of the
service see is raised by `embedder.client` and is a `chassis.errors.ServiceError`.
"""

from __future__ import annotations


class EmbedderError(Exception):
    """Base of the errors of this room."""


class SettingsError(EmbedderError):
    """A setting has a value that is not allowed. The model does not load; the message names the setting."""


class ModelFolderError(EmbedderError):
    """A model folder lacks a file, or holds one that is damaged or of another architecture. The model does not load."""


class TextError(EmbedderError):
    """Texts that can never be encoded as they were sent. Answered with status 400; sending them again does not help."""


class ExportError(EmbedderError):
    """A model cannot be exported as it was asked: what to write exists already or cannot be written."""
