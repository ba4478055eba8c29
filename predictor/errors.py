"""Errors inside the predictor: of one generation, or of the files of a model.

They are raised inside Triton, where no other room is installed. `client` raises the errors of chassis.
"""

from __future__ import annotations

from typing import ClassVar, Literal


class ModelFilesError(Exception):
    """A model folder lacks a file, or a file holds something that this program cannot use."""


class GenerationError(Exception):
    """One generation cannot be started or finished. The others go on."""

    kind: ClassVar[Literal["INVALID_ARG", "UNAVAILABLE", "INTERNAL", "CANCELLED"]] = "INTERNAL"
    """Name of Triton's error code. Triton answers HTTP 400, 503, 500 and 400."""


class InvalidInputError(GenerationError):
    """The request can never succeed as it is. The message names the tensor, the value and the limit."""

    kind = "INVALID_ARG"


class OverloadedError(GenerationError):
    """The queue or the KV cache is full, or the engine is gone: later, or elsewhere, the request may succeed."""

    kind = "UNAVAILABLE"


class CancelledError(GenerationError):
    """The caller left, or asked for the request to be stopped."""

    kind = "CANCELLED"
