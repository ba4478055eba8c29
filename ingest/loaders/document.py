"""Parsed documents: clean text and its structure, as offsets into that text."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ingest.errors import SkippedFileError

MetadataValue = str | int | float | bool

MAX_TITLE_CHARS = 300
MAX_METADATA_CHARS = 512
MAX_NAME_CHARS = 100
MAX_URL_CHARS = 2_000
MAX_NUMBER = 2**63


@dataclass(frozen=True, slots=True)
class Limits:
    """What a loader refuses to read. A file beyond a limit is skipped, with the limit in the reason."""

    max_file_bytes: int = 64 * 1024 * 1024
    """Of files that are parsed whole: everything but CSV and JSON Lines."""
    max_rows_file_bytes: int = 4 * 1024 * 1024 * 1024
    """Of files that are read row by row: CSV and JSON Lines."""
    max_text_chars: int = 20_000_000
    """Of the text of one document, and of one row."""
    max_pages: int = 10_000
    """Of one PDF."""


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading line, `text[start:end]`."""

    start: int
    end: int
    level: int
    """1 is the outermost."""
    title: str


@dataclass(frozen=True, slots=True)
class Block:
    """A range that is kept in one chunk where it fits: a code block or a table."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Section:
    """From one heading to the next, whatever the level of either. Sections cover the text without gap or overlap."""

    start: int
    body: int
    """Where the text under the heading begins; `start` for the text before the first heading."""
    end: int
    path: tuple[str, ...]
    """Titles of the headings above, this section's own last; empty before the first heading."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something about a source that the person who started the run should read, though it was used."""

    text: str


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """What a loader makes of a file, or of one record of it."""

    source: str
    """Name of the file, relative to the folder that was given."""
    key: str
    """Names the record inside its source; empty where the source is one document."""
    text: str
    """NFC, newlines as `\\n`, no control characters but tab and newline, not blank."""
    title: str = ""
    url: str | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    headings: tuple[Heading, ...] = ()
    """In the order of the text."""
    blocks: tuple[Block, ...] = ()
    """In the order of the text, not overlapping."""
    page_starts: tuple[int, ...] = ()
    """Where each page begins, the first page first; empty where the format has no pages."""

    @property
    def id(self) -> str:
        """Derived from source and key alone: the same however often the content changes."""
        return hashlib.sha256(f"{self.source}\0{self.key}".encode("utf-8", "backslashreplace")).hexdigest()[:32]

    def sections(self) -> list[Section]:
        """The text cut at its headings."""
        sections: list[Section] = []
        path: list[tuple[int, str]] = []
        start = body = 0
        for heading in self.headings:
            if heading.start > start:
                sections.append(Section(start, body, heading.start, tuple(title for _, title in path)))
            while path and path[-1][0] >= heading.level:
                path.pop()
            path.append((heading.level, heading.title))
            start, body = heading.start, heading.end
        if start < len(self.text):
            sections.append(Section(start, body, len(self.text), tuple(title for _, title in path)))
        return sections


_NEWLINE = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_INVISIBLE = re.compile(
    # Controls, soft hyphen, zero-width space and marks, bidirectional overrides, lone surrogates, non-characters and
    # tag characters: nothing that a reader of the document sees, and where text is hidden from them.
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u2060\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff"
    "\U000e0000-\U000e007f]"
)
_WIDE_GAP = re.compile(r"[ \t]{64,}")
"""More than any layout means: padding, which would be stored and shown."""
_BLANK_LINES = re.compile("\n{3,}")
_WHITESPACE = re.compile(r"\s+")


def normalise(text: str, *, collapse_blank_lines: bool = True) -> str:
    """The text in Unicode NFC, one newline, no trailing spaces, nothing invisible, no blank line at an end."""
    text = _NEWLINE.sub("\n", text)
    text = _INVISIBLE.sub("", _SPACE.sub(" ", text))
    text = unicodedata.normalize("NFC", text)
    text = _WIDE_GAP.sub(" " * 8, text)
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    if collapse_blank_lines:
        text = _BLANK_LINES.sub("\n\n", text)
    return text.strip("\n")


def one_line(text: str, limit: int = MAX_TITLE_CHARS) -> str:
    """The text on one line, cut at a word where it is longer than `limit` characters."""
    text = _WHITESPACE.sub(" ", normalise(text[: limit * 8])).strip()
    if len(text) <= limit:
        return text
    return text[: limit - 1].rsplit(" ", 1)[0].rstrip() + "…"


def first_line(text: str, limit: int = 100) -> str:
    """The first line that says something, as a title for what has none."""
    for line in text[:4000].split("\n"):
        if any(character.isalnum() for character in line):
            return one_line(line.lstrip("#*->| "), limit)
    return ""


def web_address(text: str | None) -> str | None:
    """A URL or path as it may be stored; None where there is none."""
    return one_line(text or "", MAX_URL_CHARS) or None


def as_metadata(values: Mapping[str, object]) -> dict[str, MetadataValue]:
    """Those of `values` that can be filtered on: present, scalar, and not a text in themselves.

    Names that the filter language or the store keep for themselves are left out.
    """
    metadata: dict[str, MetadataValue] = {}
    for field_name, value in values.items():
        name = one_line(str(field_name), MAX_NAME_CHARS)
        if not name or name.startswith(("$", "chroma:")):
            continue
        if isinstance(value, str):
            text = one_line(value, MAX_METADATA_CHARS) if len(value) <= MAX_METADATA_CHARS else ""
            if text:
                metadata[name] = text
        elif isinstance(value, bool | int | float) and math.isfinite(value) and abs(value) < MAX_NUMBER:
            metadata[name] = value
    return metadata


class TextBuilder:
    """Puts a document's text together from blocks, one blank line between them, and keeps its structure.

    Headings, code and tables are written as Markdown, as in documents that are Markdown, so that a passage reads the
    same wherever it comes from.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pieces: list[str] = []
        self._length = 0
        self._in_list = False
        self._headings: list[Heading] = []
        self._blocks: list[Block] = []

    def heading(self, level: int, title: str) -> None:
        """A heading; nothing where the title is blank."""
        title = one_line(title)
        if title:
            start, end = self._append("#" * min(level, 6) + " " + title, "\n\n")
            self._headings.append(Heading(start, end, level, title))

    def paragraph(self, text: str) -> None:
        """A block of prose; its own line breaks stay."""
        self._append(normalise(text), "\n\n")

    def list_item(self, text: str, depth: int, marker: str = "-") -> None:
        """A line of a list, `depth` levels below the outermost."""
        in_list = self._in_list
        text = normalise(text).strip()
        if text:
            indent = "  " * depth
            self._append(f"{indent}{marker} " + text.replace("\n", "\n  " + indent), "\n" if in_list else "\n\n")
            self._in_list = True

    def code(self, text: str, language: str = "") -> None:
        """A fenced block of code, its indentation and blank lines kept."""
        text = normalise(text, collapse_blank_lines=False)
        if text.strip():
            fence = "```"
            while fence in text:
                fence += "`"
            start, end = self._append(f"{fence}{language}\n{text}\n{fence}", "\n\n")
            self._blocks.append(Block(start, end))

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """A pipe table, its first row the head. Short rows are filled up; blank ones are left out."""
        cells = [[one_line(cell, 4000).replace("|", "\\|") for cell in row] for row in rows]
        cells = [row for row in cells if any(row)]
        if not cells:
            return
        width = max(len(row) for row in cells)
        lines = ["| " + " | ".join(row + [""] * (width - len(row))) + " |" for row in cells]
        lines.insert(1, "|" + " --- |" * width)
        start, end = self._append("\n".join(lines), "\n\n")
        self._blocks.append(Block(start, end))

    def build(self) -> tuple[str, tuple[Heading, ...], tuple[Block, ...]]:
        """The text with its headings and blocks. Headings that nothing follows are left out."""
        while self._headings and self._headings[-1].end == self._length:
            self._length = self._headings.pop().start
            del self._pieces[-1:]
            if self._pieces:
                self._length -= len(self._pieces.pop())
        return "".join(self._pieces), tuple(self._headings), tuple(self._blocks)

    def _append(self, text: str, separator: str) -> tuple[int, int]:
        if not text.strip():
            return self._length, self._length
        if self._pieces:
            self._pieces.append(separator)
            self._length += len(separator)
        start = self._length
        self._pieces.append(text)
        self._length += len(text)
        self._in_list = False
        check_length(self._length, self._limits)
        return start, self._length


def check_length(chars: int, limits: Limits) -> None:
    """Raises `SkippedFileError` where a document's text is longer than the limit."""
    if chars > limits.max_text_chars:
        raise SkippedFileError(
            f"its text is longer than {limits.max_text_chars:,} characters (INGEST_MAX_TEXT_CHARS): split it"
        )
