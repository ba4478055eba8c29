"""Converts HTML elements to text: headings, paragraphs, lists, code, tables and inline elements."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lxml import etree

from ingest.loaders.builder import TextBuilder
from ingest.loaders.html_content import NOTE
from ingest.loaders.html_inline import INLINE, joined_line

_HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}
_BLOCKS = frozenset(
    """
    address article aside blockquote body caption center dd details div dl dt fieldset figcaption figure footer form
    header hgroup hr legend li main nav ol p section summary table tbody td tfoot th thead tr ul
    """.split()  # noqa: SIM905
)
_BOXES = frozenset(("aside", "blockquote", "dd", "figure", "li"))
"""A heading inside one of them applies only to it, so it is written as the beginning of the following text."""
_TERMS = frozenset(("dt", "summary"))
_MARKS = {"q": ("“", "”"), "del": ("~~", "~~"), "s": ("~~", "~~"), "strike": ("~~", "~~")}
_LANGUAGE_CLASS = re.compile(r"(?:^|\s)(?:language|lang|highlight|highlight-source)-([A-Za-z0-9+#-]{1,20})")
_WHITESPACE = re.compile(r"[ \t\n\r\f\v]+")
_MOST_COLUMNS = 100


def render(root: Any, sink: TextBuilder | _CellText) -> None:
    """Appends the text below `root`, in document order."""
    _Renderer(sink).run(root)


class _Renderer:
    """Walks an element tree without recursion and passes its blocks to a sink."""

    def __init__(self, sink: TextBuilder | _CellText) -> None:
        self._sink = sink
        self._inline: list[str] = []
        self._lists: list[int | None] = []
        """The next number of each open list; None for bullets."""
        self._marker: str | None = None
        self._boxes = 0
        """Number of open boxes (`_is_box`)."""
        self._title = ""
        """Tag of the open heading or term whose text is being collected."""
        self._term = ""
        """Beginning of the next paragraph: the term of a definition, or the heading of a note."""

    def run(self, root: Any) -> None:
        walker = etree.iterwalk(root, events=("start", "end"))
        for event, element in walker:
            tag = element.tag if isinstance(element.tag, str) else ""
            if event == "start":
                if self._append_whole(tag, element):
                    walker.skip_subtree()
                    continue
                self._open(tag, element)
                self._text(element.text)
            else:
                self._close(tag, element)
                if element is not root:
                    self._text(element.tail)
        self._flush()
        self._flush_term()

    def _append_whole(self, tag: str, element: Any) -> bool:
        """Appends an element that is converted as a whole; False if it is not one. Its end event still follows."""
        if tag in INLINE:
            self._inline.append(INLINE[tag](element))
        elif tag == "script":
            self._inline.append(f" {element.text or ''} ")
        elif tag == "pre":
            self._flush()
            self._flush_term()
            classes = " ".join([element.get("class") or "", *(child.get("class") or "" for child in element)])
            language = _LANGUAGE_CLASS.search(classes)
            for line_break in element.iter("br"):
                line_break.tail = "\n" + (line_break.tail or "")
            self._sink.code("".join(element.itertext()), language[1] if language else "")
        elif tag == "table" and (rows := _data_rows(element)) is not None:
            self._flush()
            self._flush_term()
            for caption in element.iterchildren("caption"):
                self._sink.paragraph(_cell_text(caption))
            grid, heads = _grid(rows)
            self._sink.table(grid, header=heads > 0)
        else:
            return False
        return True

    def _open(self, tag: str, element: Any) -> None:
        if tag in ("ul", "ol"):
            self._flush()
            self._flush_term()
            self._lists.append(1 if tag == "ol" else None)
        elif tag == "li":
            self._flush()
            number = self._lists[-1] if self._lists else None
            self._marker = "-" if number is None else f"{number}."
            if number is not None:
                self._lists[-1] = number + 1
        elif tag == "br":
            self._inline.append("\n")
        elif tag in _BLOCKS or tag in _HEADINGS:
            self._flush()
        elif tag in _MARKS:
            self._inline.append(_MARKS[tag][0])
        self._boxes += _is_box(tag, element)
        if not self._title and (tag in _HEADINGS or tag in _TERMS or _is_note_title(tag, element)):
            self._title = tag

    def _close(self, tag: str, element: Any) -> None:
        if tag and tag == self._title:
            self._close_title(tag)
        if tag in _BLOCKS or tag in _HEADINGS:
            self._flush()
        elif tag in _MARKS:
            self._inline.append(_MARKS[tag][1])
        if tag in ("ul", "ol") and self._lists:
            self._lists.pop()
        if _is_box(tag, element):
            self._flush_term()
            self._boxes -= 1
        if tag == "li":
            self._marker = None

    def _close_title(self, tag: str) -> None:
        self._title = ""
        title = joined_line(self._inline)
        self._inline.clear()
        if tag in _HEADINGS and not self._boxes:
            self._flush_term()
            self._sink.heading(_HEADINGS[tag], title)
        elif title:
            self._term = f"{self._term}, {title}" if tag == "dt" and self._term else _joined(self._term, title)

    def _text(self, text: str | None) -> None:
        if text:
            self._inline.append(_WHITESPACE.sub(" ", text))

    def _flush(self) -> None:
        if not self._inline:
            return
        if self._title:
            self._inline.append(" ")
            return
        text = "\n".join(_WHITESPACE.sub(" ", line).strip() for line in "".join(self._inline).split("\n")).strip()
        self._inline.clear()
        if text:
            self._write(_joined(self._term, text))

    def _flush_term(self) -> None:
        if self._term:
            self._write(self._term)

    def _write(self, text: str) -> None:
        self._term = ""
        if self._marker is not None:
            self._sink.list_item(text, max(len(self._lists) - 1, 0), self._marker)
            self._marker = None
        elif self._lists:
            # A further paragraph of an item.
            self._sink.list_item(text, max(len(self._lists) - 1, 0), " ")
        else:
            self._sink.paragraph(text)


def _is_box(tag: str, element: Any) -> bool:
    return tag in _BOXES or (tag in ("div", "table") and NOTE.search((element.get("class") or "").lower()) is not None)


def _is_note_title(tag: str, element: Any) -> bool:
    return tag == "p" and "admonition-title" in (element.get("class") or "")


def _joined(term: str, text: str) -> str:
    """A term and its text on one line: `Port: 9181`."""
    if not term:
        return text
    return f"{term} {text}" if term[-1] in ".:?!…" else f"{term}: {text}"


class _CellText:
    """A sink like `TextBuilder` that joins blocks on one line: the text of a table cell."""

    def __init__(self) -> None:
        self.text = ""

    def heading(self, level: int, title: str) -> None:
        self.paragraph(title)

    def paragraph(self, text: str) -> None:
        self.text += f" {text}" if self.text else text

    def list_item(self, text: str, depth: int, marker: str = "-") -> None:
        self.text += f"{'; ' if self.text[-1:] not in ('', ':', ';') else ' '}{text}"

    def code(self, text: str, language: str = "") -> None:
        self.paragraph(text)

    def table(self, rows: Sequence[Sequence[str]], *, header: bool = True) -> None:
        self.paragraph("; ".join(" ".join(row) for row in rows))


def _cell_text(element: Any) -> str:
    if not len(element):
        return joined_line([element.text or ""])
    flat = _CellText()
    render(element, flat)
    return joined_line([flat.text])


# Tables


def _data_rows(table: Any) -> list[Any] | None:
    """The rows of a data table; None for a layout table, which is converted as prose."""
    if (table.get("role") or "") in ("presentation", "none"):
        return None
    rows, widest, heads, structured = [], 0, False, False
    for element in table.iter(etree.Element):
        tag = element.tag
        if tag == "table" and element is not table:
            return None
        if tag == "tr":
            cells = sum(1 for child in element if child.tag in ("td", "th"))
            widest = max(widest, cells)
            rows.append(element)
        elif tag == "th":
            heads = True
        elif tag in ("pre", "ul", "ol") or tag in _HEADINGS:
            structured = True
    if widest < 2 or (structured and not heads):
        return None
    return rows


def _grid(rows: Sequence[Any]) -> tuple[list[list[str]], int]:
    """The cells of each row, and the number of header rows, which are merged into the first.

    A cell that spans rows is repeated in each of them, so that every row is complete.
    """
    grid: list[list[str]] = []
    below: dict[int, tuple[str, int]] = {}
    heads = 0
    for row in rows:
        cells = [cell for cell in row if cell.tag in ("td", "th")]
        is_head = heads == len(grid) and bool(cells) and _is_head(row, cells)
        line: list[str] = []
        above, below = below, {}

        def place(text: str, more: int, line: list[str] = line, below: dict[int, tuple[str, int]] = below) -> None:
            if more > 0:
                below[len(line)] = (text, more)
            line.append(text)

        for cell in cells:
            while len(line) in above:
                text, more = above.pop(len(line))
                place(text, more - 1)
            text, more = _cell_text(cell), _number(cell.get("rowspan"), 65_534) - 1
            place(text, more)
            for _ in range(min(_number(cell.get("colspan"), 1_000), _MOST_COLUMNS) - 1):
                place(text if is_head else "", more)
        for column in sorted(above):
            line += [""] * (column - len(line))
            place(above[column][0], above[column][1] - 1)
        if any(line):
            grid.append(line)
            heads += is_head
    if heads == len(grid):
        heads = min(heads, 1)
    if heads > 1:
        width = max(map(len, grid[:heads]))
        titles = [[row[column] for row in grid[:heads] if column < len(row)] for column in range(width)]
        grid[:heads] = [[" ".join(dict.fromkeys(filter(None, column))) for column in titles]]
    return grid, heads


def _is_head(row: Any, cells: Sequence[Any]) -> bool:
    return row.getparent().tag == "thead" or all(cell.tag == "th" for cell in cells)


def _number(text: str | None, most: int) -> int:
    """The value of `rowspan` or `colspan`; 0, all following rows, becomes `most`."""
    number = int(text) if text and text.isascii() and text.strip().isdigit() else 1
    return min(number or most, most)
