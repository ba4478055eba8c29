"""Layout of a PDF page: characters become lines in reading order, column by column, with tables row by row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

_SPLIT = 0.55
"""A wider gap, in text heights, may be a gutter between columns. Word spaces are about 0.25."""
_CELL = 1.0
"""A wider gap, in text heights, separates two cells of a table. Spaces in justified text are narrower."""
_SAME_LINE = 0.4
"""Segments whose centres differ by less, in text heights, are on one line. A superscript differs by about 0.3."""
_FULL = 0.7
"""Share of a column's width from which a line counts as full."""
_PROSE_CHARS = 15
"""Median line length from which a column is prose and not cells of a table."""
_SEARCHED_LINES = 3
"""A gutter must appear within this many lines."""
_MAX_SEGMENTS = 5_000
"""A page with more segments is a drawing: its text keeps the order of the file."""
_MAX_BAND = 400
"""Maximum number of lines in a band with the same gutters."""
_MARKER = re.compile(r"[-•·▪◦‣*–—]|\(?\w{1,3}[.)]|\d{1,2}(?:\.\d{1,2})+")
"""A bullet, letter or number before a list item or a heading."""
_MARKER_GAP = 2.5
_LEADERS = re.compile(r"(?:\s*\.){5,}\s*")
_LEADER = " … "
"""Replaces the dots between an entry of a table of contents and its page number."""
_RTL = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(slots=True)
class Segment:
    """Text on one line without a wide gap, at least a character, and its box in points; y grows upwards.

    White space and line breaks have empty boxes.
    """

    text: str
    x0: float
    y0: float
    x1: float
    y1: float
    size: float
    """Size of the font."""

    @property
    def middle(self) -> float:
        """Vertical centre."""
        return (self.y0 + self.y1) / 2

    @property
    def height(self) -> float:
        """Height of the box, at least a point."""
        return max(self.y1 - self.y0, 1.0)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a page."""

    text: str
    size: float = 0.0
    """Size of most of its letters, in points."""
    fill: float = 1.0
    """Width relative to the longest lines of its column."""
    gap: bool = False
    """Whether the space above it is larger than usual."""
    cells: tuple[str, ...] = ()
    """Parts separated by wide gaps. Such a line is not joined with others."""
    table: bool = False
    """Whether it is a row of a table."""


def page_lines(glyphs: Sequence[Segment], fields: Sequence[Segment] = ()) -> list[Line]:
    """The lines of a page in reading order. Changes the segments.

    Args:
        glyphs: the characters, in the order of the file, which keeps the letters of a word together.
        fields: other text on the page, such as values of form fields.
    """
    segments = [*_segments(glyphs), *fields]
    if len(segments) > _MAX_SEGMENTS:
        return [Line(segment.text, segment.size) for segment in segments]
    letters = "".join(segment.text for segment in segments)
    rtl = len(_RTL.findall(letters)) * 2 > len(_LETTER.findall(letters))
    if rtl:
        for segment in segments:
            segment.x0, segment.x1 = -segment.x1, -segment.x0
    return _read(segments)


def _segments(glyphs: Sequence[Segment]) -> Iterator[Segment]:
    current: Segment | None = None
    space = ""
    box: tuple[float, float] | None = None
    for glyph in glyphs:
        if not glyph.text.strip():
            space = " " if space != "\n" and glyph.text == " " else "\n"
            continue
        # The letters of a ligature have one box.
        ligature = box == (glyph.x0, glyph.x1)
        box = glyph.x0, glyph.x1
        if current is not None and space != "\n" and (ligature or _follows(current, glyph)):
            current.text += space + glyph.text
            current.x0, current.x1 = min(current.x0, glyph.x0), max(current.x1, glyph.x1)
            if glyph.size > current.size * 0.8:  # not a superscript
                current.y0, current.y1 = min(current.y0, glyph.y0), max(current.y1, glyph.y1)
        else:
            if current is not None:
                yield _clean(current)
            current = glyph
        space = ""
    if current is not None:
        yield _clean(current)


def _clean(segment: Segment) -> Segment:
    segment.text = _LEADERS.sub(_LEADER, segment.text).rstrip()
    return segment


def _follows(segment: Segment, glyph: Segment) -> bool:
    """Whether the glyph continues the segment on its line: to the right or, in right-to-left scripts, to the left."""
    height = segment.height
    if abs(segment.middle - glyph.middle) > height / 2:
        return False
    return -height / 2 < glyph.x0 - segment.x1 < height * _SPLIT or (
        _RTL.match(glyph.text) is not None and -height / 2 < segment.x0 - glyph.x1 < height * _SPLIT
    )


_Row = list[Segment]
"""The segments of one line, from left to right."""
_Interval = tuple[float, float]


def _rows(segments: Sequence[Segment]) -> list[_Row]:
    """The segments by lines, from top to bottom."""
    rows: list[_Row] = []
    for segment in sorted(segments, key=lambda each: -each.middle):
        if rows and rows[-1][0].middle - segment.middle < _SAME_LINE * min(rows[-1][0].height, segment.height):
            rows[-1].append(segment)
        else:
            rows.append([segment])
    for row in rows:
        row.sort(key=lambda each: each.x0)
        if len(row) > 1 and _MARKER.fullmatch(row[0].text) and row[1].x0 - row[0].x1 < _MARKER_GAP * row[0].height:
            marker = row.pop(0)
            row[0].text, row[0].x0 = f"{marker.text} {row[0].text}", marker.x0
    return rows


def _read(segments: Sequence[Segment]) -> list[Line]:
    rows = _rows(segments)
    if not rows:
        return []
    widths = sorted(row[-1].x1 - row[0].x0 for row in rows)
    column = _Column(rows, max(widths[len(widths) * 9 // 10], 1.0))
    lines: list[Line] = []
    start = 0
    while start < len(rows):
        end, columns = column.band(start)
        if len(columns) > 1 and column.is_prose(start, end, columns):
            inside = [segment for row in rows[start:end] for segment in row]
            for left, right in columns:
                lines += _read([each for each in inside if left <= each.x0 <= right])
            start = end
        elif len(columns) > 1 and (table := column.table(start, end, columns)):
            lines += table
            start = end
        else:
            # A table may begin further down. Steps proportional to the band keep the search linear.
            following = start + (max(1, (end - start) // 8) if len(columns) > 1 else 1)
            lines += map(column.line, range(start, following))
            start = following
    return lines


@dataclass(slots=True)
class _Column:
    """Lines below each other."""

    rows: list[_Row]
    width: float
    """Width of its longest lines."""
    _usual_space: float = field(init=False)

    def __post_init__(self) -> None:
        self._usual_space = median([self._space(each) for each in range(1, len(self.rows))] or [0.0])

    def _space(self, number: int) -> float:
        """Vertical space between a row and the one above it."""
        return min(each.y0 for each in self.rows[number - 1]) - max(each.y1 for each in self.rows[number])

    def gap(self, number: int) -> bool:
        """Whether the space above this row is larger than usual."""
        return number > 0 and self._space(number) > self._usual_space + 0.45 * self.rows[number][0].height

    def line(self, number: int) -> Line:
        """One row as a line."""
        row = self.rows[number]
        cells, last = [row[0].text], row[0]
        for segment in row[1:]:
            if segment.x0 - last.x1 > _CELL * last.height:
                cells.append(segment.text)
            else:
                cells[-1] += f" {segment.text}"
            last = segment
        text = "  ".join(cells)
        alone = len(cells) > 1 or _LEADER in text
        return Line(
            text,
            _size(row),
            (row[-1].x1 - row[0].x0) / self.width,
            self.gap(number),
            tuple(cells) if alone else (),
        )

    def band(self, start: int) -> tuple[int, list[_Interval]]:
        """The rows from `start` that share gutters: their end, and the columns between the gutters."""
        columns: list[_Interval] = []
        for end, row in enumerate(self.rows[start : start + _MAX_BAND], start=start):
            merged = columns
            for segment in row:
                merged = _merge(merged, (segment.x0, segment.x1), 0.8 * segment.height)
            closed = len(merged) < 2 and (len(columns) > 1 or end - start >= _SEARCHED_LINES)
            # A single column after a gap is the text below the columns.
            alone = len(columns) > 1 and self.gap(end) and _count(row, columns) < 2
            if closed or alone:
                return end, columns
            columns = merged
        return min(start + _MAX_BAND, len(self.rows)), columns

    def is_prose(self, start: int, end: int, columns: Sequence[_Interval]) -> bool:
        """Whether each column holds running text, which is read from top to bottom."""
        if self._has_rows(start, end, columns):
            return False
        for left, right in columns:
            lines = [cell for row in self.rows[start:end] if (cell := _cell(row, left, right))]
            full = sum(cell[-1].x1 - cell[0].x0 >= _FULL * (right - left) for cell in lines)
            chars = sorted(sum(len(each.text) for each in cell) for cell in lines)
            if len(lines) < 3 or full * 2 < len(lines) or chars[len(chars) // 2] < _PROSE_CHARS:
                return False
        return True

    def _has_rows(self, start: int, end: int, columns: Sequence[_Interval]) -> bool:
        """Whether gaps divide all columns at the same heights, as in a table whose cells have several lines."""
        begins = [start, *(number for number in range(start + 1, end) if self.gap(number))]
        return len(begins) > 2 and all(_count(self.rows[number], columns) == len(columns) for number in begins)

    def table(self, start: int, end: int, columns: Sequence[_Interval]) -> list[Line]:
        """The rows of a table; empty if most lines have a single cell."""
        grid = [
            (number, [" ".join(each.text for each in _cell(self.rows[number], *column)) for column in columns])
            for number in range(start, end)
        ]
        several = sum(sum(map(bool, cells)) > 1 for _, cells in grid)
        if several < 2 or several * 2 < len(grid):
            return []
        if self._has_rows(start, end, columns):
            grouped: list[tuple[int, list[str]]] = []
            for number, cells in grid:
                if number == start or self.gap(number):
                    grouped.append((number, cells))
                else:
                    first, above = grouped[-1]
                    grouped[-1] = first, [f"{a} {b}".strip() for a, b in zip(above, cells, strict=True)]
            grid = grouped
        return [
            Line(f"| {' | '.join(cells)} |", _size(self.rows[number]), 1.0, self.gap(number), tuple(cells), table=True)
            for number, cells in grid
        ]


def _merge(intervals: Sequence[_Interval], new: _Interval, gutter: float) -> list[_Interval]:
    """Adds an interval to sorted intervals. Intervals closer than `gutter` are merged."""
    merged: list[_Interval] = []
    for left, right in sorted([*intervals, new]):
        if merged and left - merged[-1][1] < gutter:
            merged[-1] = (merged[-1][0], max(merged[-1][1], right))
        else:
            merged.append((left, right))
    return merged


def _cell(row: _Row, left: float, right: float) -> _Row:
    return [segment for segment in row if left <= segment.x0 <= right]


def _count(row: _Row, columns: Sequence[_Interval]) -> int:
    """Number of columns in which the row has text."""
    return sum(1 for left, right in columns if _cell(row, left, right))


def _size(row: _Row) -> float:
    return max(row, key=lambda each: len(each.text)).size
