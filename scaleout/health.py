"""When a replica that cannot answer is worth replacing."""

from __future__ import annotations

import logging

logger = logging.getLogger("scaleout.health")

REPLACED_AFTER_S = 300.0


class UnreadyError(RuntimeError):
    """A replica could not answer for too long. The message says why; Ray shows it with the deployment's status."""


class Health:
    """Follows whether one replica is ready.

    It is not given up at once: a new one cannot mend an upstream that is away, or an index that is not there yet. Until
    then requests are answered with 503 and the reason.
    """

    def __init__(self, replaced_after_s: float = REPLACED_AFTER_S) -> None:
        self.replaced_after_s = replaced_after_s
        """Seconds for which it may be unable to answer."""
        self._unready_since: float | None = None

    def check(self, reason: str | None, now_s: float) -> None:
        """Takes note of how it is.

        Args:
            reason: why it cannot answer; None where it can.
            now_s: of a clock that only goes forward.

        Raises:
            UnreadyError: it could not answer for as long as it may.
        """
        if reason is None:
            self._unready_since = None
            return
        if self._unready_since is None:
            logger.warning("not ready: %s", reason)
            self._unready_since = now_s
        if now_s - self._unready_since >= self.replaced_after_s:
            raise UnreadyError(reason)
