"""Decides when a replica that is not ready is replaced."""

from __future__ import annotations

import logging

logger = logging.getLogger("scaleout.health")

REPLACED_AFTER_S = 300.0


class UnreadyError(RuntimeError):
    """A replica was not ready for too long. The message has the reason; Ray shows it in the deployment's status."""


class Health:
    """Tracks the readiness of one replica.

    A replica is not replaced immediately: a new one cannot repair an upstream or create a missing index. Until then it
    responds with 503 and the reason.
    """

    def __init__(self, replaced_after_s: float = REPLACED_AFTER_S) -> None:
        self.replaced_after_s = replaced_after_s
        """Maximum time without readiness, in seconds."""
        self._unready_since: float | None = None

    def check(self, reason: str | None, now_s: float) -> None:
        """Records the state.

        Args:
            reason: why the replica is not ready; None if it is ready.
            now_s: time of a monotonic clock, in seconds.

        Raises:
            UnreadyError: the replica has not been ready for too long.
        """
        if reason is None:
            self._unready_since = None
            return
        if self._unready_since is None:
            logger.warning("not ready: %s", reason)
            self._unready_since = now_s
        if now_s - self._unready_since >= self.replaced_after_s:
            raise UnreadyError(reason)
