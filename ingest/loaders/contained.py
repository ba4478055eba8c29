"""Files inside a file: attachments and entries of archives. Each goes to the loader of its own format."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ingest.errors import SkippedFileError
from ingest.loaders import LOADERS, suffix_of
from ingest.loaders.document import Limits, Notice, ParsedDocument
from ingest.loaders.file import SourceFile

_MOST_LEVELS = 3
_MOST_NOTICES = 50


def load_contained(
    outer: SourceFile, files: Iterable[tuple[str, Callable[[], bytes]]], limits: Limits
) -> Iterator[ParsedDocument | Notice]:
    """The documents of the files inside `outer`. A file that cannot be used gives a notice.

    Args:
        outer: the file that contains them.
        files: their names and functions that return their bytes; these may raise SkippedFileError.
        limits: of each file.
    """
    names: Counter[str] = Counter()
    unread: Counter[str] = Counter()
    notices = 0
    for name, read in files:
        if LOADERS.by_suffix(name) is None:
            unread[suffix_of(name)] += 1
            continue
        names[name] += 1
        shown = name if names[name] == 1 else f"{name} ({names[name]})"
        for item in _load(outer, name, read, limits):
            if isinstance(item, ParsedDocument):
                key = f"{shown}/{item.key}" if item.key else shown
                metadata = {"file": name, **item.metadata}
                yield dataclasses.replace(item, source=outer.source, key=key, metadata=metadata)
            else:
                notices += 1
                if notices <= _MOST_NOTICES:
                    yield Notice(f"{shown}: {item.text}")
    if notices > _MOST_NOTICES:
        yield Notice(f"{notices - _MOST_NOTICES:,} more notices about the files inside")
    if unread:
        types = ", ".join(f"{count:,} {suffix}" for suffix, count in unread.most_common(10))
        yield Notice(f"{unread.total():,} files inside are of types that are not read: {types}")


def _load(outer: SourceFile, name: str, read: Callable[[], bytes], limits: Limits) -> Iterator[ParsedDocument | Notice]:
    try:
        if outer.level >= _MOST_LEVELS:
            raise SkippedFileError(f"more than {_MOST_LEVELS} levels of files inside files")
        # It has no name, so that nothing is left on the disk if the process is killed.
        with tempfile.TemporaryFile() as stream:
            stream.write(read())
            stream.flush()
            path = Path(f"/proc/self/fd/{stream.fileno()}")
            yield from LOADERS.load(SourceFile(path, name, outer.level + 1, outer.unpacked), limits)
    except SkippedFileError as error:
        yield Notice(str(error))
