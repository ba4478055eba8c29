"""JSON: records of any shape, and docsearch indexes."""

from __future__ import annotations

import html
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urldefrag

from ingest.errors import SkippedFileError
from ingest.loaders.builder import TextBuilder
from ingest.loaders.document import Limits, Notice, ParsedDocument, one_line
from ingest.loaders.file import SourceFile
from ingest.loaders.json_records import JsonRecords
from ingest.loaders.records import text_of, write_text

_BEGINS_RECORDS = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[\s*\{")
_DOCSEARCH_LEVELS = tuple(f"lvl{level}" for level in range(7))
_BLANK = re.compile(r"\s*")


class JsonLoader:
    """JSON: one document per record."""

    suffixes = (".json",)
    binary = False

    def sniff(self, head: bytes) -> bool:
        """Whether the head begins like an array of objects. A single object is usually configuration."""
        return _BEGINS_RECORDS.match(head) is not None

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document per record at any depth (`JsonRecords`).

        The docsearch records `{hierarchy: {lvl0 … lvl6}, content, url}` of a page become one document.
        """
        values = _values((yield from file.text(limits)))
        if not all(isinstance(value, dict | list) for value in values):
            raise SkippedFileError("JSON without records: it must have objects or an array")
        found = values if len(values) > 1 else values[0]
        pages, others = _docsearch_pages(found)
        records = JsonRecords(file, limits)
        for url, page in pages.items():
            yield from records.counted(_docsearch_page(file, url, page, limits), len(page))
        yield from records.read(others)
        records.check()
        yield from records.notices()


def _values(text: str) -> list[Any]:
    """The values of a JSON text: one, or several concatenated ones as in JSON Lines."""
    decoder = json.JSONDecoder()
    values: list[Any] = []
    place = _BLANK.match(text).end()  # type: ignore[union-attr]
    try:
        while place < len(text) or not values:
            value, place = decoder.raw_decode(text, place)
            values.append(value)
            place = _BLANK.match(text, place).end()  # type: ignore[union-attr]
    except json.JSONDecodeError as error:
        raise SkippedFileError(f"invalid JSON: {error.msg} in line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise SkippedFileError("invalid JSON: nested too deep") from error
    return values


def _docsearch_pages(found: Any) -> tuple[dict[str, list[Mapping[str, Any]]], Any]:
    """The docsearch records by the URL of their page, and the other values."""
    hits = found.get("hits") if isinstance(found, dict) else None
    records = hits if isinstance(hits, list) else found if isinstance(found, list) else []
    pages: dict[str, list[Mapping[str, Any]]] = {}
    others = []
    for record in records:
        if isinstance(record, dict) and isinstance(record.get("hierarchy"), dict):
            pages.setdefault(urldefrag(text_of(record.get("url"))).url, []).append(record)
        else:
            others.append(record)
    return pages, others if pages else found


def _docsearch_page(
    file: SourceFile, url: str, records: Sequence[Mapping[str, Any]], limits: Limits
) -> ParsedDocument | None:
    """A page from its docsearch records. Each record has a paragraph and the headings above it."""
    builder = TextBuilder(limits)
    above: list[str] = []
    title = ""
    has_text = False
    for record in records:
        hierarchy = record["hierarchy"]
        path = [one_line(html.unescape(text_of(hierarchy.get(level)))) for level in _DOCSEARCH_LEVELS]
        title = title or path[1] or path[0]
        shared = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(path, above, strict=False))))
        for level, heading in enumerate(path[shared:], start=shared):
            builder.heading(level + 1, heading)
        above = path
        content = text_of(record.get("content"))
        if content.strip():
            has_text = True
            write_text(content, builder)
    if not has_text:
        return None
    values = {"lang": records[0].get("lang") or records[0].get("language") or "", "section": above[0]}
    return builder.document(file.source, url or "#docsearch", title, url=url, values=values, date="")


LOADER = JsonLoader()
