"""What a run tells while it goes on, and what it tells at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Planned:
    """The sources are listed and compared with the current version."""

    changed: int
    """Files that are new or have changed: to be parsed."""
    unchanged: int
    deleted: int
    size_bytes: int
    """Of the changed files."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A source cannot be used."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Noticed:
    """A source was used, but something about it should be known."""

    source: str
    text: str


@dataclass(frozen=True, slots=True)
class Advanced:
    """A document is written, or a file is done with. All numbers count from the start of the run."""

    files: int
    """Changed files done with."""
    size_bytes: int
    """Of the changed files' bytes, about how many are done with."""
    documents: int
    chunks: int
    embedded: int
    """Chunks whose vectors the embedder has made."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The run cannot go on for now, and tries again by itself."""

    reason: str


@dataclass(frozen=True, slots=True)
class Published:
    """A new version is current."""

    version: str


Event = Planned | Skipped | Noticed | Advanced | Waiting | Published
OnProgress = Callable[[Event], None]
"""Called in the run's event loop; must not block."""


@dataclass(slots=True)
class Summary:
    """What a run did."""

    version: str | None = None
    """The version that is current now."""
    unchanged: bool = False
    """Nothing had to be done: nothing was embedded and nothing published."""
    files: int = 0
    """Files listed."""
    documents: int = 0
    """In the version."""
    chunks: int = 0
    """In the version."""
    embedded: int = 0
    """Chunks embedded in this run."""
    reused: int = 0
    """Chunks whose vectors were there already, from the version before or from the same text in this run."""
    deleted: int = 0
    """Sources of the version before that are gone."""
    duplicates: int = 0
    """Documents left out because another one says the same."""
    truncated: int = 0
    """Chunks that were longer than the embedder reads. Not 0 only where the settings do not fit the embedder."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Source to reason."""
    notices: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def chunks_per_s(self) -> float:
        """Chunks embedded per second of the whole run."""
        return self.embedded / self.seconds if self.seconds > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "chunks_per_s": round(self.chunks_per_s, 2)}
