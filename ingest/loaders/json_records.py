"""JSON and JSON Lines: records of web pages, docsearch indexes, Hugo indexes and passage corpora."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urldefrag

from ingest.errors import SkippedFileError
from ingest.loaders.dates import date_metadata
from ingest.loaders.document import (
    Limits,
    MetadataValue,
    Notice,
    ParsedDocument,
    TextBuilder,
    as_metadata,
    first_line,
    one_line,
    web_address,
)
from ingest.loaders.html import looks_like_html, render_fragment
from ingest.loaders.source import SourceFile, decode, rows_encoding

_TEXT = ("content", "text", "body", "page_content", "contents", "passage", "article")
_TITLE = ("title", "headline", "name")
_URL = ("url", "uri", "permalink", "link", "relURI", "href")
_DATE = ("date", "published", "published_at", "displayDate", "created", "lastmod")
_KEY = ("_id", "id", "objectID", "doc_id")
_LISTS = ("documents", "records", "hits", "items", "pages", "docs", "data", "results")
_DOCSEARCH_LEVELS = tuple(f"lvl{level}" for level in range(7))


def load_json(file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
    """One document per record of a top-level array, or of an array under a usual name, or of the one record there is.

    Read are `{content, url, title}`, Hugo's `{title, uri, relURI, body, …}`, `{_id, title, text}` and their like, and
    docsearch records `{hierarchy: {lvl0 … lvl6}, content, url}`, of which those of one page become one document.

    Raises:
        SkippedFileError: no JSON, or no record with text in it.
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
            pages.setdefault(urldefrag(_string(record.get("url"))).url, []).append(record)
        else:
            others.append((number, record))
    blank = len(records) - len(others) - sum(len(page) for page in pages.values())
    for url, page in pages.items():
        document = _docsearch_page(file, url, page, limits)
        if document is not None:
            yield document
        else:
            blank += len(page)
    keys = _Keys()
    for number, record in others:
        document = _document(file, keys.take(record, number), record, limits)
        if document is not None:
            yield document
        else:
            blank += 1
    if blank:
        yield Notice(f"{blank} of {len(records)} records hold no text")


def load_jsonl(file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
    """One document per line, each a record as in JSON, read line by line. Lines that are no record are reported."""
    file.check_rows_file(limits)
    encoding, notice = rows_encoding(file)
    if notice is not None:
        yield notice
    keys = _Keys()
    blank = bad = total = 0
    first_bad = 0
    with file.path.open(encoding=encoding, errors="replace", newline="\n") as stream:
        for number, line in enumerate(_lines(stream, limits), start=1):
            if not line.strip():
                continue
            total += 1
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                bad += 1
                first_bad = first_bad or number
                continue
            document = _document(file, keys.take(record, number), record, limits)
            if document is not None:
                yield document
            else:
                blank += 1
    if bad and bad == total:
        raise SkippedFileError(f"no line is a JSON object (line {first_bad} first)")
    if bad:
        yield Notice(f"{bad} of {total} lines are no JSON object (line {first_bad} first)")
    if blank:
        yield Notice(f"{blank} of {total} records hold no text")


def _lines(stream: Any, limits: Limits) -> Iterator[str]:
    longest = limits.max_text_chars * 2
    while line := stream.readline(longest):
        if len(line) == longest and not line.endswith("\n"):
            raise SkippedFileError(f"a line is longer than {longest:,} characters (twice INGEST_MAX_TEXT_CHARS)")
        yield line


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


class _Keys:
    """Names records by their own id, so that moving one leaves it the same document; by number where it has none."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, record: Mapping[str, Any], number: int) -> str:
        own = next((record[name] for name in _KEY if isinstance(record.get(name), str | int)), None)
        key = f"#{number}" if own is None or f"{own}" in self._taken else f"{own}"
        self._taken.add(key)
        return key


def _document(file: SourceFile, key: str, record: Mapping[str, Any], limits: Limits) -> ParsedDocument | None:
    builder = TextBuilder(limits)
    for name in _TEXT:
        if isinstance(record.get(name), str):
            _write(record[name], builder)
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


def _docsearch_page(
    file: SourceFile, url: str, records: list[Mapping[str, Any]], limits: Limits
) -> ParsedDocument | None:
    """One page from its docsearch records: each names the headings above it and holds one of their paragraphs."""
    builder = TextBuilder(limits)
    above: list[str] = []
    title = ""
    texts = 0
    for record in records:
        hierarchy = record["hierarchy"]
        path = [one_line(html.unescape(_string(hierarchy.get(level)))) for level in _DOCSEARCH_LEVELS]
        title = title or path[1] or path[0]
        shared = 0
        while shared < len(path) and shared < len(above) and path[shared] == above[shared]:
            shared += 1
        for level, heading in enumerate(path[shared:], start=shared):
            builder.heading(level + 1, heading)
        above = path
        content = _string(record.get("content"))
        if content.strip():
            texts += 1
            _write(content, builder)
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


def _write(text: str, builder: TextBuilder) -> None:
    if looks_like_html(text):
        render_fragment(text, builder)
    else:
        builder.paragraph(html.unescape(text))


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""
