"""Parsed documents: clean text, and its structure as offsets."""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

import regex

from ingest.errors import SkippedFileError

MetadataValue = str | int | float | bool

MAX_TITLE_CHARS = 300
MAX_METADATA_CHARS = 512
MAX_NAME_CHARS = 100
MAX_VALUES = 200
MAX_URL_CHARS = 2_000
MAX_NUMBER = 2**63


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a loader. A file that exceeds one is skipped; the reason names it."""

    max_file_bytes: int = 64 * 1024 * 1024
    """Maximum size of a file that is parsed as a whole."""
    max_rows_file_bytes: int = 4 * 1024 * 1024 * 1024
    """Maximum size of a file that is read row by row, such as CSV and JSON Lines."""
    max_text_chars: int = 20_000_000
    """Maximum length of a document's text, and of a row."""
    max_pages: int = 10_000
    """Maximum number of pages of a file."""
    max_unpacked_bytes: int = 512 * 1024 * 1024
    """Maximum size of the content of an office file, e-book or archive, unpacked."""


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
    """A code block or a table: stays in one chunk if it fits."""

    start: int
    end: int
    header: str = ""
    """Column names of a table, on one line. Chunks that continue the table repeat them as a heading."""


@dataclass(frozen=True, slots=True)
class Section:
    """The text from one heading to the next heading of any level. Sections cover the text without gap or overlap."""

    start: int
    body: int
    """Offset of the text under the heading; equals `start` before the first heading."""
    end: int
    path: tuple[str, ...]
    """Titles of the enclosing headings, this section's last; empty before the first heading."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A remark about a file that was used, for the person who started the run."""

    text: str


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """A document read from a file or from one of its records."""

    source: str
    """Name of the file in the index."""
    key: str
    """Identifies the record in its file; empty if the file is one document."""
    text: str
    """NFC, newlines as `\\n`, no control characters except tab and newline, not blank."""
    title: str = ""
    url: str | None = None
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    headings: tuple[Heading, ...] = ()
    """In the order of the text."""
    blocks: tuple[Block, ...] = ()
    """In the order of the text, not overlapping."""
    page_starts: tuple[int, ...] = ()
    """Offset of each page, in order; empty if the format has no pages."""

    @property
    def id(self) -> str:
        """Derived from source and key, so that it does not change with the content."""
        return hashlib.sha256(f"{self.source}\0{self.key}".encode("utf-8", "backslashreplace")).hexdigest()[:32]

    def sections(self) -> list[Section]:
        """The text, split at its headings."""
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
    # tag characters. Readers do not see them, but text can be hidden in them.
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u2060\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff"
    "\U000e0000-\U000e007f]"
)
_MARKS = regex.compile(r"[\p{M}--\u034f]{30}(?=[\p{M}--\u034f])", regex.V1)
"""A joiner after every 30 marks bounds the time of normalisation: Unicode's stream-safe format (UAX 15)."""
_WIDE_GAP = re.compile(r"[ \t]{64,}")
"""Padding, wider than any layout."""
_BLANK_LINES = re.compile("\n{3,}")
_WHITESPACE = re.compile(r"\s+")
_USELESS_TITLE = re.compile(
    r"(?:microsoft word|word document|powerpoint|microsoft powerpoint)\b.*"
    r"|(?:untitled|document|presentation|slide|title)\W*\d*"
    r"|.*\.(?:docx?|indd|tex|dvi|pptx?|qxd|xlsx?|odt|pdf|html?|rtf|txt)|[\W\d_]*|\S*[/\\]\S*|\S*\d\S*",
    re.IGNORECASE,
)
"""Titles that programs set: names of files and templates, identifiers."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
"""Source: RFC 3986, section 3.1."""


def normalise(text: str, *, collapse_blank_lines: bool = True) -> str:
    """The text in NFC, with one kind of newline and no trailing spaces, invisible characters or outer blank lines."""
    text = _NEWLINE.sub("\n", text)
    text = _INVISIBLE.sub("", _SPACE.sub(" ", text))
    text = unicodedata.normalize("NFC", text if text.isascii() else _MARKS.sub("\\g<0>\u034f", text))
    text = _WIDE_GAP.sub(" " * 8, text)
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    if collapse_blank_lines:
        text = _BLANK_LINES.sub("\n\n", text)
    return text.strip("\n")


def one_line(text: str, limit: int = MAX_TITLE_CHARS) -> str:
    """The text on one line, cut between words if it is longer than `limit` characters."""
    text = _WHITESPACE.sub(" ", normalise(text[: limit * 8])).strip()
    if len(text) <= limit:
        return text
    return text[: limit - 1].rsplit(" ", 1)[0].rstrip() + "…"


def real_title(text: str) -> str:
    """The title in a file's metadata; empty if a program filled it in."""
    title = one_line(text)
    return "" if _USELESS_TITLE.fullmatch(title) else title


def first_line(text: str, limit: int = 100) -> str:
    """The first line with a letter or digit: the default title of a document."""
    for line in text[:4000].split("\n"):
        if any(character.isalnum() for character in line):
            return one_line(line.lstrip("#*->| "), limit)
    return ""


def table_header(row: str) -> str:
    """The header row of a pipe table as a heading: `Zone | Price`."""
    return one_line(row.strip().strip("|"))


def web_address(text: str | None) -> str | None:
    """A cleaned http(s) or relative URL; None if it is blank or has another scheme (`javascript:…`)."""
    url = one_line(text or "", MAX_URL_CHARS)
    scheme = _SCHEME.match(url)
    return url if url and (scheme is None or scheme[1].lower() in ("http", "https")) else None


def flat_values(values: Mapping[str, object]) -> dict[str, object]:
    """At most `MAX_VALUES` values for the metadata.

    Values of nested tables are named `table.name`; lists of strings become `a, b`; dates become strings.
    """
    flat: dict[str, object] = {}
    for name, value in values.items():
        inner = {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, Mapping) else {name: value}
        for key, each in inner.items():
            if isinstance(each, list) and all(isinstance(item, str) for item in each):
                flat[key] = ", ".join(each)
            elif each is not None and not isinstance(each, list | Mapping):
                flat[key] = each if isinstance(each, str | int | float) else str(each)
            if len(flat) >= MAX_VALUES:
                return flat
    return flat


def as_metadata(values: Mapping[str, object]) -> dict[str, MetadataValue]:
    """The values that filters can compare: short strings and finite numbers.

    Drops names that are reserved by the filter language or the store.
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


def check_length(chars: int, limits: Limits) -> None:
    """Raises `SkippedFileError` if a document's text is longer than the limit."""
    if chars > limits.max_text_chars:
        raise SkippedFileError(
            f"its text is longer than {limits.max_text_chars:,} characters (INGEST_MAX_TEXT_CHARS): split it"
        )
