"""Expected waits of queued generations, from the rate at which the engine processes tokens."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable

_MEMORY_S = 10.0
"""Time constant of the measured rate: what is older hardly counts."""
_MIN_MEASURED_S = 1.0
"""Before this, the rate is unknown."""
_MAX_SLOWDOWN = 4.0
"""Factor by which one step counts as slower than the average: a machine that pauses is not a slow one."""


class Rate:
    """Tokens per second, of prompts and answers together. Recent steps count most."""

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0

    def add(self, tokens: int, seconds: float, *, loaded: bool) -> None:
        """Adds a step.

        Args:
            tokens: number of tokens processed.
            seconds: duration.
            loaded: whether enough generations ran to use all cores. A step of fewer counts only if it is faster.
        """
        known = self.per_s()
        if not loaded and (known is None or tokens < known * seconds):
            return
        if known is not None:
            seconds = min(seconds, _MAX_SLOWDOWN * max(tokens, 1) / known)
        kept = math.exp(-seconds / _MEMORY_S)
        self._tokens = self._tokens * kept + tokens
        self._seconds = self._seconds * kept + seconds

    def per_s(self) -> float | None:
        """The rate; None: not measured yet."""
        return self._tokens / self._seconds if self._tokens and self._seconds >= _MIN_MEASURED_S else None


class Forecast:
    """Predicts when queued generations end. Each gets the place that is free first; running ones share the rate.

    Args:
        running: number of tokens that each running generation still needs.
        places: maximum number of generations that run at the same time.
        rate: tokens per second of all together; None: unknown, so that no wait is expected.
    """

    def __init__(self, running: Iterable[float], places: int, rate: float | None) -> None:
        self._busy = list(running)
        self._places = places
        self._rate = rate
        heapq.heapify(self._busy)

    def start_s(self) -> float:
        """Seconds until the next generation starts."""
        return self._seconds(self._busy[0]) if len(self._busy) == self._places else 0.0

    def end_s(self, tokens: float) -> float:
        """Seconds until a generation of so many tokens ends, if it is the next to start."""
        return self.start_s() + self._seconds(tokens)

    def add(self, tokens: float) -> None:
        """Queues a generation of so many tokens."""
        if len(self._busy) < self._places:
            heapq.heappush(self._busy, tokens)
        else:
            heapq.heapreplace(self._busy, self._busy[0] + tokens)

    def _seconds(self, tokens: float) -> float:
        return tokens * min(len(self._busy) + 1, self._places) / self._rate if self._rate else 0.0
