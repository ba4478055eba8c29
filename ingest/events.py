"""Events of a run, and its summary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Planned:
    """The sources are listed and compared with the current version."""

    changed: int
    """Files to parse: new or changed."""
    unchanged: int
    deleted: int
    size_bytes: int
    """Size of the files to parse."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file cannot be used."""

    source: str
    reason: str
    stale: bool = False
    """Whether its documents from an earlier run stay in the index."""


@dataclass(frozen=True, slots=True)
class Noticed:
    """A remark about a file that was used."""

    source: str
    text: str


@dataclass(frozen=True, slots=True)
class Advanced:
    """A document is written or a file is finished. All counts are since the start of the run."""

    files: int
    """Finished files."""
    size_bytes: int
    """Approximate number of processed bytes, of `Planned.size_bytes`."""
    documents: int
    chunks: int
    embedded: int
    """Embedded chunks."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The run waits. It continues by itself."""

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
    """The result of a run."""

    version: str | None = None
    """The current version after the run."""
    unchanged: bool = False
    """Whether nothing had changed, so that no version was published."""
    files: int = 0
    """Listed files."""
    documents: int = 0
    """In the version."""
    chunks: int = 0
    """In the version."""
    embedded: int = 0
    """Chunks embedded by this run."""
    reused: int = 0
    """Chunks with vectors of the previous version, or of the same text in this run."""
    deleted: int = 0
    """Files of the previous version that are gone."""
    duplicates: int = 0
    """Documents left out because another one has the same text."""
    truncated: int = 0
    """Chunks longer than the embedder's window; 0 unless the settings do not match the embedder."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Name of a file → reason."""
    stale: list[str] = field(default_factory=list)
    """Skipped files whose documents from an earlier run stay in the version."""
    notices: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def chunks_per_s(self) -> float:
        """Chunks embedded per second of the whole run."""
        return self.embedded / self.seconds if self.seconds > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "chunks_per_s": round(self.chunks_per_s, 2)}


class Reporter:
    """Forwards events and collects the summary."""

    def __init__(self, on_progress: OnProgress | None = None) -> None:
        self.summary = Summary()
        self.tell: OnProgress = on_progress or (lambda event: None)
        """Forwards an event."""

    def skip(self, source: str, reason: str, *, stale: bool = False) -> None:
        """Records a file that cannot be used."""
        self.summary.skipped[source] = reason
        if stale:
            self.summary.stale.append(source)
        self.tell(Skipped(source, reason, stale))

    def notice(self, source: str, text: str) -> None:
        """Records a remark about a file."""
        self.summary.notices.append(f"{source}: {text}")
        self.tell(Noticed(source, text))
