"""ZIP archives: every file inside, by the loader of its format."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from functools import partial

from ingest.loaders.contained import load_contained
from ingest.loaders.document import Limits, Notice, ParsedDocument
from ingest.loaders.file import ZIP, SourceFile
from ingest.loaders.package import begins_open_xml, open_archive, read_entry


class ArchiveLoader:
    """ZIP archives."""

    suffixes = (".zip",)
    binary = True

    def sniff(self, head: bytes) -> bool:
        """Whether it is a ZIP file, and no package of another format."""
        return (
            head.startswith(ZIP)
            and not head[30:].startswith(b"mimetype")
            and not any(begins_open_xml(head, folder) for folder in ("word", "ppt", "xl"))
        )

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """The documents of the files inside, with their names as `file` in the metadata. Hidden files are left out."""
        archive = open_archive(file, file.read(limits), limits, "archive")
        yield from load_contained(file, _files(archive), limits)


def _files(archive: zipfile.ZipFile) -> Iterator[tuple[str, Callable[[], bytes]]]:
    for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
        parts = entry.filename.split("/")
        if not entry.is_dir() and not any(part.startswith((".", "__MACOSX")) for part in parts):
            yield entry.filename, partial(read_entry, archive, entry, "archive")


LOADER = ArchiveLoader()
