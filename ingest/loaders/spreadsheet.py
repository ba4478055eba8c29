"""Spreadsheets of Excel and LibreOffice: the rows of each sheet, as those of a CSV file."""

from __future__ import annotations

import dataclasses
import datetime
import io
from collections.abc import Iterator

from python_calamine import (
    CalamineError,
    CalamineSheet,
    CalamineWorkbook,
    PasswordError,
    SheetTypeEnum,
    SheetVisibleEnum,
)

from ingest.errors import SkippedFileError
from ingest.loaders.csv import documents_of_rows
from ingest.loaders.document import Limits, Notice, ParsedDocument, one_line
from ingest.loaders.file import OLE, ZIP, SourceFile
from ingest.loaders.package import begins_open_xml, check_not_encrypted, open_archive

Cell = str | int | float | bool | datetime.date | datetime.time | datetime.timedelta


class SpreadsheetLoader:
    """Spreadsheets of Excel and LibreOffice."""

    suffixes = (".ods", ".xls", ".xlsb", ".xlsm", ".xlsx", ".xltx")
    binary = True

    def sniff(self, head: bytes) -> bool:
        """Whether it is a package with a part in the folder of Excel, or a spreadsheet of OpenDocument."""
        return begins_open_xml(head, "xl") or head[30:].startswith(b"mimetypeapplication/vnd.oasis.opendocument.spread")

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """The documents of each sheet (`documents_of_rows`), titled by file and sheet.

        Formulas are read as their stored values. Hidden sheets are left out.
        """
        data = file.read(limits)
        check_not_encrypted(data)
        if data.startswith(ZIP):
            open_archive(file, data, limits, "spreadsheet").close()
        elif not data.startswith(OLE):
            raise SkippedFileError("not a spreadsheet: it does not begin like one")
        try:
            workbook = CalamineWorkbook.from_filelike(io.BytesIO(data))
            hidden = []
            for number, sheet in enumerate(workbook.sheets_metadata):
                if sheet.visible is not SheetVisibleEnum.Visible:
                    hidden.append(sheet.name)
                elif sheet.typ is SheetTypeEnum.WorkSheet:
                    yield from _documents(file, workbook.get_sheet_by_index(number), limits)
        except PasswordError as error:
            raise SkippedFileError("encrypted: needs a password") from error
        except CalamineError as error:
            raise SkippedFileError(f"broken spreadsheet: {one_line(str(error), 200)}") from error
        if hidden:
            yield Notice(f"hidden sheets are left out: {one_line(', '.join(hidden))}")


def _documents(file: SourceFile, sheet: CalamineSheet, limits: Limits) -> Iterator[ParsedDocument | Notice]:
    rows = [[_text(cell) for cell in row] for row in _rows(sheet)]
    rows = [row for row in rows if any(row)]
    # A caption above the table.
    caption = ""
    while len(rows) > 1 and len(rows[0]) > 1 and sum(map(bool, rows[0])) == 1:
        caption = f"{caption} {''.join(rows.pop(0))}"
    if not rows:
        return
    title = f"{file.stem}: {sheet.name}" + (f":{caption}" if caption else "")
    for item in documents_of_rows(file, iter(rows), limits, key=sheet.name, title=title):
        if isinstance(item, ParsedDocument):
            yield dataclasses.replace(item, metadata={**item.metadata, "sheet": one_line(sheet.name)})
        else:
            yield Notice(f"sheet {sheet.name!r}: {item.text}")


def _rows(sheet: CalamineSheet) -> list[list[Cell]]:
    """The rows of a sheet. A cell merged over several rows is repeated in each."""
    rows: list[list[Cell]] = sheet.to_python(skip_empty_area=True)
    if rows and sheet.start is not None:
        top, left = sheet.start
        for (first, column), (last, _) in sheet.merged_cell_ranges or ():
            if 0 <= first - top < len(rows) and 0 <= column - left < len(rows[0]):
                for row in rows[first - top + 1 : last - top + 1]:
                    row[column - left] = row[column - left] or rows[first - top][column - left]
    return rows


def _text(cell: Cell) -> str:
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        return cell.date().isoformat()
    return str(cell).strip()


LOADER = SpreadsheetLoader()
