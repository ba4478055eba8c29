"""One file on disk: reads it within the limits and detects its encoding."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from ingest.errors import SkippedFileError
from ingest.loaders.document import Limits, Notice

_BLOCK_BYTES = 1024 * 1024
SNIFFED_BYTES = 8_192
"""Bytes at the beginning of a file that decide on its format and encoding."""
XML_ENCODING = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9_.:-]{1,40})["']""")
XML_DECLARATION = re.compile(r"^\s*<\?xml[^>]{0,300}\?>")
_BOMS = {
    # UTF-32's little-endian mark begins with UTF-16's.
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_TEXT_CONTROLS = frozenset(b"\t\n\r\f\x0b\x1b\x08")
_NOT_UTF8 = Notice("not UTF-8: read as Windows-1252 (cp1252)")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to parse."""

    path: Path
    source: str
    """Name of the file in the index, with `/` between its parts."""

    @property
    def stem(self) -> str:
        """The file's name without its suffix: the title of a document that has no other."""
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
        """Yields a notice if the encoding is a guess, and returns the file's text: `text = yield from file.text(…)`.

        Decodes by byte order mark, else as UTF-8, else as declared, else as Windows-1252.

        Args:
            limits: of the file's size.
            charsets: patterns of a declared encoding, its name in the first group. The first match counts.

        Raises:
            SkippedFileError: the bytes are not text, contradict their byte order mark, or exceed the limits.
        """
        data = self.read(limits)
        encoding = _marked_encoding(data)
        if encoding is not None:
            try:
                return data.decode(encoding)
            except UnicodeDecodeError as error:
                byte = data[error.start : error.start + 1].hex() or "missing"
                raise SkippedFileError(f"begins as {encoding} but is not: byte {error.start} is {byte}") from error
        _refuse_binary(data[:SNIFFED_BYTES])
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode("utf-8")
        declared = next((match[1] for charset in charsets if (match := charset.search(data[:SNIFFED_BYTES]))), b"")
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode(_known_codec(declared.decode("ascii")))
        yield _NOT_UTF8
        return data.decode("cp1252", "replace")

    def rows(self, limits: Limits, newline: str) -> Generator[Notice, None, TextIO]:
        """Like `text`, for a file that is read row by row: returns an open stream.

        Args:
            limits: of the file's size, as `max_rows_file_bytes`.
            newline: as in `open`.

        Raises:
            SkippedFileError: the file is empty or too long, or its bytes are not text.
        """
        size = self.path.stat().st_size
        if size == 0:
            raise SkippedFileError("empty")
        if size > limits.max_rows_file_bytes:
            raise SkippedFileError(f"larger than {limits.max_rows_file_bytes:,} bytes (INGEST_MAX_ROWS_FILE_BYTES)")
        head = self.head()
        encoding = _marked_encoding(head)
        if encoding in (None, "utf-8-sig"):
            _refuse_binary(head)
            encoding = "utf-8-sig" if self._is_utf8() else "cp1252"
        if encoding == "cp1252":
            yield _NOT_UTF8
        return self.path.open(encoding=encoding, errors="replace", newline=newline)

    def _is_utf8(self) -> bool:
        """Reads the whole file once, in blocks."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            with self.path.open("rb") as stream:
                while block := stream.read(_BLOCK_BYTES):
                    decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
        return True


def sha256_of(path: Path) -> str:
    """SHA-256 of the file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def is_binary(head: bytes) -> bool:
    """Whether a file that begins like this is not text. A byte order mark marks text."""
    controls = sum(1 for byte in head if byte < 32 and byte not in _TEXT_CONTROLS)
    return _marked_encoding(head) is None and (b"\0" in head or controls > len(head) // 50)


def _refuse_binary(head: bytes) -> None:
    if is_binary(head):
        raise SkippedFileError("binary, not text")


def _marked_encoding(data: bytes) -> str | None:
    """The encoding of the byte order mark; None if there is none."""
    return next((encoding for mark, encoding in _BOMS.items() if data.startswith(mark)), None)


def _known_codec(name: str) -> str:
    """Python's name of a text encoding; UTF-8 if Python does not know it.

    Pages that declare Latin-1 are Windows-1252. Source: https://encoding.spec.whatwg.org/#names-and-labels
    """
    try:
        info = codecs.lookup(name.lower())
    except LookupError:
        return "utf-8"
    # A codec such as `zlib` or `rot13` turns bytes into bytes, not into text.
    if not getattr(info, "_is_text_encoding", True):
        return "utf-8"
    return "cp1252" if info.name in ("iso8859-1", "ascii") else info.name
