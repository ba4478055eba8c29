"""Files that the last runs of an index could not use, and why: `skipped.json` next to its versions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import orjson

from ingest.events import Summary
from ingest.sources import is_upload


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """Why a file cannot be used."""

    reason: str
    stale: bool
    """Whether its documents from an earlier run stay in the index."""


def skipped_files(index: Path) -> dict[str, SkippedFile]:
    """The skipped files of the index in this folder by name, sorted."""
    try:
        found = orjson.loads((index / "skipped.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {name: SkippedFile(**each) for name, each in sorted(found.items())}


def record_skipped(index: Path, summary: Summary, *, uploads_only: bool) -> None:
    """Stores the files that a run skipped. Needs the index's lock.

    `uploads_only`: the run listed no sources, so that the entries of their files stay.
    """
    known = skipped_files(index) if uploads_only else {}
    skipped = {name: dataclasses.asdict(each) for name, each in known.items() if not is_upload(name)}
    for name, reason in summary.skipped.items():
        skipped[name] = {"reason": reason, "stale": name in summary.stale}
    temporary = index / ".skipped.json"
    temporary.write_bytes(orjson.dumps(skipped, option=orjson.OPT_INDENT_2) + b"\n")
    temporary.replace(index / "skipped.json")
