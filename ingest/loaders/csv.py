"""CSV: one document per row, read row by row."""

from __future__ import annotations

import contextlib
import csv
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ingest.errors import SkippedFileError
from ingest.loaders.builder import TextBuilder
from ingest.loaders.document import Limits, Notice, ParsedDocument, check_length, one_line
from ingest.loaders.file import SourceFile
from ingest.loaders.html import looks_like_html, render_fragment

_TEXT = ("content", "text", "body", "article", "page_content", "passage", "document", "answer", "description")
_TITLE = ("title", "headline", "name", "subject", "question", "heading")
_URL = ("url", "link", "uri", "href", "source_url")
_DATE = ("date", "published", "published_at", "publish_date", "displaydate", "created", "created_at")
_SUMMARY = ("summary", "abstract", "teaser")
_EVALUATION = frozenset(("question", "questions", "answer", "answers"))
"""Columns of questions made from a row's text. If they were indexed, an evaluation with them would find itself."""
_DELIMITERS = ",;\t|"
_SAMPLED_ROWS = 50
_PROSE_CHARS = 20
"""Smallest mean length of the cells in a text column without a usual name."""
_REPORTED_ROWS = 5


@dataclass(frozen=True, slots=True)
class _Columns:
    names: Sequence[str]
    text: int
    title: int | None
    url: int | None
    date: int | None
    summary: int | None

    @property
    def extra(self) -> list[int]:
        taken = {self.text, self.title, self.url, self.date, self.summary}
        return [place for place, name in enumerate(self.names) if place not in taken and name not in ("", *_EVALUATION)]


class CsvLoader:
    """CSV and TSV: one document per row."""

    suffixes = (".csv", ".tsv")
    binary = False

    def sniff(self, head: bytes) -> bool:
        """Never: a line of text with a comma looks the same."""
        return False

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document per row with text. Title, URL, date and other short columns become its metadata.

        The text is in the column with a usual name (`Content`, `text`, `body`, …), else in the one with the longest
        cells. A summary column goes before it. Columns of questions and answers next to a text are left out.
        """
        with _field_size_limit(limits.max_text_chars), (yield from file.rows(limits, newline="")) as stream:
            header = stream.readline(1_000_000)
            stream.seek(0)
            reader = csv.reader(stream, delimiter=_delimiter(header), strict=False)
            rows = _rows(reader, limits)
            names = [one_line(name, 100).lower() for name in next(rows, [])]
            if not names:
                raise SkippedFileError("empty")
            sample = list(itertools.islice(rows, _SAMPLED_ROWS))
            columns = _columns(names, sample)
            blank: list[int] = []
            number = 0
            for number, row in enumerate(itertools.chain(sample, rows), start=1):
                document = _document(file, number, row, columns, limits)
                if document is None:
                    blank.append(number)
                else:
                    yield document
            if blank:
                more = ", …" if len(blank) > _REPORTED_ROWS else ""
                which = ", ".join(str(row) for row in blank[:_REPORTED_ROWS]) + more
                yield Notice(
                    f"{len(blank)} of {number} rows hold no text in column {names[columns.text]!r} (rows {which})"
                )


@contextlib.contextmanager
def _field_size_limit(characters: int) -> Iterator[None]:
    """Sets the csv module's limit, which is global to the process, while a file is read."""
    previous = csv.field_size_limit(characters)
    try:
        yield
    finally:
        csv.field_size_limit(previous)


def _rows(reader: Iterator[list[str]], limits: Limits) -> Iterator[list[str]]:
    try:
        yield from (row for row in reader if any(cell.strip() for cell in row))
    except csv.Error as error:
        if "field limit" in str(error):
            check_length(limits.max_text_chars + 1, limits)
        raise SkippedFileError(f"not readable as CSV: {error}") from error


def _delimiter(header: str) -> str:
    """The delimiter that gives the header the most columns."""
    return max(_DELIMITERS, key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), [])))


def _columns(names: list[str], sample: list[list[str]]) -> _Columns:
    def named(candidates: Sequence[str], taken: int | None = None) -> int | None:
        found = (names.index(name) for name in candidates if name in names)
        return next((number for number in found if number != taken), None)

    text = named(_TEXT)
    if text is None:
        lengths = [
            sum(len(row[number]) for row in sample if number < len(row)) / max(len(sample), 1)
            for number in range(len(names))
        ]
        longest = max(range(len(names)), key=lengths.__getitem__)
        cells = [row[longest] for row in sample if longest < len(row)]
        prose = sum(1 for cell in cells if " " in cell.strip() or not cell.isascii())
        if lengths[longest] < _PROSE_CHARS or prose < len(cells) / 2:
            raise SkippedFileError(
                f"no column of text among {', '.join(map(repr, names[:10]))}: name one of them 'text' or 'content'"
            )
        text = longest
    is_faq = names[text] == "answer"
    title = named(_TITLE if is_faq else [name for name in _TITLE if name not in _EVALUATION], text)
    return _Columns(names, text, title, named(_URL), named(_DATE), named(_SUMMARY, text))


def _document(
    file: SourceFile, number: int, row: list[str], columns: _Columns, limits: Limits
) -> ParsedDocument | None:
    def cell(column: int | None) -> str:
        return row[column] if column is not None and column < len(row) else ""

    content = cell(columns.text)
    check_length(len(content), limits)
    builder = TextBuilder(limits)
    summary = cell(columns.summary)
    if summary.strip() and summary.strip() not in content:
        _write(summary, builder)
    _write(content, builder)
    return builder.document(
        file.source,
        str(number),
        cell(columns.title),
        url=cell(columns.url),
        values={columns.names[extra]: cell(extra) for extra in columns.extra} | {"row": number},
        date=cell(columns.date),
    )


def _write(text: str, builder: TextBuilder) -> None:
    if looks_like_html(text):
        render_fragment(text, builder)
    else:
        builder.paragraph(text)


LOADER = CsvLoader()
