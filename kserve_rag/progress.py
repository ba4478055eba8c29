"""How long work tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told by work that takes time; called from any thread."""

    def update(self, task: str, done: int, total: int | None) -> None:
        """`task` has done `done` of `total` bytes; None where the size is not known."""

    def note(self, task: str, text: str) -> None:
        """`task` does something that cannot be counted; an empty text ends it."""


class Silent:
    """A progress that nobody watches."""

    def update(self, task: str, done: int, total: int | None) -> None:
        """Nothing."""

    def note(self, task: str, text: str) -> None:
        """Nothing."""
