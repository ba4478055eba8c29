"""PDFs: reading order, tables, forms, running heads and titles. All files are generated."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas

from ingest.errors import SkippedFileError
from ingest.loaders import Limits, Notice, ParsedDocument, SourceFile, load
from ingest.loaders.pdf_layout import Line, Segment, page_lines
from ingest.loaders.pdf_text import join_pages
from tests.ingest.pdf import pdf_of

Draw = Callable[[Canvas], object]


def read(tmp_path: Path, *pages: Draw | Sequence[str], title: str = "") -> tuple[ParsedDocument, list[str]]:
    """The document of a PDF with these pages, each a list of lines or a function that draws it, and its notices."""
    canvas = Canvas(str(tmp_path / "file.pdf"), pagesize=A4)
    canvas.setTitle(title)
    for page in pages:
        if callable(page):
            page(canvas)
        else:
            text = canvas.beginText(60, 780)
            text.textLines(list(page))
            canvas.drawText(text)
        canvas.showPage()
    canvas.save()
    return parse(tmp_path / "file.pdf")


def parse(path: Path) -> tuple[ParsedDocument, list[str]]:
    items = list(load(SourceFile(path, path.name), Limits()))
    (document,) = (item for item in items if isinstance(item, ParsedDocument))
    return document, [item.text for item in items if isinstance(item, Notice)]


def joined(*pages: Sequence[str]) -> str:
    return join_pages([[Line(line) for line in page] for page in pages]).text


def test_pages_paragraphs_and_outline(tmp_path: Path) -> None:
    stream = io.BytesIO()
    canvas = Canvas(stream, pagesize=A4)
    canvas.setTitle("The kiln book")
    canvas.setAuthor("Ida Brandt")
    lines = ["The kiln is opened by two people, who wear gloves and who do not hur-", "ry, because a pot cracks."]
    for number, (title, body) in enumerate([("Opening", lines), ("Cleaning", ["Sweep the shelves."]), ("", [])]):
        canvas.bookmarkPage(f"page{number}")
        if title:
            canvas.addOutlineEntry(title, f"page{number}", number)
        text = canvas.beginText(60, 780)
        text.textLines([title, *body])
        canvas.drawText(text)
        canvas.showPage()
    canvas.save()
    path = tmp_path / "book.pdf"
    path.write_bytes(stream.getvalue())
    document, notices = parse(path)
    assert document.title == "The kiln book"
    assert (document.metadata["author"], document.metadata["pages"]) == ("Ida Brandt", 3)
    assert "do not hurry, because a pot cracks." in document.text
    assert [(heading.title, heading.level) for heading in document.headings] == [("Opening", 1), ("Cleaning", 2)]
    assert document.text[document.page_starts[1] :].startswith("Cleaning")
    assert document.page_starts[2] == len(document.text)
    assert notices == ["1 of 3 pages hold no text: scanned pages? Run text recognition (OCR) (page 3)"]


def test_only_running_heads_and_page_numbers_are_left_out(tmp_path: Path) -> None:
    def page(number: int) -> list[str]:
        words = ["alder", "birch", "cedar", "elm", "fir"][number - 1]
        return ["The kiln book", f"Invoice no. {2039 + number}", f"Planks of {words}.", f"Total: {number}19.00 EUR",
                f"Page {number} of 5"]  # fmt: skip

    document, notices = read(tmp_path, *(page(number) for number in range(1, 6)))
    assert [document.text[start:].split("\n")[0] for start in document.page_starts] == [
        f"Invoice no. {number}" for number in range(2040, 2045)
    ]
    assert "Total: 519.00 EUR" in document.text
    assert "The kiln book" not in document.text
    assert "Page 3" not in document.text
    assert notices == ["running lines left out: The kiln book; page numbers"]


@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        # Left and right pages have heads of their own.
        (
            [[("Pots", "Kilns")[n % 2], f"Words {'abcdefgh'[n]}."] for n in range(8)],
            [f"Words {x}." for x in "abcdefgh"],
        ),
        # A number that does not count the pages is content, and so is a line on a few pages.
        ([["4", "Oak."], ["4", "Elm."], ["1", "Fir."]], ["4", "Oak.", "4", "Elm.", "1", "Fir."]),
        ([["See over.", f"Words {x}."] for x in "ab"], ["See over.", "Words a.", "See over.", "Words b."]),
        # Nothing is left out if nothing else would be left.
        ([["Kiln"]] * 4, ["Kiln"] * 4),
    ],
)
def test_running_heads(pages: list[list[str]], expected: list[str]) -> None:
    assert joined(*pages).split() == " ".join(expected).split()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["an exam-", "ple of it"], "an example of it"),
        (["a state-of-the-", "art kiln"], "a state-of-the-art kiln"),
        (["the well-known pot; a well-", "known pot"], "the well-known pot; a well-known pot"),
        (["a coopera-", "tion; our cooperation"], "a cooperation; our cooperation"),
        (["the Rhine-", "Main area"], "the Rhine-Main area"),
        (["pages 3-", "4 and more"], "pages 3-4 and more"),
        (["窯" * 30, "朝に開く"], "窯" * 30 + "朝に開く"),
        (["Adler & Sons", "Kiln Street 9"], "Adler & Sons\nKiln Street 9"),
    ],
)
def test_lines_are_joined_with_care(lines: list[str], expected: str) -> None:
    assert joined(lines) == expected


def test_a_word_over_a_page_break_is_one_word() -> None:
    result = join_pages([[Line("Leave by the emer-")], [Line("gency stairs."), Line("Then wait.", gap=True)]])
    assert result.text == "Leave by the emergency stairs.\n\nThen wait."
    assert result.text[result.page_starts[1] :].startswith("gency")


def test_lists_keep_their_lines() -> None:
    text = joined(["These are the rules that everybody who works here keeps:", "- one", "- two", "1. three"])
    assert text.split("\n")[1:] == ["- one", "- two", "1. three"]


LEFT = ["The gate is locked at nine in the", "evening. The guard keeps the key", "in the safe of the upper room."]
RIGHT = ["Visitors must wear a yellow vest", "and sign the book at the desk. No", "dogs may enter, except guide dogs."]


def side_by_side(canvas: Canvas) -> None:
    canvas.drawString(60, 740, "Rules of the warehouse")
    for number, (left, right) in enumerate(zip(LEFT, RIGHT, strict=True)):
        canvas.drawString(60, 700 - 14 * number, left)
        canvas.drawString(320, 696 - 14 * number, right)


def test_columns_are_read_one_after_the_other(tmp_path: Path) -> None:
    document, _ = read(tmp_path, side_by_side)
    assert document.text.split("\n\n")[1] == "\n".join((" ".join(LEFT), " ".join(RIGHT)))


def test_a_rotated_page_is_read(tmp_path: Path) -> None:
    def rotated(canvas: Canvas) -> None:
        canvas.setPageRotation(90)
        canvas.translate(500, 0)
        canvas.rotate(90)
        side_by_side(canvas)

    document, _ = read(tmp_path, rotated)
    assert document.text.endswith("\n".join((" ".join(LEFT), " ".join(RIGHT))))


def test_rows_of_a_table_stay_rows(tmp_path: Path) -> None:
    def table(canvas: Canvas) -> None:
        for number, row in enumerate([("Part", "Stock", "Price"), ("Seal", "14", "4 EUR"), ("Rotor", "", "90 EUR")]):
            for x, cell in zip((60, 180, 300), row, strict=True):
                canvas.drawString(x, 700 - 16 * number - x / 100, cell)

    document, _ = read(tmp_path, table)
    assert document.text == "| Part | Stock | Price |\n| Seal | 14 | 4 EUR |\n| Rotor |  | 90 EUR |"
    (block,) = document.blocks
    assert (block.start, block.end) == (0, len(document.text))


def test_cells_of_several_lines_stay_together() -> None:
    def cell(x: float, y: float, text: str) -> Segment:
        return Segment(text, x, y, x + 6 * len(text), y + 12, 11.0)

    rows = [
        (0, "The pump makes a loud noise", "Grease both of the bearings"),
        (13, "when it starts in the cold.", "with the blue tube."),
        (40, "The pump does not start after", "Press the red button and wait"),
        (53, "a night without power.", "for ten minutes."),
        (80, "The lamp above it is blinking", "Change the filter of the inlet."),
    ]
    segments = [cell(x, 500 - y, text) for y, *texts in rows for x, text in zip((60, 320), texts, strict=True)]
    assert [line.text for line in page_lines([], segments)] == [
        "| The pump makes a loud noise when it starts in the cold. | Grease both of the bearings with the blue tube. |",
        "| The pump does not start after a night without power. | Press the red button and wait for ten minutes. |",
        "| The lamp above it is blinking | Change the filter of the inlet. |",
    ]


def test_a_drawing_of_many_texts_stays_in_the_order_of_the_file() -> None:
    segments = [Segment(str(number), number, 500 - number, number + 1, 501 - number, 1.0) for number in range(6_000)]
    assert [line.text for line in page_lines([], segments)] == [str(number) for number in range(6_000)]


def test_form_fields_and_comments_are_read(tmp_path: Path) -> None:
    def form(canvas: Canvas) -> None:
        canvas.drawString(60, 700, "Surname:")
        canvas.acroForm.textfield(name="surname", x=160, y=694, width=120, height=20, value="Quillfeather")
        canvas.acroForm.textfield(name="pin", x=160, y=664, width=120, height=20, value="1234", fieldFlags="password")
        canvas.drawString(60, 640, "Licence valid:")
        canvas.acroForm.checkbox(name="valid", x=160, y=636, size=16, checked=True)
        canvas.textAnnotation("Ask for the old licence too.", Rect=[400, 700, 420, 720])

    document, _ = read(tmp_path, form)
    assert document.text.splitlines() == [
        "| Surname: | Quillfeather |",
        "| Licence valid: | [x] |",
        "",
        "Comment: Ask for the old licence too.",
    ]


def test_text_drawn_twice_to_look_bold_is_read_once(tmp_path: Path) -> None:
    def bold(canvas: Canvas) -> None:
        for offset in (0, 0.3, 0.6):
            canvas.drawString(60 + offset, 700, "The gate is locked at nine.")

    assert read(tmp_path, bold)[0].text == "The gate is locked at nine."


def test_text_without_a_usable_encoding_is_no_text(tmp_path: Path) -> None:
    differences = b"/Encoding << /Type /Encoding /Differences [36 /g1 /g2 /g3 65 /g4 /g5 /g6] >>"
    data = pdf_of(b"BT /F1 11 Tf 10 50 Td ($%& ABC) Tj ET", b"", font=b"/BaseFont /ABCDEF+Odd " + differences)
    path = tmp_path / "odd.pdf"
    path.write_bytes(data)
    with pytest.raises(SkippedFileError, match=r"no usable encoding: run text recognition \(OCR\)"):
        parse(path)


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Rules for potters", "Rules for potters"),
        ("Microsoft Word - rules_v3.docx", "The workshop"),
        ("untitled", "The workshop"),
        ("C:\\temp\\out", "The workshop"),
        ("", "The workshop"),
    ],
)
def test_titles_and_headings_by_size(tmp_path: Path, title: str, expected: str) -> None:
    def page(canvas: Canvas) -> None:
        for y, size, text in (
            (780, 22, "The workshop"),
            (740, 11, "It opens at nine."),
            (700, 15, "Glazing"),
            (680, 11, "Glaze is mixed on Mondays, and it is kept in the cellar."),
        ):
            canvas.setFont("Helvetica", size)
            canvas.drawString(60, y, text)

    document, _ = read(tmp_path, page, title=title)
    assert document.title == expected
    assert [(heading.title, heading.level) for heading in document.headings] == [("The workshop", 1), ("Glazing", 2)]
