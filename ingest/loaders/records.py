"""Records of JSON and JSON Lines: web pages, Hugo indexes, passage corpora."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any

from ingest.loaders.builder import TextBuilder
from ingest.loaders.document import Limits, Notice, ParsedDocument
from ingest.loaders.file import SourceFile
from ingest.loaders.html import looks_like_html, render_fragment

_TEXT = ("content", "text", "body", "page_content", "contents", "passage", "article")
_TITLE = ("title", "headline", "name")
_URL = ("url", "uri", "permalink", "link", "relURI", "href")
_DATE = ("date", "published", "published_at", "displayDate", "created", "lastmod")
_KEY = ("_id", "id", "objectID", "doc_id")
_USED = frozenset((*_TEXT, *_TITLE, *_URL, *_DATE))


class Records:
    """Turns the records of one file into documents.

    A record's key is its own id, so that a moved record stays the same document, or else its number.
    """

    def __init__(self, file: SourceFile, limits: Limits) -> None:
        self._file = file
        self._limits = limits
        self._keys: set[str] = set()
        self.blank = 0
        """Records without text so far."""

    def document(self, number: int, record: Mapping[str, Any]) -> Iterator[ParsedDocument]:
        """The document of the record at this position, counted from 1; nothing if it has no text."""
        own = next((record[name] for name in _KEY if isinstance(record.get(name), str | int)), None)
        key = f"#{number}" if own is None or f"{own}" in self._keys else f"{own}"
        self._keys.add(key)
        builder = TextBuilder(self._limits)
        write_text(_first_string(record, _TEXT), builder)
        extra = {name: value for name, value in record.items() if name not in _USED}
        if isinstance(nested := extra.pop("metadata", None), dict):
            extra = nested | extra
        document = builder.document(
            self._file.source,
            key,
            html.unescape(_first_string(record, _TITLE)),
            url=next((record[name] for name in _URL if as_string(record.get(name)).strip()), None),
            values=extra,
            date=_first_string(record, _DATE),
        )
        if document is None:
            self.blank += 1
        else:
            yield document

    def blank_notice(self, total: int) -> Iterator[Notice]:
        """A notice if some of `total` records have no text."""
        if self.blank:
            yield Notice(f"{self.blank} of {total} records hold no text")


def write_text(text: str, builder: TextBuilder) -> None:
    """Appends a field that holds plain text or HTML."""
    if looks_like_html(text):
        render_fragment(text, builder)
    else:
        builder.paragraph(html.unescape(text))


def as_string(value: object) -> str:
    """The value if it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


def _first_string(record: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((record[name] for name in names if isinstance(record.get(name), str)), "")
