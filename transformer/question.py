"""A question and its parameters, independent of the protocol."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from transformer.wire import GroundingParameters, Message, SamplingParameters


@dataclass(frozen=True, slots=True)
class Question:
    """A question with all parameters of its answer."""

    text: str
    sampling: SamplingParameters
    grounding: GroundingParameters
    history: tuple[Message, ...] = ()
    """Earlier turns, oldest first."""
    instructions: str | None = None
    """The caller's instructions, added to the service's."""
    model: str | None = None
    """Name of the model that answers; None: the service's own."""
    id: str = field(default_factory=lambda: secrets.token_hex(16))
