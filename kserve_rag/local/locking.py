"""Locks between processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_POLL_S = 0.1


def try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock on `path` until it is closed; None if another process holds the lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Holds the lock on `path`. Calls `waiting` repeatedly while it waits; an exception in it ends the wait."""
    while (descriptor := try_lock(path)) is None:
        waiting()
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        os.close(descriptor)
