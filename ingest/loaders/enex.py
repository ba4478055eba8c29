"""Evernote exports (ENEX): notes with their attachments."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

from lxml import etree

from ingest.errors import SkippedFileError
from ingest.loaders.builder import TextBuilder
from ingest.loaders.contained import load_contained
from ingest.loaders.document import Limits, Notice, ParsedDocument, one_line
from ingest.loaders.file import SourceFile
from ingest.loaders.html import render_fragment

_BEGINS = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,200}>\s*)?(?:<!DOCTYPE\s+en-export\s[^>\[]{0,300}>\s*)?<en-export\b"
)
_TO_DO = re.compile(r"<en-todo\b([^>]*?)/?>(?:</en-todo>)?")


class EnexLoader:
    """Exports of Evernote."""

    suffixes = (".enex",)
    binary = False

    def sniff(self, head: bytes) -> bool:
        """Whether the root element is `en-export`."""
        return _BEGINS.match(head) is not None

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document per note, then those of its attachments. Reads note by note."""
        file.check_rows_size(limits)
        head = file.head()
        if not head.strip():
            raise SkippedFileError("empty")
        if not self.sniff(head):
            raise SkippedFileError("not an export of Evernote: it does not begin with <en-export>")
        keys: Counter[str] = Counter()
        with file.path.open("rb") as stream:
            # Without limits for one text: attachments are in it, as base64.
            notes = etree.iterparse(
                stream, tag="note", resolve_entities=False, load_dtd=False, no_network=True, huge_tree=True
            )
            try:
                for number, (_, note) in enumerate(notes, start=1):
                    key = one_line(f"{_text(note, 'created')} {_text(note, 'title')}")
                    keys[key] += 1
                    try:
                        yield from _note(file, key if keys[key] == 1 else f"{key} ({keys[key]})", note, limits)
                    except SkippedFileError as error:
                        yield Notice(f"note {number}: {error}")
                    note.clear()
                    while note.getprevious() is not None:
                        del note.getparent()[0]
            except etree.XMLSyntaxError as error:
                if not keys:
                    raise SkippedFileError(f"invalid XML: {one_line(error.msg, 200)}") from error
                yield Notice(f"read up to note {keys.total():,} only: invalid XML: {one_line(error.msg, 200)}")


def _note(file: SourceFile, key: str, note: Any, limits: Limits) -> Iterator[ParsedDocument | Notice]:
    """The document of a note, and those of its attachments."""
    builder = TextBuilder(limits)
    created = _text(note, "created")
    render_fragment(_TO_DO.sub(_checkbox, _text(note, "content")), builder)
    values = {
        "tags": ", ".join((tag.text or "").strip() for tag in note.iterchildren("tag")),
        "author": _text(note, "note-attributes/author"),
    }
    document = builder.document(
        file.source,
        key,
        _text(note, "title"),
        url=_text(note, "note-attributes/source-url"),
        values=values,
        date=f"{created[:4]}-{created[4:6]}-{created[6:8]}" if created else "",
    )
    if document is not None:
        yield document
    attachments = ((_name(each), partial(_bytes, each)) for each in note.iterchildren("resource"))
    for item in load_contained(file, attachments, limits):
        if isinstance(item, ParsedDocument):
            item = dataclasses.replace(item, key=f"{key}/{item.key}")
        yield item


def _checkbox(match: re.Match[str]) -> str:
    checked = 'checked="true"' in match[1]
    return f'<input type="checkbox"{" checked" if checked else ""}>'


def _text(element: Any, path: str) -> str:
    return str(element.findtext(path) or "").strip()


def _name(resource: Any) -> str:
    name = _text(resource, "resource-attributes/file-name")
    return one_line(name or f"attachment.{_text(resource, 'mime').rpartition('/')[2]}")


def _bytes(resource: Any) -> bytes:
    try:
        return base64.b64decode(_text(resource, "data"))
    except binascii.Error as error:
        raise SkippedFileError(f"broken attachment: {error}") from error


LOADER = EnexLoader()
