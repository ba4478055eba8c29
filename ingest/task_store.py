"""Tasks in SQLite, so that they survive a restart of the service."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ingest.errors import NoSpaceError
from ingest.wire import FINAL, Task

_KEPT = 1_000
"""Number of ended tasks to keep."""


@dataclass(slots=True)
class Record:
    """A task, with fields that clients do not see."""

    task: Task
    purge: bool = False
    """Whether a deletion also removes earlier versions, which still hold the deleted files."""
    before: str | None = None
    """The current version when the task started."""
    revision: int = 0
    """Increases with every change, also across restarts."""


class TaskStore:
    """All tasks of a service. Thread-safe; calls block until the data is on disk."""

    def __init__(self, path: Path) -> None:
        """Opens the file, or creates it."""
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        """Closes the file. Call nothing afterwards."""
        with self._lock:
            self._database.close()

    def put(self, record: Record) -> None:
        """Writes a task; it is on disk when this returns. Raises NoSpaceError if the disk is full."""
        task = record.task
        state = (task.state, record.revision, record.purge, record.before, task.model_dump_json())
        row = (task.id, task.index, task.kind, *state)
        try:
            with self._lock:
                self._database.execute(_PUT, row)
        except sqlite3.OperationalError as error:
            raise NoSpaceError(f"The task cannot be written: {error}. Try again later.") from error

    def get(self, task_id: str) -> Record | None:
        """The task with this id."""
        return next(iter(self._select("WHERE id = ?", (task_id,))), None)

    def latest(self, index: str | None, limit: int) -> list[Record]:
        """The newest tasks of an index, or of all indexes (None), newest first."""
        where, values = ("", ()) if index is None else ("WHERE index_name = ?", (index,))
        return self._select(f"{where} ORDER BY number DESC LIMIT {limit:d}", values)

    def unfinished(self) -> list[Record]:
        """Tasks that have not ended, oldest first."""
        return self._select(f"WHERE state NOT IN ({_FINAL}) ORDER BY number", FINAL)

    def forget(self) -> None:
        """Removes old ended tasks."""
        with self._lock:
            self._database.execute(_FORGET, (*FINAL, _KEPT))

    def _select(self, rest: str, values: Sequence[str]) -> list[Record]:
        sql = f"SELECT body, purge, before, revision FROM tasks {rest}"  # noqa: S608 - constants
        with self._lock:
            rows = self._database.execute(sql, values).fetchall()
        return [
            Record(Task.model_validate_json(body), bool(purge), before, revision)
            for body, purge, before, revision in rows
        ]


def revision_after(revision: int) -> int:
    """A revision greater than all earlier ones, including those of a previous process."""
    return max(revision + 1, int(time.time() * 1000))


_FINAL = ", ".join("?" for _ in FINAL)

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

_FORGET = f"""
DELETE FROM tasks WHERE state IN ({_FINAL})
    AND number <= (SELECT number FROM tasks ORDER BY number DESC LIMIT 1 OFFSET ?)
"""  # noqa: S608 - constants
