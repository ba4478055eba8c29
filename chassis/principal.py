"""The caller of a request, as services know it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chassis.identity import Identifier, Signer
    from chassis.settings import EdgeSettings


@dataclass(frozen=True, slots=True)
class Principal:
    """An identified caller."""

    subject: str
    groups: frozenset[str] = frozenset()


caller: ContextVar[Principal | None] = ContextVar("caller", default=None)
"""The caller of the request in progress, set at the service's edge for every request. None: anonymous, or the service
does not identify callers."""

PRINCIPAL_HEADER = "x-kserve-rag-principal"
"""A principal that one service signs for another. Never copied from a request to an upstream."""


# These import `chassis.identity`, and with it cryptography, only if the settings ask for it.


def identifier(settings: EdgeSettings) -> Identifier | None:
    """Identifies the callers of a service; None if its settings do not ask for it."""
    if not settings.identifies_callers:
        return None
    from chassis.identity import Identifier

    return Identifier(settings)


def signer(settings: EdgeSettings, room: str) -> Signer | None:
    """Signs principals for a room, such as `vectorstore`; None if the setting PRINCIPAL_SECRET is missing."""
    if settings.principal_secret is None:
        return None
    from chassis.identity import Signer

    return Signer(settings.principal_secret.get_secret_value(), room)
