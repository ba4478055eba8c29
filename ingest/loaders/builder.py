"""Builds a document's text block by block."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ingest.loaders.dates import date_metadata
from ingest.loaders.document import (
    Block,
    Heading,
    Limits,
    ParsedDocument,
    as_metadata,
    check_length,
    first_line,
    normalise,
    one_line,
    table_header,
    web_address,
)

_WHITESPACE = re.compile(r"\s+")


class TextBuilder:
    """Builds a document's text from blocks, with one blank line between them, and records its structure.

    Headings, code and tables are written as Markdown, so that passages of all formats look alike.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pieces: list[str] = []
        self._length = 0
        self._in_list = False
        self._headings: list[Heading] = []
        self._blocks: list[Block] = []

    @property
    def first_heading(self) -> str:
        """Title of the first heading of level 1; empty if there is none."""
        return next((heading.title for heading in self._headings if heading.level == 1), "")

    def heading(self, level: int, title: str) -> None:
        """Appends a heading, unless the title is blank."""
        title = one_line(title)
        if title:
            start, end = self._append("#" * min(level, 6) + " " + title, "\n\n")
            self._headings.append(Heading(start, end, level, title))

    def paragraph(self, text: str) -> None:
        """Appends prose; keeps its line breaks."""
        self._append(normalise(text), "\n\n")

    def list_item(self, text: str, depth: int, marker: str = "-") -> None:
        """Appends a list item. `depth`: 0 for the outermost list."""
        in_list = self._in_list
        text = normalise(text).strip()
        if text:
            indent = "  " * depth
            self._append(f"{indent}{marker} " + text.replace("\n", "\n  " + indent), "\n" if in_list else "\n\n")
            self._in_list = True

    def code(self, text: str, language: str = "") -> None:
        """Appends a fenced code block; keeps indentation and blank lines."""
        text = normalise(text, collapse_blank_lines=False)
        if text.strip():
            fence = "```"
            while fence in text:
                fence += "`"
            start, end = self._append(f"{fence}{language}\n{text}\n{fence}", "\n\n")
            self._blocks.append(Block(start, end))

    def table(self, rows: Sequence[Sequence[str]], *, header: bool = True) -> None:
        """Appends a pipe table whose first row is the header. Pads short rows and drops blank rows.

        Args:
            rows: the cells of each row.
            header: whether the first row names the columns, so that later chunks of the table repeat it.
        """
        cells = [[_WHITESPACE.sub(" ", normalise(cell)).strip().replace("|", "\\|") for cell in row] for row in rows]
        cells = [row for row in cells if any(row)]
        if not cells:
            return
        width = max(len(row) for row in cells)
        check_length(self._length + len(cells) * width + sum(len(cell) for row in cells for cell in row), self._limits)
        lines = ["| " + " | ".join(row + [""] * (width - len(row))) + " |" for row in cells]
        lines.insert(1, "|" + " --- |" * width)
        start, end = self._append("\n".join(lines), "\n\n")
        self._blocks.append(Block(start, end, table_header(lines[0]) if header else ""))

    def document(
        self, source: str, key: str, title: str, *, url: str | None, values: Mapping[str, object], date: str
    ) -> ParsedDocument | None:
        """The document of everything appended so far, without headings at the end; None if it has no text.

        Args:
            source: name of the file in the index.
            key: as `ParsedDocument.key`.
            title: if blank, the first line of the text.
            url: None or blank if there is none.
            values: candidates for the metadata (`as_metadata`).
            date: in any notation, or blank (`date_metadata`).
        """
        while self._headings and self._headings[-1].end == self._length:
            self._length = self._headings.pop().start
            del self._pieces[-1:]
            if self._pieces:
                self._length -= len(self._pieces.pop())
        text = "".join(self._pieces)
        if not text:
            return None
        return ParsedDocument(
            source=source,
            key=key,
            text=text,
            title=one_line(title) or first_line(text),
            url=web_address(url),
            metadata=as_metadata(values) | date_metadata(date),
            headings=tuple(self._headings),
            blocks=tuple(self._blocks),
        )

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
