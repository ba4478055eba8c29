"""JSON: records of web pages, docsearch indexes, Hugo indexes and passage corpora."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urldefrag

from ingest.errors import SkippedFileError
from ingest.loaders.document import (
    Notice,
    ParsedDocument,
    ParserLimits,
    TextBuilder,
    as_metadata,
    first_line,
    one_line,
    web_address,
)
from ingest.loaders.file import SourceFile, decode
from ingest.loaders.records import RecordKeys, as_string, document_of, write_text

_BEGINS_RECORDS = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*\{")
_LISTS = ("documents", "records", "hits", "items", "pages", "docs", "data", "results")
_DOCSEARCH_LEVELS = tuple(f"lvl{level}" for level in range(7))


class JsonLoader:
    """JSON: one document per record."""

    suffixes = (".json",)
    binary = False

    def sniff(self, head: bytes) -> bool:
        """Whether the head begins like an array of objects. A lone object is mostly configuration."""
        return _BEGINS_RECORDS.match(head) is not None

    def load(self, file: SourceFile, limits: ParserLimits) -> Iterator[ParsedDocument | Notice]:
        """One document per record: of a top-level array, of an array under a usual name, or of the only object.

        Reads records such as `{content, url, title}`, Hugo's `{title, uri, relURI, body, …}` and `{_id, title, text}`.
        Docsearch records `{hierarchy: {lvl0 … lvl6}, content, url}` of one page become one document.

        Raises:
            SkippedFileError: not JSON, or no record has text.
        """
        decoded = decode(file.read(limits))
        if decoded.notice is not None:
            yield decoded.notice
        try:
            parsed = json.loads(decoded.text)
        except json.JSONDecodeError as error:
            raise SkippedFileError(f"invalid JSON: {error.msg} in line {error.lineno}, column {error.colno}") from error
        except RecursionError as error:
            raise SkippedFileError("invalid JSON: nested too deep") from error
        records = _records(parsed)
        pages: dict[str, list[Mapping[str, Any]]] = {}
        others: list[tuple[int, Mapping[str, Any]]] = []
        for number, record in enumerate(records, start=1):
            if not isinstance(record, dict):
                continue
            if isinstance(record.get("hierarchy"), dict):
                pages.setdefault(urldefrag(as_string(record.get("url"))).url, []).append(record)
            else:
                others.append((number, record))
        blank = len(records) - len(others) - sum(len(page) for page in pages.values())
        for url, page in pages.items():
            document = _docsearch_page(file, url, page, limits)
            if document is not None:
                yield document
            else:
                blank += len(page)
        keys = RecordKeys()
        for number, record in others:
            document = document_of(file, keys.take(record, number), record, limits)
            if document is not None:
                yield document
            else:
                blank += 1
        if blank:
            yield Notice(f"{blank} of {len(records)} records hold no text")


def _records(parsed: Any) -> list[Any]:
    if isinstance(parsed, list):
        return parsed
    if isinstance(parsed, dict):
        for name in _LISTS:
            if isinstance(parsed.get(name), list):
                records: list[Any] = parsed[name]
                return records
        return [parsed]
    raise SkippedFileError("JSON that holds no records: wanted an array of objects")


def _docsearch_page(
    file: SourceFile, url: str, records: list[Mapping[str, Any]], limits: ParserLimits
) -> ParsedDocument | None:
    """One page from its docsearch records. Each record holds a paragraph and the headings above it."""
    builder = TextBuilder(limits)
    above: list[str] = []
    title = ""
    texts = 0
    for record in records:
        hierarchy = record["hierarchy"]
        path = [one_line(html.unescape(as_string(hierarchy.get(level)))) for level in _DOCSEARCH_LEVELS]
        title = title or path[1] or path[0]
        shared = 0
        while shared < len(path) and shared < len(above) and path[shared] == above[shared]:
            shared += 1
        for level, heading in enumerate(path[shared:], start=shared):
            builder.heading(level + 1, heading)
        above = path
        content = as_string(record.get("content"))
        if content.strip():
            texts += 1
            write_text(content, builder)
    if not texts:
        return None
    text, headings, blocks = builder.build()
    first = records[0]
    metadata = as_metadata({"lang": first.get("lang") or first.get("language") or "", "section": above[0]})
    return ParsedDocument(
        source=file.source,
        key=url or "#docsearch",
        text=text,
        title=title or first_line(text),
        url=web_address(url),
        metadata=metadata,
        headings=headings,
        blocks=blocks,
    )


LOADER = JsonLoader()
