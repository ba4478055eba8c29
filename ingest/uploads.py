"""Uploaded files on disk: received in pieces, safely named, stored beside the versions of their index.

    <index_root>/<name>/uploads/<file>             what the index follows
    <index_root>/<name>/uploads/.staged-<task>/    files of a task whose run has not ended
    <index_root>/<name>/uploads/.incoming-…/       a request that is being received

Names that begin with a dot are not documents.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import re
import secrets
import shutil
import threading
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from chassis.errors import ServiceError
from ingest.concurrency import finish_in_thread
from ingest.errors import (
    FileTooLargeError,
    IndexFullError,
    NoSpaceError,
    TooManyFilesError,
    UnreadableUploadError,
    UnsupportedFileError,
)
from ingest.loaders import LOADERS, suffix_of
from ingest.loaders.file import SNIFFED_BYTES, is_binary
from ingest.sources import UPLOADS
from ingest.sources.uploads import uploaded

FIELD = "files"
"""Name of the form field."""

_MAX_NAME_BYTES = 180
_MAX_SUFFIX_BYTES = 16
_PIECE_BYTES = 1024 * 1024
_STAGED = ".staged-"
_INCOMING = ".incoming-"
_INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Categories of characters that a name can do without: controls, marks of direction, halves of pairs, line ends."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])", re.IGNORECASE)
"""Names of devices on Windows. Source: https://learn.microsoft.com/windows/win32/fileio/naming-a-file"""


@dataclass(frozen=True, slots=True)
class UploadQuota:
    """Limits of one request and of all uploads of an index."""

    max_file_bytes: int
    max_files: int
    max_uploads: int
    max_uploads_bytes: int


def safe_name(sent: str) -> str:
    """The name of a file on disk: the sent name without folders and unsafe characters.

    Raises:
        UnsupportedFileError: nothing is left, or no loader reads files with this suffix.
    """
    name = unicodedata.normalize("NFC", sent).replace("\\", "/").rpartition("/")[2]
    name = "".join(char for char in name if unicodedata.category(char) not in _INVISIBLE)
    name = " ".join(name.split()).strip(". ")
    path = PurePosixPath(name)
    suffix = path.suffix
    if suffix.lower() not in LOADERS.suffixes:
        what = f"files ending in {suffix[:_MAX_SUFFIX_BYTES]}" if suffix else "files without an ending"
        raise UnsupportedFileError(
            f"{_shown(sent)}: {what} are not read here. Send one of {', '.join(LOADERS.suffixes)}.", field=FIELD
        )
    stem = path.stem.encode()[: _MAX_NAME_BYTES - len(suffix)].decode(errors="ignore").strip(". ")
    if _RESERVED.fullmatch(stem.partition(".")[0]):
        stem = f"_{stem}"
    return stem + suffix


def same_file(name: str) -> str:
    """A key that is equal for names that people or case-insensitive file systems consider the same."""
    return unicodedata.normalize("NFKC", name).casefold()


class UploadFolder:
    """The uploads of one index. Its calls block; thread-safe."""

    def __init__(self, index: Path, limits: UploadQuota) -> None:
        """Touches nothing. `index`: folder of the index."""
        self._index = index
        self._folder = index / UPLOADS
        self._limits = limits
        self._moving = threading.Lock()

    def files(self) -> dict[str, Path]:
        """Source → file, of what the index follows."""
        return uploaded(self._index)

    def staged(self, task_id: str) -> dict[str, Path]:
        """Source → file, of a task whose run has not ended."""
        folder = self._folder / f"{_STAGED}{task_id}"
        if not folder.is_dir():
            return {}
        return {f"{UPLOADS}/{path.name}": path for path in sorted(folder.iterdir())}

    def clean(self, task_ids: Collection[str]) -> None:
        """Removes files left by requests, and by tasks other than these."""
        if not self._folder.is_dir():
            return
        kept = {f"{_STAGED}{task_id}" for task_id in task_ids}
        for entry in self._folder.iterdir():
            if entry.name.startswith((_STAGED, _INCOMING)) and entry.name not in kept:
                shutil.rmtree(entry)

    @contextmanager
    def incoming(self, content_type: str) -> Iterator[Receiver]:
        """A receiver for one request. Its files are removed at the end unless they were staged.

        Raises:
            UnreadableUploadError: the request is no form with files.
        """
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not content_type.lower().startswith("multipart/form-data") or not boundary:
            raise UnreadableUploadError(
                f"The content type is {content_type[:80] or 'missing'}: send multipart/form-data with the files in "
                f"the field {FIELD!r}.",
                field="content-type",
            )
        with _space():
            self._folder.mkdir(parents=True, exist_ok=True)
            folder = self._folder / f"{_INCOMING}{secrets.token_hex(8)}"
            folder.mkdir()
        try:
            with contextlib.closing(Receiver(folder, boundary, self._limits)) as receiver:
                yield receiver
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def stage(self, receiver: Receiver, task_id: str, waiting: Collection[str]) -> list[str]:
        """Moves the received files to a task, atomically.

        Args:
            receiver: that has finished.
            task_id: whose files they are from now on.
            waiting: tasks whose files are staged already.

        Returns:
            Their sources. A file that has the name of another replaces it, under that one's source.

        Raises:
            IndexFullError: the index would have too many uploads, or too many bytes of them.
        """
        with self._moving:
            held = self.files()
            for other in waiting:
                held |= self.staged(other)
            by_name = {same_file(source): source for source in held}
            renamed = {
                name: by_name.get(same_file(f"{UPLOADS}/{name}"), f"{UPLOADS}/{name}") for name in receiver.names
            }
            for name, source in renamed.items():
                path = receiver.folder / name
                target = receiver.folder / source.removeprefix(f"{UPLOADS}/")
                held[source] = path.rename(target) if path != target else path
            self._check(held)
            with _space():
                _sync(receiver.folder)
                receiver.folder.rename(self._folder / f"{_STAGED}{task_id}")
                _sync(self._folder)
        return sorted(renamed.values())

    def keep(self, task_id: str, sources: Collection[str]) -> None:
        """Makes these files of a task uploads of the index, replacing those of the same names."""
        with self._moving:
            staged = self.staged(task_id)
            for source in sources:
                if source in staged:
                    staged[source].replace(self._index / source)
            if staged:
                _sync(self._folder)

    def discard(self, task_id: str) -> None:
        """Removes the remaining files of a task."""
        with self._moving:
            shutil.rmtree(self._folder / f"{_STAGED}{task_id}", ignore_errors=True)

    def remove(self, source: str) -> None:
        """Removes an upload."""
        with self._moving:
            path = self.files().get(source)
            if path is not None:
                path.unlink()
                _sync(self._folder)

    def _check(self, files: dict[str, Path]) -> None:
        if len(files) > self._limits.max_uploads:
            raise IndexFullError(
                f"The index would have {len(files):,} uploaded files, more than {self._limits.max_uploads:,}: delete "
                "some first.",
                field=FIELD,
            )
        size_bytes = sum(path.stat().st_size for path in files.values())
        if size_bytes > self._limits.max_uploads_bytes:
            raise IndexFullError(
                f"The uploaded files of the index would be {size_bytes:,} bytes, more than "
                f"{self._limits.max_uploads_bytes:,}: delete some first.",
                field=FIELD,
            )


class Receiver:
    """Writes the files of a form to a folder while it arrives, without holding them in memory."""

    def __init__(self, folder: Path, boundary: bytes, limits: UploadQuota) -> None:
        self.folder = folder
        self._limits = limits
        self.names: dict[str, str] = {}
        """Name on disk → name as sent, of the received files."""
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._file: IO[bytes] | None = None
        self._name = ""
        self._size_bytes = 0
        self._head = b""
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise UnreadableUploadError(f"The form cannot be read: {error}.") from error

    async def receive(self, body: AsyncIterator[bytes], timeout_s: float) -> int:
        """Receives the whole body and returns the size of its files in bytes.

        Args:
            body: as it arrives.
            timeout_s: longest wait for more of it.

        Raises:
            UnreadableUploadError, UnsupportedFileError, TooManyFilesError, FileTooLargeError, NoSpaceError: see there.
        """
        async with contextlib.aclosing(_pieces(body, timeout_s)) as pieces:
            async for piece in pieces:
                # The folder must not be removed while a thread writes to it.
                await finish_in_thread(functools.partial(self.write, piece))
        self.finish()
        return await asyncio.to_thread(lambda: sum(path.stat().st_size for path in self.folder.iterdir()))

    def write(self, data: bytes) -> None:
        """Takes the next piece of the body.

        Raises:
            UnreadableUploadError, UnsupportedFileError, TooManyFilesError, FileTooLargeError: as they say.
            NoSpaceError: the disk is full.
        """
        with _space():
            try:
                self._parser.write(data)
            except FormParserError as error:
                raise UnreadableUploadError(f"The form cannot be read: {error}.") from error

    def finish(self) -> None:
        """The body has ended.

        Raises:
            UnreadableUploadError: before the form had, or without a file.
        """
        if not self._ended:
            raise UnreadableUploadError("The form ends too early: the upload was cut off. Send it again.")
        if not self.names:
            raise UnreadableUploadError(f"No file was sent: put one or more in the field {FIELD!r}.", field=FIELD)

    def close(self) -> None:
        """Closes a file that was received only in part."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _on_part_begin(self) -> None:
        self._disposition = b""

    def _on_header_end(self) -> None:
        name, value = (bytes(part) for part in self._header)
        self._header[0].clear()
        self._header[1].clear()
        if name.lower() == b"content-disposition":
            self._disposition = value

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        sent = options.get(b"filename")
        if sent is None:
            return  # a field of text, which means nothing here
        if options.get(b"name", b"").decode("utf-8", "replace") != FIELD:
            raise UnreadableUploadError(f"Files are taken from the field {FIELD!r} alone.", field=FIELD)
        if len(self.names) >= self._limits.max_files:
            raise TooManyFilesError(
                f"More than {self._limits.max_files} files in one request: send the others in the next.", field=FIELD
            )
        shown = sent.decode("utf-8", "replace")
        name = safe_name(shown)
        twice = next((other for other in self.names if same_file(other) == same_file(name)), None)
        if twice is not None:
            raise UnsupportedFileError(
                f"{_shown(shown)}: the request has two files of this name. Rename one, or send it by itself.",
                field=FIELD,
            )
        self.names[name] = shown
        self._name, self._size_bytes, self._head = name, 0, b""
        self._file = (self.folder / name).open("xb")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            return
        self._size_bytes += end - start
        if self._size_bytes > self._limits.max_file_bytes:
            raise FileTooLargeError(
                f"{_shown(self.names[self._name])} is larger than {self._limits.max_file_bytes:,} bytes, the most that "
                "is taken of one file. Send it in parts.",
                field=FIELD,
            )
        if len(self._head) < SNIFFED_BYTES:
            self._head += data[start : min(end, start + SNIFFED_BYTES - len(self._head))]
            if len(self._head) == SNIFFED_BYTES:
                self._check_content()
        self._file.write(data[start:end])

    def _on_part_end(self) -> None:
        if self._file is None:
            return
        if len(self._head) < SNIFFED_BYTES:
            self._check_content()
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()

    def _on_end(self) -> None:
        self._ended = True

    def _check_content(self) -> None:
        """Compares the first bytes with the suffix. Everything else is checked in the parser process."""
        shown = _shown(self.names[self._name])
        loader = LOADERS.by_suffix(self._name)
        if loader is not None and loader.binary:
            if self._head.strip() and not loader.sniff(self._head):
                kind = suffix_of(self._name)[1:].upper()
                raise UnsupportedFileError(f"{shown} is not a {kind}: it does not begin as one.", field=FIELD)
        elif is_binary(self._head):
            raise UnsupportedFileError(
                f"{shown} is binary, not text: send what its suffix says, or save it as text.", field=FIELD
            )


async def _pieces(body: AsyncIterator[bytes], timeout_s: float) -> AsyncGenerator[bytes, None]:
    """The body in larger pieces."""
    gathered = bytearray()
    while True:
        try:
            arrived = await asyncio.wait_for(anext(body, None), timeout_s)
        except asyncio.TimeoutError:
            raise UnreadableUploadError(
                f"Nothing more of the upload arrived within {timeout_s:g} s: send it again."
            ) from None
        if arrived is None:
            break
        gathered += arrived
        if len(gathered) >= _PIECE_BYTES:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)


def _shown(name: str) -> str:
    """A name as it was sent, in a message."""
    visible = "".join(char for char in name if unicodedata.category(char) not in _INVISIBLE)
    return repr(visible if len(visible) <= 80 else f"{visible[:77]}…")


@contextmanager
def _space() -> Iterator[None]:
    try:
        yield
    except ServiceError:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoSpaceError("The disk for uploads is full: delete documents, or ask the operator.") from error


def _sync(folder: Path) -> None:
    """Waits until the entries of a folder are on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
