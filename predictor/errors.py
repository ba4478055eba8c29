"""Errors of the code inside Triton. The client raises `chassis.errors` instead."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

MAX_RETRY_AFTER_S = 60
"""The expected wait is too rough to send a client away for longer."""


class ModelFilesError(Exception):
    """A file of a model folder is missing or unusable."""


class GenerationError(Exception):
    """One generation failed. The others continue."""

    kind: ClassVar[Literal["INVALID_ARG", "UNAVAILABLE", "INTERNAL", "CANCELLED"]] = "INTERNAL"
    """Name of Triton's error code. Over HTTP: 400, 503, 500 and 400."""


class InvalidInputError(GenerationError):
    """The request is invalid. The message names the tensor, the value and the limit."""

    kind = "INVALID_ARG"


class OverloadedError(GenerationError):
    """The queue or the KV cache is full, or the engine has stopped. A retry may help."""

    kind = "UNAVAILABLE"


class BusyError(OverloadedError):
    """The queue is full, or too long for the deadline of the request."""

    def __init__(self, reason: str, retry_after_s: float) -> None:
        super().__init__(f"{reason} Try again in {min(max(math.ceil(retry_after_s), 1), MAX_RETRY_AFTER_S)} s.")


class CancelledError(GenerationError):
    """The client disconnected or stopped the request."""

    kind = "CANCELLED"
