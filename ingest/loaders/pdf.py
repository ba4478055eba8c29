"""PDF: the text layer of every page, its lines joined to paragraphs, the outline as headings."""

from __future__ import annotations

import io
import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from pypdf import PdfReader
from pypdf.errors import DependencyError, FileNotDecryptedError, LimitReachedError, PyPdfError

from ingest.errors import SkippedFileError
from ingest.loaders.dates import date_metadata
from ingest.loaders.document import (
    Heading,
    Limits,
    Notice,
    ParsedDocument,
    as_metadata,
    check_length,
    normalise,
    one_line,
)
from ingest.loaders.file import SourceFile

_BROKEN = (PyPdfError, ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError, OSError)
"""Exceptions that pypdf raises on malformed files; it documents no list."""

_HYPHENATED = re.compile(r"(?<![\w-])([^\W\d_]+(?:-[^\W\d_]+)*)-\n[ ]{0,8}([^\W\d_]+)")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_STARTS_ITEM = re.compile(r"\s*(?:[-•·▪◦‣*–—]\s|\(?\d{1,3}[.)]\s|\(?[a-zA-Z][.)]\s)")
_ENDS_SENTENCE = re.compile(r"[.!?:;…。！？]['\"”’)\]]*$")
_OPEN_HYPHEN = re.compile(r"\w-$")
_DIGITS = re.compile(r"\d+")
_USELESS_TITLE = re.compile(
    r"untitled|microsoft word|document\d*$|slide \d+$|powerpoint|.*\.(?:docx?|indd|tex|dvi|pptx?|qxd)$", re.IGNORECASE
)
_HEADER_WITHIN = 1_024
_EDGE_LINES = 2
_MAX_OUTLINE = 2_000


class PdfLoader:
    """PDF: the text layer."""

    suffixes = (".pdf",)
    binary = True

    def sniff(self, head: bytes) -> bool:
        """Whether the header is within the first kilobyte, where readers look for it."""
        return b"%PDF-" in head[:_HEADER_WITHIN]

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document, with the offset of each page."""
        data = file.read(limits)
        if not self.sniff(data):
            raise SkippedFileError("not a PDF: no %PDF- header")
        # pypdf warns of every oddity that it works around.
        logging.getLogger("pypdf").setLevel(logging.CRITICAL)
        try:
            reader = PdfReader(io.BytesIO(data), strict=False)
            if reader.is_encrypted and not reader.decrypt(""):
                raise SkippedFileError("encrypted: needs a password")
            count = len(reader.pages)
        except (FileNotDecryptedError, DependencyError, NotImplementedError) as error:
            raise SkippedFileError(f"encrypted in a way that cannot be read: {_first(error)}") from error
        except (*_BROKEN, RecursionError) as error:
            raise SkippedFileError(f"broken PDF: {_first(error)}") from error
        if count > limits.max_pages:
            raise SkippedFileError(f"{count:,} pages, more than {limits.max_pages:,} (INGEST_MAX_PAGES)")
        pages: list[list[str]] = []
        broken: list[int] = []
        chars = 0
        for number in range(count):
            try:
                text = reader.pages[number].extract_text()
            except LimitReachedError as error:
                raise SkippedFileError(f"page {number + 1} unpacks to more than is read: {_first(error)}") from error
            except (*_BROKEN, RecursionError):
                broken.append(number + 1)
                text = ""
            chars += len(text)
            check_length(chars, limits)
            pages.append(normalise(text).split("\n"))
        if broken:
            which = ", ".join(map(str, broken[:10])) + (", …" if len(broken) > 10 else "")
            if len(broken) == count:
                raise SkippedFileError("broken PDF: no page can be read")
            yield Notice(f"{len(broken)} of {count} pages cannot be read (page {which})")
        text, page_starts = join_pages(pages)
        if not text:
            raise SkippedFileError("holds no text: scanned pages? Run text recognition (OCR) on it first")
        values: dict[str, object] = {**_information(reader), "pages": count}
        title, date = one_line(str(values.pop("title", ""))), str(values.pop("date", ""))
        yield ParsedDocument(
            source=file.source,
            key="",
            text=text,
            title=file.stem if not title or _USELESS_TITLE.match(title) else title,
            metadata=as_metadata(values) | date_metadata(date),
            headings=_outline_headings(reader, text, page_starts),
            page_starts=page_starts,
        )


def join_pages(pages: Sequence[Sequence[str]]) -> tuple[str, tuple[int, ...]]:
    """The text of all pages, and the offset of each.

    Drops running heads and page numbers, repairs hyphenated words and joins lines to paragraphs. An empty page has the
    offset of the next one.
    """
    repeated = _running_lines(pages)
    bodies = [_without_edges(page, repeated) for page in pages]
    vocabulary = Counter(word.lower() for body in bodies for word in _WORD.findall(body.replace("-\n", "\0")))
    texts: list[str] = []
    starts: list[int] = []
    length = 0
    for body in bodies:
        text = join_lines(mend_hyphens(body, vocabulary))
        if text and length:
            length += 2
        starts.append(length)
        if text:
            texts.append(text)
            length += len(text)
    return "\n\n".join(texts), tuple(min(start, length) for start in starts)


def mend_hyphens(text: str, vocabulary: Counter[str]) -> str:
    """Joins words that a hyphen splits at the end of a line.

    Keeps the hyphen if the document has the word with it more often than without it. If it has neither, keeps the
    hyphen only if the word has another one, is in capitals, or continues with a capital letter.
    """

    def mended(match: re.Match[str]) -> str:
        before, after = match[1], match[2]
        # In a compound only the last part can be split.
        last = before.rsplit("-", 1)[-1]
        with_hyphen = vocabulary[f"{before}-{after}".lower()]
        without = vocabulary[f"{last}{after}".lower()]
        unlike_a_word = "-" in before or not after[0].islower() or before.isupper()
        keep = with_hyphen > without if with_hyphen or without else unlike_a_word
        return f"{before}-{after}" if keep else f"{before}{after}"

    return _HYPHENATED.sub(mended, text)


def join_lines(text: str) -> str:
    """Joins lines that are split only because the page was full.

    A line continues on the next if it is about as long as the longest lines and ends no sentence, or if the next one
    begins in lower case. Blank lines and list items stay separate.
    """
    lines = [line.strip() for line in text.split("\n")]
    lengths = sorted(len(line) for line in lines if line)
    if not lengths:
        return ""
    full = lengths[len(lengths) * 9 // 10] * 0.75
    joined: list[str] = []
    previous = ""
    for line in lines:
        goes_on = (
            previous
            and line
            and _ENDS_SENTENCE.search(previous[-8:]) is None
            and _STARTS_ITEM.match(line) is None
            and (len(previous) >= full or (line[0].islower() and len(previous) >= full / 2))
        )
        if goes_on:
            joined[-1] += line if _OPEN_HYPHEN.search(previous) else " " + line
        else:
            joined.append(line)
        previous = line
    return normalise("\n".join(joined)).strip()


def _running_lines(pages: Sequence[Sequence[str]]) -> frozenset[str]:
    """Lines, with all digits as 0, at the edge of at least 60 % of the pages, if there are four or more."""
    if len(pages) < 4:
        return frozenset()
    seen: Counter[str] = Counter()
    for page in pages:
        lines = [line for line in page if line.strip()]
        seen.update({_edge(line) for line in [*lines[:_EDGE_LINES], *lines[-_EDGE_LINES:]]})
    return frozenset(line for line, times in seen.items() if times >= 0.6 * len(pages) and len(line) <= 120)


def _without_edges(page: Sequence[str], repeated: frozenset[str]) -> str:
    lines = list(page)
    for end in (0, -1):
        for _ in range(_EDGE_LINES):
            while lines and not lines[end].strip():
                lines.pop(end)
            if lines and _edge(lines[end]) in repeated:
                lines.pop(end)
    return "\n".join(lines)


def _edge(line: str) -> str:
    return _DIGITS.sub("0", line.strip())


def _information(reader: PdfReader) -> dict[str, str]:
    keys = {"title": "/Title", "author": "/Author", "subject": "/Subject", "date": "/CreationDate"}
    try:
        information: Any = reader.metadata or {}
        values = {name: information.get(key) for name, key in keys.items()}
        return {name: str(value) for name, value in values.items() if isinstance(value, str)}
    except (*_BROKEN, RecursionError):
        return {}


def _outline_headings(reader: PdfReader, text: str, page_starts: Sequence[int]) -> tuple[Heading, ...]:
    """The entries of the outline whose titles are on the page that they point to."""
    found: list[Heading] = []
    try:
        entries: list[tuple[Any, int]] = [(entry, 1) for entry in reversed(reader.outline)]
        seen = 0
        while entries and seen < _MAX_OUTLINE:
            entry, level = entries.pop()
            if isinstance(entry, list):
                entries.extend((child, level + 1) for child in reversed(entry))
                continue
            seen += 1
            title = one_line(str(entry.title or ""))
            page = reader.get_destination_page_number(entry)
            if not title or page is None or not 0 <= page < len(page_starts):
                continue
            begin = max(page_starts[page], found[-1].end if found else 0)
            end = page_starts[page + 1] if page + 1 < len(page_starts) else len(text)
            match = re.compile(r"\s+".join(map(re.escape, title.split()[:30]))).search(text, begin, max(begin, end))
            if match is not None:
                found.append(Heading(match.start(), match.end(), level, title))
    except (*_BROKEN, RecursionError):
        # A broken outline costs the headings, not the text.
        return ()
    return tuple(found)


def _first(error: BaseException) -> str:
    return one_line(str(error), 160) or type(error).__name__


LOADER = PdfLoader()
