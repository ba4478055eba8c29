"""Office formats, with files that other libraries write."""

from __future__ import annotations

import datetime
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import docx
import openpyxl
import pptx
import pytest
from docx.oxml import parse_xml
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

from ingest.errors import SkippedFileError
from ingest.loaders import Limits, Notice, ParsedDocument, SourceFile, load
from ingest.loaders.file import OLE
from ingest.parser import Parser
from ingest.settings import IngestSettings

WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
FORMULA = (
    '<m:oMath xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"><m:r><m:t>E=mc</m:t></m:r></m:oMath>'
)
BOX = f"""
<w:r {WORD} xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape"
  xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" xmlns:v="urn:schemas-microsoft-com:vml">
  <mc:AlternateContent><mc:Choice Requires="wps"><w:drawing><wps:wsp><wps:txbx><w:txbxContent>
    <w:p><w:r><w:t>Words in a box.</w:t></w:r></w:p></w:txbxContent></wps:txbx></wps:wsp></w:drawing></mc:Choice>
  <mc:Fallback><w:pict><v:shape><v:textbox><w:txbxContent>
    <w:p><w:r><w:t>Words in a box.</w:t></w:r></w:p></w:txbxContent></v:textbox></v:shape></w:pict></mc:Fallback>
  </mc:AlternateContent></w:r>
"""
DELETED = f"<w:del {WORD}><w:r><w:delText>Gone.</w:delText></w:r></w:del>"


def read(path: Path, limits: Limits | None = None) -> tuple[list[ParsedDocument], list[str]]:
    items = list(load(SourceFile(path, path.name), limits or Limits()))
    documents = [item for item in items if isinstance(item, ParsedDocument)]
    return documents, [item.text for item in items if isinstance(item, Notice)]


def reason(path: Path, limits: Limits | None = None) -> str:
    with pytest.raises(SkippedFileError) as caught:
        read(path, limits)
    return str(caught.value)


def rewritten(path: Path, part: str, change: Callable[[str], str]) -> None:
    """Changes one part of a package."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts[part] = change(parts[part].decode()).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


# Word


def test_a_word_document(tmp_path: Path) -> None:
    document = docx.Document()
    properties = document.core_properties
    properties.title, properties.author, properties.created = "Handbook", "A. Potter", datetime.datetime(2024, 5, 6)
    document.sections[0].header.paragraphs[0].text = "Pottery Ltd, internal"
    document.sections[0].footer.paragraphs[0].text = "Page 1 of 2"
    document.add_heading("Kiln handbook", 0)
    document.add_heading("Opening", 1)
    for text in ("Fill the kiln", "Close the door"):
        document.add_paragraph(text, style="List Number")
    document.add_heading("Heat", 2)
    table = document.add_table(rows=3, cols=3)
    for row, cells in zip(table.rows, (("Zone", "Peak", "Price"), ("A", "1,050", "4"), ("B", "", "5")), strict=True):
        for cell, text in zip(row.cells, cells, strict=True):
            cell.text = text
    table.cell(1, 1).merge(table.cell(2, 1))
    paragraph = document.add_paragraph("Energy is ")
    paragraph._p.extend([parse_xml(FORMULA), parse_xml(DELETED), parse_xml(BOX)])
    path = tmp_path / "handbook.docx"
    document.save(str(path))
    ((found,), notices) = read(path)
    assert found.text == (
        "Pottery Ltd, internal\n\n# Kiln handbook\n\n# Opening\n\n1. Fill the kiln\n2. Close the door\n\n## Heat\n\n"
        "| Zone | Peak | Price |\n| --- | --- | --- |\n| A | 1,050 | 4 |\n| B | 1,050 | 5 |\n\n"
        "Energy is E=mc\n\nWords in a box."
    )
    assert [block.header for block in found.blocks] == ["Zone | Peak | Price"]
    assert found.title == "Handbook"
    assert found.metadata == {"author": "A. Potter", "date": "2024-05-06", "year": 2024, "date_number": 20240506}
    assert not notices


def test_notes_of_a_word_document_follow_the_text(tmp_path: Path) -> None:
    path = tmp_path / "notes.docx"
    document = docx.Document()
    document.add_paragraph("A claim")
    document.save(str(path))
    note = '<w:footnote w:id="5"><w:p><w:r><w:t>Its source.</w:t></w:r></w:p></w:footnote>'
    rewritten(
        path,
        "word/document.xml",
        lambda xml: xml.replace("A claim</w:t></w:r>", 'A claim</w:t></w:r><w:r><w:footnoteReference w:id="5"/></w:r>'),
    )
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes"
    related = f'<Relationship Id="n1" Type="{kind}" Target="footnotes.xml"/>'
    rewritten(
        path, "word/_rels/document.xml.rels", lambda xml: xml.replace("</Relationships>", f"{related}</Relationships>")
    )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("word/footnotes.xml", f"<w:footnotes {WORD}>{note}</w:footnotes>")
    assert read(path)[0][0].text == "A claim\n\n1. Its source."


# Slides


def test_slides(tmp_path: Path) -> None:
    slides = pptx.Presentation()
    slides.core_properties.created = datetime.datetime(2024, 5, 6)
    opening, prices, hidden = (slides.slides.add_slide(slides.slide_layouts[layout]) for layout in (1, 5, 5))
    opening.shapes.title.text = "Opening"
    frame = opening.placeholders[1].text_frame
    frame.text = "At first light"
    inner = frame.add_paragraph()
    inner.text, inner.level = "Weekdays only", 1
    group = opening.shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, Inches(1), Inches(1)).text_frame.text = "In a group"
    opening.notes_slide.notes_text_frame.text = "Say why."
    prices.shapes.title.text = "Prices"
    table = prices.shapes.add_table(2, 2, 0, 0, Inches(3), Inches(1)).table
    for number, text in enumerate(("Zone", "Price", "A", "4 EUR")):
        table.cell(number // 2, number % 2).text = text
    data = CategoryChartData()
    data.categories = ["May", "June"]
    data.add_series("Pots", (12, 15.5))
    prices.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, 0, 0, Inches(3), Inches(3), data)
    hidden.shapes.title.text = "Draft"
    hidden._element.set("show", "0")
    path = tmp_path / "plan.pptx"
    slides.save(str(path))
    ((found,), notices) = read(path)
    assert found.text == (
        "# Slide 1: Opening\n\n- At first light\n  - Weekdays only\n\nIn a group\n\nNotes: Say why.\n\n"
        "# Slide 2: Prices\n\n| Zone | Price |\n| --- | --- |\n| A | 4 EUR |\n\n"
        "|  | Pots |\n| --- | --- |\n| May | 12 |\n| June | 15.5 |"
    )
    assert found.title == "Opening"
    assert notices == ["1 hidden slides are left out"]


# Spreadsheets


def spreadsheet(path: Path, **sheets: list[tuple[object, ...]]) -> openpyxl.Workbook:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return book


def test_a_spreadsheet(tmp_path: Path) -> None:
    path = tmp_path / "book.xlsx"
    book = spreadsheet(
        path,
        Notices=[("Title", "Notice"), ("Hours", "The kiln opens at first light. Bring gloves.")],
        Sales=[
            ("Sales of 2024",),
            (),
            ("Month", "Region", "Sum", "Day"),
            ("May", "North", 120.0, datetime.date(2024, 5, 6)),
            (None, "South", 80.5, None),
        ],
        Empty=[],
        Old=[("x",)],
    )
    book["Sales"].merge_cells("A4:A5")
    book["Old"].sheet_state = "hidden"
    book.save(path)
    documents, notices = read(path)
    assert [(document.key, document.title, document.text) for document in documents] == [
        ("Notices 1", "Hours", "The kiln opens at first light. Bring gloves."),
        (
            "Sales rows 1",
            "book: Sales: Sales of 2024",
            "Month: May; Region: North; Sum: 120; Day: 2024-05-06\nMonth: May; Region: South; Sum: 80.5",
        ),
    ]
    assert [document.metadata["sheet"] for document in documents] == ["Notices", "Sales"]
    assert notices == ["hidden sheets are left out: Old"]


async def test_a_sheet_larger_than_the_memory_is_skipped(tmp_path: Path, tokenizer_path: Path) -> None:
    path = tmp_path / "sparse.xlsx"
    book = openpyxl.Workbook()
    book.active.cell(1_048_576, 16_384).value = "far"
    book.active["A1"] = "near"
    book.save(path)
    async with Parser(IngestSettings(index_root=tmp_path, tokenizer=tokenizer_path)) as parser:
        with pytest.raises(SkippedFileError, match="memory"):
            [item async for item in parser.parse(SourceFile(path, path.name))]


# Bad files


def archive(parts: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in parts.items():
            packed.writestr(name, data)
    return stream.getvalue()


ENTITIES = b'<!DOCTYPE r [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><r>&b;</r>'
REFUSED = "XML with a document type declaration: refused"


@pytest.mark.parametrize("suffix", ["docx", "pptx", "xlsx"])
def test_damaged_and_encrypted_packages(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"file.{suffix}"
    path.write_bytes(OLE + bytes(504) + "EncryptedPackage".encode("utf-16-le"))
    assert reason(path) == "encrypted: needs a password"
    for content in (b"PK\x03\x04" + b"x" * 100, archive({"other.txt": b"x"})):
        path.write_bytes(content)
        assert reason(path).startswith("broken ")
    path.write_bytes(archive({"a.xml": bytes(10_000)}))
    assert reason(path, Limits(max_unpacked_bytes=9_999)) == (
        "unpacks to more than 9,999 bytes (INGEST_MAX_UNPACKED_BYTES)"
    )


@pytest.mark.parametrize(("name", "part"), [("bomb.docx", "word/document.xml"), ("bomb.pptx", "ppt/presentation.xml")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused(tmp_path: Path, name: str, part: str, encoding: str) -> None:
    path = tmp_path / name
    path.write_bytes(archive({part: ENTITIES.decode().encode(encoding)}))
    assert reason(path).startswith(REFUSED)


def test_a_damaged_part_is_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "cut.docx"
    docx.Document().save(str(path))
    rewritten(path, "word/document.xml", lambda xml: xml[: len(xml) // 2])
    assert reason(path).startswith("broken Word document")
