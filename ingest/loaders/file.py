"""One file on disk: reads it within the limits."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from ingest.errors import SkippedFileError
from ingest.loaders.document import Limits, Notice
from ingest.loaders.encodings import REPLACEMENT, SNIFFED_BYTES, Encoding, Utf8Counts, encoding_of

ZIP = b"PK\x03\x04"
"""Begins archives, e-books and most office files."""
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""Begins old and encrypted office files: OLE compound files."""
_BLOCK_BYTES = 1024 * 1024
XML_ENCODING = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9_.:-]{1,40})["']""")
XML_DECLARATION = re.compile(r"^\s*<\?xml[^>]{0,300}\?>")


class Unpacked:
    """Counts the bytes that a file and the files inside it unpack to."""

    def __init__(self) -> None:
        self._size_bytes = 0

    def add(self, size_bytes: int, limits: Limits) -> None:
        """Raises SkippedFileError if it is more than `limits.max_unpacked_bytes`."""
        self._size_bytes += size_bytes
        if self._size_bytes > limits.max_unpacked_bytes:
            raise SkippedFileError(
                f"unpacks to more than {limits.max_unpacked_bytes:,} bytes (INGEST_MAX_UNPACKED_BYTES)"
            )


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to parse."""

    path: Path
    source: str
    """Name of the file in the index, with `/` between its parts."""
    level: int = 0
    """Number of files that contain it: of an attachment of a message in an archive 2."""
    unpacked: Unpacked = field(default_factory=Unpacked, compare=False)
    """Shared with the files that contain it."""
    url: str | None = None
    """Where it was fetched from, or can be read: the URL of its documents that name none."""
    suffix: str = ""
    """Suffix of the format that its origin declares; empty: the name's own."""

    def to_json(self) -> dict[str, str | None]:
        """For another process on this machine. The path is in hexadecimal, because it need not be UTF-8."""
        path = os.fsencode(self.path).hex()
        return {"path": path, "source": self.source, "url": self.url, "suffix": self.suffix}

    @classmethod
    def from_json(cls, values: Mapping[str, str]) -> SourceFile:
        """The file that `to_json` described."""
        path = Path(os.fsdecode(bytes.fromhex(values["path"])))
        return cls(path, values["source"], url=values["url"], suffix=values["suffix"])

    @property
    def stem(self) -> str:
        """The file's name without its suffix: the default title of its document."""
        return Path(self.source).stem or self.source

    def head(self) -> bytes:
        """The first `SNIFFED_BYTES`."""
        with self.path.open("rb") as stream:
            return stream.read(SNIFFED_BYTES)

    def read(self, limits: Limits) -> bytes:
        """All bytes of the file.

        Raises:
            SkippedFileError: it is empty, or longer than `limits.max_file_bytes`.
        """
        with self.path.open("rb") as stream:
            data = stream.read(limits.max_file_bytes + 1)
        if len(data) > limits.max_file_bytes:
            raise SkippedFileError(f"larger than {limits.max_file_bytes:,} bytes (INGEST_MAX_FILE_BYTES)")
        if not data.strip():
            raise SkippedFileError("empty")
        return data

    def text(self, limits: Limits, *charsets: re.Pattern[bytes]) -> Generator[Notice, None, str]:
        """Returns the file's text, and yields a notice if characters are lost or the encoding is a guess.

        Use it as `text = yield from file.text(…)`. `encodings.encoding_of` chooses the encoding. Invalid bytes become
        U+FFFD.

        Args:
            limits: `max_file_bytes` applies.
            charsets: patterns of a declared encoding, with its name in the first group. The first match counts.

        Raises:
            SkippedFileError: the bytes are not text, their encoding cannot be detected, or they exceed the limit.
        """
        data = self.read(limits)
        declared = next((match[1] for charset in charsets if (match := charset.search(data[:SNIFFED_BYTES]))), b"")
        counts = Utf8Counts.of([data])
        found = encoding_of(data, counts, declared.decode("ascii"))
        text = data.decode(found.codec, "replace")
        yield from _notices(found, counts.invalid if found.codec == "utf-8-sig" else text.count(REPLACEMENT))
        return text

    def check_rows_size(self, limits: Limits) -> None:
        """Raises SkippedFileError if the file is empty or longer than `limits.max_rows_file_bytes`."""
        size = self.path.stat().st_size
        if size == 0:
            raise SkippedFileError("empty")
        if size > limits.max_rows_file_bytes:
            raise SkippedFileError(f"larger than {limits.max_rows_file_bytes:,} bytes (INGEST_MAX_ROWS_FILE_BYTES)")

    def rows(self, limits: Limits, newline: str) -> Generator[Notice, None, TextIO]:
        """Like `text`, for a file that is read row by row: returns an open stream.

        Args:
            limits: `max_rows_file_bytes` applies.
            newline: as in `open`.

        Raises:
            SkippedFileError: the file is empty or too long, or its bytes are not text.
        """
        self.check_rows_size(limits)
        with self.path.open("rb") as stream:
            counts = Utf8Counts.of(iter(lambda: stream.read(_BLOCK_BYTES), b""))
            stream.seek(0)
            found = encoding_of(stream.read(_BLOCK_BYTES), counts)
        yield from _notices(found, counts.invalid if found.codec == "utf-8-sig" else 0)
        return self.path.open(encoding=found.codec, errors="replace", newline=newline)


def _notices(found: Encoding, lost: int) -> Iterator[Notice]:
    if found.guessed:
        yield Notice(f"not UTF-8: read as {found.name}")
    if lost:
        yield Notice(f"{lost:,} bytes have no meaning in its encoding: {REPLACEMENT} stands for each")


def sha256_of(path: Path) -> str:
    """SHA-256 of the file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
