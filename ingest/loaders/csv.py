"""CSV: one document per row; a table without prose becomes documents of many rows. Read row by row."""

from __future__ import annotations

import contextlib
import csv
import itertools
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from ingest.errors import SkippedFileError
from ingest.loaders.document import Limits, Notice, ParsedDocument, check_length, one_line
from ingest.loaders.file import SourceFile
from ingest.loaders.records import KNOWN_NAMES, Fields, choose_fields, plain_name, rows_as_text

_DELIMITERS = ",;\t|"
_SEPARATOR_LINE = re.compile(r"\ufeff?[\"']?sep=(.)[\"']?\r?\n", re.IGNORECASE)
_SAMPLED_CHARS = 65_536
_SAMPLED_ROWS = 50
_LONGEST_NAME = 60
_NUMBER = re.compile(r"[-+]?[\d.,]*\d%?")
_YEAR = re.compile(r"(?:19|20)\d\d")
_DATE_OR_LINK = re.compile(r"\d{4}-\d\d-\d\d|\d{1,2}[./]\d{1,2}[./]\d{2,4}|https?://")
_JUDGEMENTS = frozenset(("query-id", "corpus-id"))
_REPORTED_ROWS = 5


class CsvLoader:
    """CSV and TSV: one document per row."""

    suffixes = (".csv", ".tsv")
    binary = False

    def sniff(self, head: bytes) -> bool:
        """Always False: a line of text with a comma looks the same."""
        return False

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document per row with text. Title, URL, date and other short columns become its metadata.

        All columns of prose are text (`choose_fields`). Questions and answers next to a text are ignored. A table
        without prose becomes documents of many rows (`rows_as_text`).
        """
        with _field_size_limit(limits.max_text_chars), (yield from file.rows(limits, newline="")) as stream:
            sample = stream.read(_SAMPLED_CHARS)
            stream.seek(0)
            separator = _SEPARATOR_LINE.match(sample)
            if separator is not None:
                stream.readline()
            delimiter = _delimiter(sample) if separator is None else separator[1]
            rows = _Rows(stream, delimiter, limits)
            yield from documents_of_rows(file, rows, limits, delimiter=delimiter)
            if rows.open_quotes:
                yield Notice(f"a quote is never closed: read as a character (rows {_listed(rows.open_quotes)})")


def documents_of_rows(
    file: SourceFile, rows: Iterator[list[str]], limits: Limits, *, delimiter: str = " ", key: str = "", title: str = ""
) -> Iterator[ParsedDocument | Notice]:
    """The documents of a table: one per row, or per 500 rows if no column holds prose.

    Args:
        file: the table's file.
        rows: the cells of each row; the first row may name the columns.
        limits: of a document's text.
        delimiter: joins cells beyond the names of the columns.
        key: where the table is in the file.
        title: of documents of many rows; by default the file's name.

    Raises:
        SkippedFileError: it has no rows, or holds relevance judgements.
    """
    head = list(itertools.islice(rows, _SAMPLED_ROWS + 1))
    if not head:
        raise SkippedFileError("empty")
    if is_header(head):
        names = _unique_names(head.pop(0))
    else:
        names = _unique_names([""] * max(map(len, head)))
        yield Notice("the first row does not look like a header: the columns are called 'column 1', 'column 2', …")
    if _JUDGEMENTS.issubset(names):
        raise SkippedFileError("relevance judgements of an evaluation, not documents")
    too_wide: list[int] = []
    records = _records(names, itertools.chain(head, rows), delimiter, too_wide)
    sample = list(itertools.islice(records, _SAMPLED_ROWS))
    fields = choose_fields(sample)
    records = itertools.chain(sample, records)
    if fields.text:
        yield from _row_documents(file, records, fields, limits, key)
    else:
        yield from rows_as_text(file, records, limits, key=key, title=title)
    if too_wide:
        yield Notice(
            f"{len(too_wide)} rows have more cells than the header: kept in the last column (rows {_listed(too_wide)})"
        )


def _records(
    names: Sequence[str], rows: Iterable[list[str]], delimiter: str, too_wide: list[int]
) -> Iterator[dict[str, str]]:
    """The rows as records. Excess cells are appended to the last one."""
    last = len(names) - 1
    for number, row in enumerate(rows, start=1):
        if any(cell.strip() for cell in row[last + 1 :]):
            too_wide.append(number)
            row[last:] = [delimiter.join(row[last:])]
        yield dict(zip(names, row, strict=False))


def _row_documents(
    file: SourceFile, records: Iterable[dict[str, str]], fields: Fields, limits: Limits, key: str
) -> Iterator[ParsedDocument | Notice]:
    blank: list[int] = []
    number = 0
    for number, record in enumerate(records, start=1):
        check_length(sum(map(len, record.values())), limits)
        kept = {name: value for name, value in record.items() if fields.keeps(name)}
        document = fields.document(file, f"{key} {number}".strip(), kept | {"row": number}, limits)
        if document is None:
            blank.append(number)
        else:
            yield document
    if blank:
        columns = " or ".join(map(repr, fields.text))
        yield Notice(f"{len(blank)} of {number} rows hold no text in column {columns} (rows {_listed(blank)})")


class _Rows:
    """The rows of a CSV file that are not blank.

    A quote that is never closed would swallow the rows below it. The strict mode of `csv` detects it; the first line is
    then read with the quote as an ordinary character, and the following lines are read again.
    """

    def __init__(self, lines: Iterable[str], delimiter: str, limits: Limits) -> None:
        self._stream = iter(lines)
        self._delimiter = delimiter
        self._limits = limits
        self._pending: deque[str] = deque()
        self._record: list[str] = []
        """The lines of the current row."""
        self._reader = csv.reader(self._lines(), delimiter=delimiter, strict=True)
        self._number = 0
        self.open_quotes: list[int] = []
        """Numbers of the rows with a quote that is never closed."""

    def __iter__(self) -> Iterator[list[str]]:
        return self

    def __next__(self) -> list[str]:
        while True:
            self._record.clear()
            row = self._row()
            if any(cell.strip() for cell in row):
                self._number += 1
                return row

    def _lines(self) -> Iterator[str]:
        while True:
            line = self._pending.popleft() if self._pending else next(self._stream, None)
            if line is None:
                return
            self._record.append(line)
            yield line

    def _row(self) -> list[str]:
        try:
            return next(self._reader)
        except csv.Error as error:
            first, *others = self._record
            if not others and "field limit" in str(error):
                check_length(self._limits.max_text_chars + 1, self._limits)
            self._pending.extendleft(reversed(others))
            # A reader cannot continue after an error.
            self._reader = csv.reader(self._lines(), delimiter=self._delimiter, strict=True)
            if others or first.count('"') % 2:
                self.open_quotes.append(self._number)
                return [cell.strip('"') for cell in next(_reader(first, self._delimiter, csv.QUOTE_NONE))]
            return next(_reader(first, self._delimiter, csv.QUOTE_MINIMAL))


def _reader(line: str, delimiter: str, quoting: int) -> Iterator[list[str]]:
    try:
        yield from csv.reader([line], delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]
    except csv.Error as error:
        raise SkippedFileError(f"not readable as CSV: {error}") from error


@contextlib.contextmanager
def _field_size_limit(characters: int) -> Iterator[None]:
    """Sets the csv module's limit, which is global to the process, while a file is read."""
    previous = csv.field_size_limit(characters)
    try:
        yield
    finally:
        csv.field_size_limit(previous)


def _delimiter(sample: str) -> str:
    """The delimiter with which most rows have as many columns as the first row; then, with the most columns."""

    def fit(delimiter: str) -> tuple[float, int]:
        with contextlib.suppress(csv.Error):
            widths = [
                len(row) for row in itertools.islice(csv.reader(lines, delimiter=delimiter), _SAMPLED_ROWS) if row
            ]
            if widths and widths[0] > 1:
                return widths.count(widths[0]) / len(widths), widths[0]
        return 0, 0

    lines = sample.splitlines(keepends=True)
    if len(sample) == _SAMPLED_CHARS and len(lines) > 1:
        del lines[-1]
    return max(_DELIMITERS, key=fit)


def is_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row has column names: short and distinct, not numbers, dates, links or sentences."""
    first = [cell.strip() for cell in rows[0]]
    named = [cell for cell in first if cell]
    if len(rows) == 1 or any(plain_name(cell) in KNOWN_NAMES for cell in named):
        return True
    if len(named) < max(1, len(first) // 2):
        return False
    return len(set(named)) == len(named) and not any(
        len(cell) > _LONGEST_NAME
        or (cell[-1] in ".!" and " " in cell)
        or _DATE_OR_LINK.match(cell)
        or (_NUMBER.fullmatch(cell) and not (_YEAR.fullmatch(cell) and not _NUMBER.fullmatch(first[0])))
        for cell in named
    )


def _unique_names(cells: Sequence[str]) -> list[str]:
    """Distinct names of the columns, in lower case."""
    names: dict[str, None] = {}
    for number, cell in enumerate(cells, start=1):
        name = one_line(cell, 100).lower() or f"column {number}"
        names[name if name not in names else f"{name} {number}"] = None
    return list(names)


def _listed(rows: Sequence[int]) -> str:
    return ", ".join(map(str, rows[:_REPORTED_ROWS])) + (", …" if len(rows) > _REPORTED_ROWS else "")


LOADER = CsvLoader()
