"""Packages: ZIP files of XML parts, as office programs and e-books use them. Read within limits, without entities."""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lxml import etree

from ingest.errors import SkippedFileError
from ingest.loaders.document import Limits, one_line, real_title
from ingest.loaders.file import OLE, ZIP, SourceFile

_ENCRYPTED_PART = "EncryptedPackage".encode("utf-16-le")
_MOST_ENTRIES = 10_000
_RELATIONS = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
_PAGE_NUMBER = re.compile(r"(?:\w+ )?\d+(?: \w+ \d+)?")
"""`3`, `Page 3`, `Page 3 of 10`."""
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, KeyError, ValueError, RuntimeError)
"""Exceptions of zipfile for damaged entries and unknown compression."""


class Package:
    """The parts of a package, by name."""

    def __init__(self, file: SourceFile, limits: Limits, kind: str) -> None:
        """Reads the directory.

        Args:
            file: the package.
            limits: of the sizes of the file and of all its parts together.
            kind: the format, for messages.

        Raises:
            SkippedFileError: it is no package, encrypted, or exceeds the limits.
        """
        self.data = file.read(limits)
        self.kind = kind
        check_not_encrypted(self.data)
        if self.data.startswith(OLE):
            raise SkippedFileError(f"no {kind}, but of an older format: save it again in the new one")
        self._archive = open_archive(file, self.data, limits, kind)
        self.names = frozenset(self._archive.namelist())

    def read(self, name: str) -> bytes:
        """The bytes of a part. Raises SkippedFileError if it is missing or damaged."""
        return read_entry(self._archive, name, self.kind)

    def xml(self, name: str) -> Any:
        """The root element of a part. Raises SkippedFileError as `read` does, and for invalid XML and entities."""
        data = self.read(name)
        check_no_entities(data)
        parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_comments=True, remove_pis=True)
        try:
            return etree.fromstring(data, parser=parser)
        except etree.XMLSyntaxError as error:
            raise SkippedFileError(f"broken {self.kind}: invalid XML in {name}") from error

    def related(self, name: str) -> Iterator[tuple[str, str, str]]:
        """The relations of an Open XML part to parts that exist: (id, last word of the type, name)."""
        folder, _, base = name.rpartition("/")
        relations = posixpath.join(folder, "_rels", f"{base}.rels")
        if relations in self.names:
            for each in self.xml(relations):
                target = posixpath.normpath(posixpath.join("/", folder, each.get("Target") or ""))[1:]
                if target in self.names:
                    yield each.get("Id") or "", (each.get("Type") or "").rpartition("/")[2], target

    def properties(self, name: str) -> dict[str, str]:
        """The properties in a part with Dublin Core's names: title, author and date, empty if missing."""
        found = {"title": "", "creator": "", "created": "", "date": "", "initial-creator": "", "creation-date": ""}
        if name in self.names:
            for element in self.xml(name).iter(etree.Element):
                local = etree.QName(element).localname
                if found.get(local) == "":
                    found[local] = (element.text or "").strip()
        return {
            "title": real_title(found["title"]),
            "author": found["initial-creator"] or found["creator"],
            "date": found["creation-date"] or found["created"] or found["date"],
        }


def open_archive(file: SourceFile, data: bytes, limits: Limits, kind: str) -> zipfile.ZipFile:
    """The ZIP file. Raises SkippedFileError if it is damaged, encrypted, or would unpack to more than the limits.

    Args:
        file: the file, which counts the bytes.
        data: its content.
        limits: of the content, unpacked.
        kind: the format, for messages.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except _BROKEN as error:
        raise SkippedFileError(f"broken {kind}: {one_line(str(error), 200)}") from error
    entries = archive.infolist()
    if len(entries) > _MOST_ENTRIES:
        raise SkippedFileError(f"{len(entries):,} entries, more than {_MOST_ENTRIES:,}: split it")
    if any(entry.flag_bits & 1 for entry in entries):
        raise SkippedFileError("encrypted: needs a password")
    file.unpacked.add(sum(entry.file_size for entry in entries), limits)
    return archive


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo | str, kind: str) -> bytes:
    """The bytes of an entry. Raises SkippedFileError if it is missing or damaged."""
    try:
        return archive.read(entry)
    except _BROKEN as error:
        raise SkippedFileError(f"broken {kind}: {one_line(str(error), 200)}") from error


def check_not_encrypted(data: bytes) -> None:
    """Raises SkippedFileError for an encrypted Open XML file."""
    if data.startswith(OLE) and _ENCRYPTED_PART in data:
        raise SkippedFileError("encrypted: needs a password")


def check_no_entities(data: bytes) -> None:
    """Raises SkippedFileError for XML with a document type, which may define entities, in any common encoding."""
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data or b"<!DOCTYPE" in data[:4096].replace(b"\0", b""):
        raise SkippedFileError("XML with a document type declaration: refused, it may define entities")


def begins_open_xml(head: bytes, folder: str) -> bool:
    """Whether the head of a file is that of an Open XML package with a part in this folder."""
    return head.startswith(ZIP) and re.search(rb"PK\x03\x04.{26}" + folder.encode() + b"/", head, re.DOTALL) is not None


def begins_with_type(head: bytes, media_type: str) -> bool:
    """Whether the head of a file is that of a package which names its type in its first entry."""
    return head.startswith(ZIP) and head[30:].startswith(b"mimetype" + media_type.encode())


def distinct_lines(lines: Iterable[str]) -> list[str]:
    """The different lines of page headers or footers, without blank lines and page numbers."""
    cleaned = dict.fromkeys(map(one_line, lines))
    return [line for line in cleaned if line and _PAGE_NUMBER.fullmatch(line) is None]


def relation_id(element: Any, name: str = "id") -> str:
    """The attribute of an element that names a relation."""
    return str(element.get(f"{_RELATIONS}{name}") or "")


def append_table(parent: Any, rows: Sequence[Sequence[str]], header: bool) -> None:
    """Appends an HTML table with these cells. `header`: whether the first row names the columns."""
    table = etree.SubElement(parent, "table")
    for number, row in enumerate(rows):
        line = etree.SubElement(table, "tr")
        for cell in row:
            etree.SubElement(line, "th" if header and number == 0 else "td").text = cell
