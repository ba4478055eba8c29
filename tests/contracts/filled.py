"""A version of three rows whose store is filled, for the tests of single stores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.contracts.test_stores import publish, unit
from vectorstore.stores import Store, VersionRef, store_type
from vectorstore.versions import IndexRoot


def version(folder: Path, store: str) -> VersionRef:
    publish(folder, store, unit(3), [{"lang": "en"}] * 3)
    with IndexRoot(folder, "default").open() as index:
        return index.ref


@contextlib.contextmanager
def opened(ref: VersionRef, store: str) -> Iterator[Store]:
    reader = store_type(store).open(ref)
    try:
        yield reader
    finally:
        reader.close()
