"""Uploaded files: received as a stream, renamed safely, and stored next to the versions of their index.

    <index_root>/<name>/uploads/<file>             an upload that the index follows
    <index_root>/<name>/uploads/<owner>/<file>     an upload of an identified caller
    <index_root>/<name>/uploads/.staged-<task>/    files of an unfinished task
    <index_root>/<name>/uploads/.incoming-…/       files of an unfinished request

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
from pathlib import Path, PurePosixPath
from typing import IO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from chassis.errors import InvalidRequestError, ServiceError
from ingest.concurrency import finish_in_thread
from ingest.errors import (
    FileTooLargeError,
    IndexFullError,
    NoSpaceError,
    TooManyFilesError,
    UnsupportedFileError,
)
from ingest.loaders import LOADERS, LoaderType, suffix_of
from ingest.loaders.encodings import SNIFFED_BYTES, is_binary
from ingest.loaders.file import OLE, ZIP
from ingest.settings import IngestServerSettings
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
"""Unicode categories that names must not contain: controls, direction marks, surrogates, line separators."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])", re.IGNORECASE)
"""Device names on Windows. Source: https://learn.microsoft.com/windows/win32/fileio/naming-a-file"""


def safe_name(sent: str) -> str:
    """The name of a file on disk: the sent name without folders and unsafe characters.

    Raises UnsupportedFileError if nothing is left, or if no loader reads files with this suffix.
    """
    name = unicodedata.normalize("NFC", sent).replace("\\", "/").rpartition("/")[2]
    name = "".join(char for char in name if unicodedata.category(char) not in _INVISIBLE)
    name = " ".join(name.split()).strip(". ")
    path = PurePosixPath(name)
    suffix = path.suffix
    if suffix.lower() not in LOADERS.suffixes:
        what = f"files ending in {suffix[:_MAX_SUFFIX_BYTES]}" if suffix else "files without a suffix"
        raise UnsupportedFileError(
            f"{_quoted(sent)}: {what} are not read here. Send one of {', '.join(LOADERS.suffixes)}.", field=FIELD
        )
    stem = path.stem.encode()[: _MAX_NAME_BYTES - len(suffix)].decode(errors="ignore").strip(". ")
    if _RESERVED.fullmatch(stem.partition(".")[0]):
        stem = f"_{stem}"
    return stem + suffix


def same_file(name: str) -> str:
    """A key that is equal for names that look alike or are equal on case-insensitive file systems."""
    return unicodedata.normalize("NFKC", name).casefold()


class UploadFolder:
    """The uploads of one index. All methods block; thread-safe."""

    def __init__(self, index: Path, settings: IngestServerSettings) -> None:
        """Does no I/O. `index`: folder of the index."""
        self._index = index
        self._folder = index / UPLOADS
        self._settings = settings
        self._moving = threading.Lock()

    def files(self) -> dict[str, Path]:
        """Name in the index → file, for all uploads that the index follows."""
        return uploaded(self._index)

    def staged(self, task_id: str) -> dict[str, Path]:
        """Name in the index → file, for an unfinished task."""
        folder = self._folder / f"{_STAGED}{task_id}"
        if not folder.is_dir():
            return {}
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {f"{UPLOADS}/{path.relative_to(folder).as_posix()}": path for path in files}

    def clean(self, task_ids: Collection[str]) -> None:
        """Removes leftover files of requests, and of tasks other than these."""
        if not self._folder.is_dir():
            return
        kept = {f"{_STAGED}{task_id}" for task_id in task_ids}
        for entry in self._folder.iterdir():
            if entry.name.startswith((_STAGED, _INCOMING)) and entry.name not in kept:
                shutil.rmtree(entry)

    @contextmanager
    def incoming(self, content_type: str) -> Iterator[Receiver]:
        """A receiver for one request. When the block ends, files that were not staged are removed.

        Raises InvalidRequestError if the request is not a form with files.
        """
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not content_type.lower().startswith("multipart/form-data") or not boundary:
            raise InvalidRequestError(
                f"The content type is {content_type[:80] or 'missing'}: send multipart/form-data with the files in "
                f"the field {FIELD!r}.",
                field="content-type",
            )
        with _disk_errors():
            self._folder.mkdir(parents=True, exist_ok=True)
            folder = self._folder / f"{_INCOMING}{secrets.token_hex(8)}"
            folder.mkdir()
        try:
            with contextlib.closing(Receiver(folder, boundary, self._settings)) as receiver:
                yield receiver
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def stage(self, receiver: Receiver, task_id: str, waiting: Collection[str], folder: str = UPLOADS) -> list[str]:
        """Moves the files of a finished request to a task, atomically, and returns their names in the index.

        A file replaces an upload with the same name (`same_file`) in `folder`, the folder of the index for the files,
        and takes its name. `waiting`: ids of tasks whose files are already staged. Raises IndexFullError if the index
        would exceed its quota.
        """
        with self._moving:
            held = self.files()
            for other in waiting:
                held |= self.staged(other)
            by_name = {same_file(source): source for source in held}
            sources: list[str] = []
            target = receiver.folder / Path(folder).relative_to(UPLOADS)
            target.mkdir(exist_ok=True)
            for name in receiver.names:
                source = by_name.get(same_file(f"{folder}/{name}"), f"{folder}/{name}")
                held[source] = (receiver.folder / name).rename(target / Path(source).name)
                sources.append(source)
            self._check(held)
            with _disk_errors():
                _sync(target)
                _sync(receiver.folder)
                receiver.folder.rename(self._folder / f"{_STAGED}{task_id}")
                _sync(self._folder)
        return sorted(sources)

    def keep(self, task_id: str, sources: Collection[str]) -> None:
        """Moves these files of a task to the uploads. They replace uploads with the same names."""
        with self._moving:
            staged = self.staged(task_id)
            for source in sources:
                if source in staged:
                    (self._index / source).parent.mkdir(exist_ok=True)
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
        size_bytes, settings = sum(path.stat().st_size for path in files.values()), self._settings
        if len(files) > settings.max_uploads:
            problem = f"have {len(files):,} uploaded files, more than {settings.max_uploads:,}"
        elif size_bytes > settings.max_uploads_bytes:
            problem = f"have {size_bytes:,} bytes of uploaded files, more than {settings.max_uploads_bytes:,}"
        else:
            return
        raise IndexFullError(f"The index would {problem}: delete some first.", field=FIELD)


class Receiver:
    """Writes the files of a form to a folder while the form arrives."""

    def __init__(self, folder: Path, boundary: bytes, settings: IngestServerSettings) -> None:
        self.folder = folder
        self._settings = settings
        self.names: list[str] = []
        """Names of the received files on disk."""
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._file: IO[bytes] | None = None
        self._quoted_name = ""
        self._loader: LoaderType | None = None
        self._size_bytes = 0
        self._head = b""
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
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
            raise InvalidRequestError(f"The form cannot be read: {error}.") from error

    async def receive(self, body: AsyncIterator[bytes]) -> int:
        """Receives the whole body and returns the size of its files in bytes."""
        async with contextlib.aclosing(_pieces(body, self._settings.timeout_s)) as pieces:
            async for piece in pieces:
                # The folder must not be removed while a thread writes to it.
                await finish_in_thread(functools.partial(self.write, piece))
        self.finish()
        return await asyncio.to_thread(lambda: sum(path.stat().st_size for path in self.folder.iterdir()))

    def write(self, data: bytes) -> None:
        """Writes the next piece of the body.

        Raises:
            InvalidRequestError, UnsupportedFileError, TooManyFilesError, FileTooLargeError: the form is rejected.
            NoSpaceError: the disk is full.
        """
        with _disk_errors():
            try:
                self._parser.write(data)
            except FormParserError as error:
                raise InvalidRequestError(f"The form cannot be read: {error}.") from error

    def finish(self) -> None:
        """Ends the body. Raises InvalidRequestError if the form is incomplete or has no file."""
        if not self._ended:
            raise InvalidRequestError("The form ends too early: the upload was cut off. Send it again.")
        if not self.names:
            raise InvalidRequestError(f"No file was sent: put one or more in the field {FIELD!r}.", field=FIELD)

    def close(self) -> None:
        """Closes a partially received file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _on_header_end(self) -> None:
        name, value = (bytes(part) for part in self._header)
        for part in self._header:
            part.clear()
        if name.lower() == b"content-disposition":
            self._disposition = value

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._disposition = b""
        sent = options.get(b"filename")
        if sent is None:
            return  # A text field, which is ignored.
        if options.get(b"name", b"").decode("utf-8", "replace") != FIELD:
            raise InvalidRequestError(f"Files must be in the form field {FIELD!r}.", field=FIELD)
        limit = self._settings.max_upload_files
        if len(self.names) >= limit:
            raise TooManyFilesError(
                f"More than {limit} files in one request: send the others in the next.", field=FIELD
            )
        name = safe_name(sent.decode("utf-8", "replace"))
        self._quoted_name = _quoted(sent.decode("utf-8", "replace"))
        if same_file(name) in map(same_file, self.names):
            raise UnsupportedFileError(
                f"{self._quoted_name}: the request has two files of this name. Rename one, or send it by itself.",
                field=FIELD,
            )
        self.names.append(name)
        self._loader, self._size_bytes, self._head = LOADERS.by_suffix(name), 0, b""
        self._file = (self.folder / name).open("xb")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            return
        limit = self._settings.max_upload_file_bytes
        self._size_bytes += end - start
        if self._size_bytes > limit:
            raise FileTooLargeError(
                f"{self._quoted_name} is larger than {limit:,} bytes, the limit for one file. Send it in parts.",
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
        """Checks that the first bytes match the suffix. The parser process checks the rest."""
        if self._loader is not None and self._loader.binary:
            if self._head.strip() and not (self._loader.sniff(self._head) or self._head.startswith((ZIP, OLE))):
                kind = suffix_of(self.names[-1])[1:].upper()
                raise UnsupportedFileError(
                    f"{self._quoted_name} is not a {kind}: it does not begin like one.", field=FIELD
                )
        elif is_binary(self._head):
            raise UnsupportedFileError(
                f"{self._quoted_name} is binary, not text: send what its suffix says, or save it as text.", field=FIELD
            )


async def _pieces(body: AsyncIterator[bytes], timeout_s: float) -> AsyncGenerator[bytes, None]:
    """The body in pieces of at least a megabyte, except the last."""
    buffer = bytearray()
    while True:
        try:
            arrived = await asyncio.wait_for(anext(body, None), timeout_s)
        except asyncio.TimeoutError:
            raise InvalidRequestError(
                f"Nothing more of the upload arrived within {timeout_s:g} s: send it again."
            ) from None
        if arrived is None:
            break
        buffer += arrived
        if len(buffer) >= _PIECE_BYTES:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)


def _quoted(name: str) -> str:
    """A client's file name, for messages."""
    visible = "".join(char for char in name if unicodedata.category(char) not in _INVISIBLE)
    return repr(visible if len(visible) <= 80 else f"{visible[:77]}…")


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Raises NoSpaceError if the disk is full."""
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
