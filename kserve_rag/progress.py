"""Progress of long work: bytes done, or a text."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the progress of long work, from any thread. Raising an exception cancels the work."""

    def update(self, task: str, done: int, total: int | None) -> None:
        """`task` has processed `done` of `total` bytes. None: the size is unknown."""

    def note(self, task: str, text: str) -> None:
        """Describe the current step of `task`. An empty text ends the task."""


class Silent:
    """Ignores all progress."""

    def update(self, task: str, done: int, total: int | None) -> None:
        """Ignore it."""

    def note(self, task: str, text: str) -> None:
        """Ignore it."""
