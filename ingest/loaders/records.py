"""Records of JSON and JSON Lines: web pages, Hugo indexes, passage corpora."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from ingest.loaders.dates import date_metadata
from ingest.loaders.document import (
    MetadataValue,
    ParsedDocument,
    ParserLimits,
    TextBuilder,
    as_metadata,
    first_line,
    one_line,
    web_address,
)
from ingest.loaders.file import SourceFile
from ingest.loaders.html import looks_like_html, render_fragment

_TEXT = ("content", "text", "body", "page_content", "contents", "passage", "article")
_TITLE = ("title", "headline", "name")
_URL = ("url", "uri", "permalink", "link", "relURI", "href")
_DATE = ("date", "published", "published_at", "displayDate", "created", "lastmod")
_KEY = ("_id", "id", "objectID", "doc_id")


class RecordKeys:
    """Names records by their own id, so that a moved record stays the same document; else by their number."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, record: Mapping[str, Any], number: int) -> str:
        """The key of the record at this position, counted from 1. No key is given twice."""
        own = next((record[name] for name in _KEY if isinstance(record.get(name), str | int)), None)
        key = f"#{number}" if own is None or f"{own}" in self._taken else f"{own}"
        self._taken.add(key)
        return key


def document_of(file: SourceFile, key: str, record: Mapping[str, Any], limits: ParserLimits) -> ParsedDocument | None:
    """The document of one record; None if it has no text."""
    builder = TextBuilder(limits)
    for name in _TEXT:
        if isinstance(record.get(name), str):
            write_text(record[name], builder)
            break
    text, headings, blocks = builder.build()
    if not text:
        return None
    title = next((record[name] for name in _TITLE if isinstance(record.get(name), str)), "")
    url = next((record[name] for name in _URL if isinstance(record.get(name), str) and record[name].strip()), None)
    date = next((record[name] for name in _DATE if isinstance(record.get(name), str)), "")
    used = {*_TEXT, *_TITLE, *_URL, *_DATE}
    extra = {name: value for name, value in record.items() if name not in used}
    if isinstance(nested := extra.pop("metadata", None), dict):
        extra = nested | extra
    metadata: dict[str, MetadataValue] = as_metadata(extra) | date_metadata(date)
    return ParsedDocument(
        source=file.source,
        key=key,
        text=text,
        title=one_line(html.unescape(title)) or first_line(text),
        url=web_address(url),
        metadata=metadata,
        headings=headings,
        blocks=blocks,
    )


def write_text(text: str, builder: TextBuilder) -> None:
    """Appends a field that holds plain text or HTML."""
    if looks_like_html(text):
        render_fragment(text, builder)
    else:
        builder.paragraph(html.unescape(text))


def as_string(value: Any) -> str:
    """The value if it is a string, else an empty one."""
    return value if isinstance(value, str) else ""
