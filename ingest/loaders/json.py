"""JSON: records of web pages, docsearch indexes, Hugo indexes and passage corpora."""

from __future__ import annotations

import html
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urldefrag

from ingest.errors import SkippedFileError
from ingest.loaders.builder import TextBuilder
from ingest.loaders.document import Limits, Notice, ParsedDocument, one_line
from ingest.loaders.file import SourceFile
from ingest.loaders.records import Records, as_string, write_text

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

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document per record: of a top-level array, of an array under a usual name, or of the only object.

        Reads records such as `{content, url, title}`, Hugo's `{title, uri, relURI, body, …}` and `{_id, title, text}`.
        Docsearch records `{hierarchy: {lvl0 … lvl6}, content, url}` of one page become one document.
        """
        text = yield from file.text(limits)
        try:
            found = _records(json.loads(text))
        except json.JSONDecodeError as error:
            raise SkippedFileError(f"invalid JSON: {error.msg} in line {error.lineno}, column {error.colno}") from error
        except RecursionError as error:
            raise SkippedFileError("invalid JSON: nested too deep") from error
        records = Records(file, limits)
        pages: dict[str, list[Mapping[str, Any]]] = {}
        others: list[tuple[int, Mapping[str, Any]]] = []
        for number, record in enumerate(found, start=1):
            if not isinstance(record, dict):
                records.blank += 1
            elif isinstance(record.get("hierarchy"), dict):
                pages.setdefault(urldefrag(as_string(record.get("url"))).url, []).append(record)
            else:
                others.append((number, record))
        for url, page in pages.items():
            document = _docsearch_page(file, url, page, limits)
            if document is None:
                records.blank += len(page)
            else:
                yield document
        for number, record in others:
            yield from records.document(number, record)
        yield from records.blank_notice(len(found))


def _records(parsed: Any) -> list[Any]:
    if isinstance(parsed, list):
        return parsed
    if isinstance(parsed, dict):
        for name in _LISTS:
            if isinstance(parsed.get(name), list):
                records: list[Any] = parsed[name]
                return records
        return [parsed]
    raise SkippedFileError("JSON without records: it must have an array of objects")


def _docsearch_page(
    file: SourceFile, url: str, records: list[Mapping[str, Any]], limits: Limits
) -> ParsedDocument | None:
    """One page from its docsearch records. Each record holds a paragraph and the headings above it."""
    builder = TextBuilder(limits)
    above: list[str] = []
    title = ""
    has_text = False
    for record in records:
        hierarchy = record["hierarchy"]
        path = [one_line(html.unescape(as_string(hierarchy.get(level)))) for level in _DOCSEARCH_LEVELS]
        title = title or path[1] or path[0]
        shared = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(path, above, strict=False))))
        for level, heading in enumerate(path[shared:], start=shared):
            builder.heading(level + 1, heading)
        above = path
        content = as_string(record.get("content"))
        if content.strip():
            has_text = True
            write_text(content, builder)
    if not has_text:
        return None
    values = {"lang": records[0].get("lang") or records[0].get("language") or "", "section": above[0]}
    return builder.document(file.source, url or "#docsearch", title, url=url, values=values, date="")


LOADER = JsonLoader()
