"""Errors of the code inside Triton. The predictor's client raises the errors of chassis."""

from __future__ import annotations

from typing import ClassVar, Literal


class ModelFilesError(Exception):
    """A model folder lacks a file, or has one that cannot be used."""


class GenerationError(Exception):
    """One generation cannot be started or finished. The others continue."""

    kind: ClassVar[Literal["INVALID_ARG", "UNAVAILABLE", "INTERNAL", "CANCELLED"]] = "INTERNAL"
    """Name of Triton's error code. Over HTTP: 400, 503, 500 and 400."""


class InvalidInputError(GenerationError):
    """The request is invalid. The message names the tensor, the value and the limit."""

    kind = "INVALID_ARG"


class OverloadedError(GenerationError):
    """The queue or the KV cache is full, or the engine has stopped. A retry may help."""

    kind = "UNAVAILABLE"


class CancelledError(GenerationError):
    """The client disconnected or stopped the request."""

    kind = "CANCELLED"
