"""Tasks on disk."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from ingest.task_store import Record, TaskStore, revision_after
from ingest.wire import Task


def test_unfinished_tasks_are_kept_and_old_ended_ones_removed(tmp_path: Path) -> None:
    def record(number: int, **changes: object) -> Record:
        task = Task(
            id=str(number), kind="upload", index="default", state="queued", created_at=now, sources=["uploads/a.md"]
        )
        return Record(task.model_copy(update=changes), revision=revision_after(0))

    now = datetime.now(timezone.utc)
    store = TaskStore(tmp_path / "tasks.sqlite")
    for number in range(1_100):
        store.put(record(number, state="succeeded" if number else "running"))
    store.forget()
    store.close()
    store = TaskStore(tmp_path / "tasks.sqlite")
    assert [kept.task.id for kept in store.unfinished()] == ["0"]
    assert len(store.latest(None, 5_000)) == 1_001
    assert [kept.task.id for kept in store.latest("default", 2)] == ["1099", "1098"]
    assert store.latest("other", 2) == []
    # An older revision changes nothing.
    (first,) = store.unfinished()
    store.put(Record(first.task.model_copy(update={"state": "failed"}), revision=first.revision + 1))
    store.put(first)
    kept = store.get("0")
    assert kept is not None
    assert kept.task.state == "failed"
    store.close()
