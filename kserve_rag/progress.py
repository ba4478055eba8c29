"""Interface for reporting the progress of long work."""

from __future__ import annotations


class Progress:
    """Receives the progress of long work, from any thread. Raising an exception cancels the work.

    This class ignores all progress. Subclasses show it.
    """

    def update(self, task: str, done: int, total: int | None) -> None:
        """Report that `task` has processed `done` of `total` bytes; None: the size is unknown."""

    def note(self, task: str, text: str) -> None:
        """Describe the current step of `task`. An empty text ends the task."""
