"""Tasks on disk, so that they survive a restart of the service: one row each, in SQLite."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ingest.errors import NoSpaceError
from ingest.wire import FINAL, Task, TaskKind

_KEPT = 1_000
"""Ended tasks to keep."""


@dataclass(slots=True)
class Record:
    """A task with fields that clients do not see."""

    task: Task
    purge: bool = False
    """Whether to remove earlier versions, which still hold the deleted files."""
    before: str | None = None
    """The current version when the work began."""
    revision: int = 0
    """Grows with every change, across restarts too."""


class TaskStore:
    """All tasks of a service. Thread-safe; calls block until the disk has written."""

    def __init__(self, path: Path) -> None:
        """Opens the file, or creates it."""
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Nothing may be called afterwards."""
        with self._lock:
            self._database.close()

    def put(self, record: Record) -> None:
        """Writes a task. On disk when this returns.

        Raises:
            NoSpaceError: the disk is full.
        """
        task = record.task
        row = (
            task.id,
            task.index,
            task.kind,
            task.state,
            record.revision,
            record.purge,
            record.before,
            task.model_dump_json(),
        )
        try:
            with self._lock:
                self._database.execute(_PUT, row)
        except sqlite3.OperationalError as error:
            raise NoSpaceError(f"The task cannot be written: {error}. Try again later.") from error

    def get(self, task_id: str) -> Record | None:
        """The task of this id."""
        with self._lock:
            row = self._database.execute(f"SELECT {_COLUMNS} FROM tasks WHERE id = ?", (task_id,)).fetchone()  # noqa: S608 - a constant
        return None if row is None else _record(row)

    def latest(self, index: str | None, limit: int) -> list[Record]:
        """The newest tasks first; None: of all indexes."""
        where, values = ("", ()) if index is None else ("WHERE index_name = ?", (index,))
        return self._many(f"{where} ORDER BY number DESC LIMIT {limit:d}", values)

    def unfinished(self) -> list[Record]:
        """Tasks that have not ended, oldest first."""
        return self._many(f"WHERE state NOT IN ({_marks(FINAL)}) ORDER BY number", FINAL)

    def forget(self) -> None:
        """Removes tasks that ended long ago."""
        with self._lock:
            self._database.execute(
                f"DELETE FROM tasks WHERE state IN ({_marks(FINAL)}) AND number <= "  # noqa: S608 - constants
                f"(SELECT number FROM tasks ORDER BY number DESC LIMIT 1 OFFSET {_KEPT})",
                FINAL,
            )

    def _many(self, rest: str, values: Sequence[str]) -> list[Record]:
        with self._lock:
            rows = self._database.execute(f"SELECT {_COLUMNS} FROM tasks {rest}", values).fetchall()  # noqa: S608 - constants
        return [_record(row) for row in rows]


def revision_after(revision: int) -> int:
    """A revision greater than all earlier ones, including those of a previous process."""
    return max(revision + 1, int(time.time() * 1000))


def _record(row: tuple[str, int, str | None, int]) -> Record:
    body, purge, before, revision = row
    return Record(Task.model_validate_json(body), bool(purge), before, revision)


def _marks(values: Sequence[str | TaskKind]) -> str:
    return ", ".join("?" for _ in values)


_COLUMNS = "body, purge, before, revision"

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS tasks (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    index_name TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    revision INTEGER NOT NULL,
    purge INTEGER NOT NULL,
    before TEXT,
    body TEXT NOT NULL
);
"""

_PUT = """
INSERT INTO tasks (id, index_name, kind, state, revision, purge, before, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    state = excluded.state, revision = excluded.revision, before = excluded.before, body = excluded.body
    WHERE excluded.revision >= tasks.revision
"""
