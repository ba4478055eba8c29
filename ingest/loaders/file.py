"""One file on disk: reads it within the limits and detects its encoding."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ingest.errors import SkippedFileError
from ingest.loaders.document import Notice, ParserLimits

_BLOCK_BYTES = 1024 * 1024
SNIFFED_BYTES = 8_192
"""How much of a file's beginning decides on its format."""
_BOMS = (
    # UTF-32's little-endian mark begins with UTF-16's.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
BOMS = tuple(mark for mark, _ in _BOMS)
"""Byte order marks."""
_TEXT_CONTROLS = frozenset(b"\t\n\r\f\x0b\x1b\x08")


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
        """The first bytes, as many as `sniff` gets."""
        with self.path.open("rb") as stream:
            return stream.read(SNIFFED_BYTES)

    def read(self, limits: ParserLimits) -> bytes:
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

    def check_rows_file(self, limits: ParserLimits) -> None:
        """Raises `SkippedFileError` if a file that is read row by row is empty or too long."""
        size = self.path.stat().st_size
        if size == 0:
            raise SkippedFileError("empty")
        if size > limits.max_rows_file_bytes:
            raise SkippedFileError(f"larger than {limits.max_rows_file_bytes:,} bytes (INGEST_MAX_ROWS_FILE_BYTES)")

    def blocks(self) -> Iterator[bytes]:
        """The bytes of the file, one megabyte at a time."""
        with self.path.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                yield block


def sha256_of(path: Path) -> str:
    """SHA-256 of the file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Decoded:
    """Text of a file, with a notice if its encoding was guessed."""

    text: str
    notice: Notice | None = None


def decode(data: bytes, declared: str | None = None) -> Decoded:
    """The text of `data`: by its byte order mark, as UTF-8, as the encoding it declares, or as Windows-1252.

    Raises:
        SkippedFileError: the bytes are not text, or contradict their byte order mark.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            try:
                return Decoded(data.decode(encoding))
            except UnicodeDecodeError as error:
                raise SkippedFileError(f"begins as {encoding} but is not: {_position(error)}") from error
    refuse_binary(data[:SNIFFED_BYTES])
    try:
        return Decoded(data.decode("utf-8"))
    except UnicodeDecodeError:
        pass
    if declared is not None and (codec := known_codec(declared)) not in (None, "utf-8"):
        try:
            return Decoded(data.decode(codec or "utf-8"))
        except UnicodeDecodeError:
            pass
    return Decoded(data.decode("cp1252", "replace"), Notice("not UTF-8: read as Windows-1252 (cp1252)"))


def rows_encoding(file: SourceFile) -> tuple[str, Notice | None]:
    """The encoding of a file that is read row by row. Reads the whole file once, in blocks.

    Raises:
        SkippedFileError: the bytes are not text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    first = True
    try:
        for block in file.blocks():
            if first:
                first = False
                for mark, encoding in _BOMS:
                    if block.startswith(mark) and encoding != "utf-8-sig":
                        return encoding, None
                refuse_binary(block[:SNIFFED_BYTES])
            decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return "cp1252", Notice("not UTF-8: read as Windows-1252 (cp1252)")
    return "utf-8-sig", None


def known_codec(name: str) -> str | None:
    """Python's name of a text encoding; None if Python does not know it.

    Pages that declare Latin-1 are Windows-1252. Source: https://encoding.spec.whatwg.org/#names-and-labels
    """
    try:
        info = codecs.lookup(name.strip().strip("\"'").lower())
    except (LookupError, ValueError):
        return None
    # A codec such as `zlib` or `rot13` turns bytes into bytes, not into text.
    if not getattr(info, "_is_text_encoding", True):
        return None
    return "cp1252" if info.name in ("iso8859-1", "ascii") else info.name


def refuse_binary(data: bytes) -> None:
    """Raises `SkippedFileError` if the first bytes of a file are not text."""
    controls = sum(1 for byte in data if byte < 32 and byte not in _TEXT_CONTROLS)
    if b"\0" in data or controls > len(data) // 50:
        raise SkippedFileError("binary, not text")


def _position(error: UnicodeDecodeError) -> str:
    return f"byte {error.start} is {error.object[error.start : error.start + 1].hex() or 'missing'}"
