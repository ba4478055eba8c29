"""PDF: the text layer of every page in reading order, with form fields, comments, tables and headings."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pypdfium2
from pypdfium2 import raw

from ingest.errors import SkippedFileError
from ingest.loaders.dates import date_metadata
from ingest.loaders.document import (
    Heading,
    Limits,
    Notice,
    ParsedDocument,
    as_metadata,
    check_length,
    one_line,
    real_title,
)
from ingest.loaders.file import SourceFile
from ingest.loaders.pdf_layout import Line, Segment, page_lines
from ingest.loaders.pdf_text import PagesText, join_pages

_HEADER_WITHIN = 1_024
_MAX_OUTLINE = 2_000
_MAX_FIELD_CHARS = 20_000
_UNREADABLE_SHARE = 0.3
"""Maximum share of characters that have no Unicode mapping, for a page to count as readable."""
_HIDDEN = raw.FPDF_ANNOT_FLAG_HIDDEN | raw.FPDF_ANNOT_FLAG_NOVIEW
_COMMENTS = (
    *(raw.FPDF_ANNOT_TEXT, raw.FPDF_ANNOT_FREETEXT, raw.FPDF_ANNOT_HIGHLIGHT, raw.FPDF_ANNOT_UNDERLINE),
    *(raw.FPDF_ANNOT_STRIKEOUT, raw.FPDF_ANNOT_SQUIGGLY, raw.FPDF_ANNOT_CARET, raw.FPDF_ANNOT_STAMP),
    *(raw.FPDF_ANNOT_SQUARE, raw.FPDF_ANNOT_CIRCLE, raw.FPDF_ANNOT_LINE, raw.FPDF_ANNOT_INK),
)
"""Annotations with a text for readers."""


class PdfLoader:
    """PDF: the text layer."""

    suffixes = (".pdf",)
    binary = True

    def sniff(self, head: bytes) -> bool:
        """Whether the header is within the first kilobyte, where readers look for it."""
        return b"%PDF-" in head[:_HEADER_WITHIN]

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document, with the offset of each page."""
        data = file.read(limits)
        if not self.sniff(data):
            raise SkippedFileError("not a PDF: no %PDF- header")
        try:
            document = pypdfium2.PdfDocument(data)
        except pypdfium2.PdfiumError as error:
            if error.err_code in (raw.FPDF_ERR_PASSWORD, raw.FPDF_ERR_SECURITY):
                raise SkippedFileError("encrypted: needs a password") from error
            raise SkippedFileError(f"broken PDF: {one_line(str(error), 160)}") from error
        try:
            yield from self._load(document, file, limits)
        finally:
            document.close()

    def _load(
        self, document: pypdfium2.PdfDocument, file: SourceFile, limits: Limits
    ) -> Iterator[ParsedDocument | Notice]:
        count = len(document)
        if count > limits.max_pages:
            raise SkippedFileError(f"{count:,} pages, more than {limits.max_pages:,} (INGEST_MAX_PAGES)")
        if document.get_formtype() != raw.FORMTYPE_NONE:
            document.init_forms()
        pages: list[list[Line]] = []
        broken: list[int] = []
        unreadable: list[int] = []
        chars = 0
        for number in range(count):
            lines: list[Line] = []
            try:
                lines = _lines(document[number], limits.max_text_chars - chars)
            except pypdfium2.PdfiumError:
                broken.append(number + 1)
            except UnicodeError:
                unreadable.append(number + 1)
            chars += sum(len(line.text) for line in lines)
            check_length(chars, limits)
            pages.append(lines)
        if len(broken) == count:
            raise SkippedFileError("broken PDF: no page can be read")
        joined = join_pages(pages)
        if not joined.text and unreadable:
            raise SkippedFileError(
                "its text has no usable encoding: run text recognition (OCR) on it, or export it again with its fonts"
            )
        if not joined.text:
            raise SkippedFileError("holds no text: scanned pages? Run text recognition (OCR) on it first")
        yield from _notices(pages, broken, unreadable, joined)
        headings = _outline_headings(document, joined) or joined.headings
        information = document.get_metadata_dict(skip_empty=True)
        yield ParsedDocument(
            source=file.source,
            key="",
            text=joined.text,
            title=_title(information.get("Title", ""), (*joined.headings, *headings)) or file.stem,
            metadata=as_metadata(
                {"author": information.get("Author"), "subject": information.get("Subject"), "pages": count}
            )
            | date_metadata(information.get("CreationDate", "")),
            headings=headings,
            blocks=joined.blocks,
            page_starts=joined.page_starts,
        )


def _lines(page: pypdfium2.PdfPage, max_chars: int) -> list[Line]:
    """The lines of a page. Raises UnicodeError if its characters have no usable encoding."""
    glyphs = _glyphs(page.get_textpage(), max_chars)
    fields, comments = _annotations(page)
    upright = max(glyphs, key=lambda turn: len(glyphs[turn]))
    lines = page_lines(glyphs.pop(upright), fields if upright == 0 else ())
    for turned in glyphs.values():
        lines += page_lines(turned)
    if upright != 0:
        lines += page_lines((), fields)
    return [*lines, *(Line(f"Comment: {comment}", gap=True) for comment in comments)]


def _glyphs(text: pypdfium2.PdfTextPage, max_chars: int) -> dict[int, list[Segment]]:
    """The characters by their direction in quarter turns, rotated upright."""
    glyphs: dict[int, list[Segment]] = {0: []}
    box = raw.FS_RECTF()
    count = text.count_chars()
    if count > max_chars:
        raise SkippedFileError("its text is longer than the limit of a document (INGEST_MAX_TEXT_CHARS): split it")
    unknown = 0
    turn = 0
    for index in range(count):
        code = raw.FPDFText_GetUnicode(text, index)
        character = "-" if code == _PDFIUM_HYPHEN else chr(code)
        if character.isspace():
            glyphs[turn].append(Segment(" " if character not in "\r\n" else "\n", 0, 0, 0, 0, 0))
            continue
        unknown += 0xE000 <= code <= 0xF8FF or code in (0, 0xFFFD) or raw.FPDFText_HasUnicodeMapError(text, index) > 0
        raw.FPDFText_GetLooseCharBox(text, index, box)
        turn = round(raw.FPDFText_GetCharAngle(text, index) / (math.pi / 2)) % 4
        x0, y0, x1, y1 = box.left, box.bottom, box.right, box.top
        if turn == 1:
            x0, y0, x1, y1 = -y1, x0, -y0, x1
        elif turn == 2:
            x0, y0, x1, y1 = -x1, -y1, -x0, -y0
        elif turn == 3:
            x0, y0, x1, y1 = y0, -x1, y1, -x0
        glyphs.setdefault(turn, []).append(Segment(character, x0, y0, x1, y1, raw.FPDFText_GetFontSize(text, index)))
    letters = sum(1 for each in glyphs.values() for glyph in each if glyph.size)
    if unknown > letters * _UNREADABLE_SHARE:
        raise UnicodeError
    return glyphs


_PDFIUM_HYPHEN = 2
"""Code that PDFium returns for a hyphen at the end of a line."""


def _annotations(page: pypdfium2.PdfPage) -> tuple[list[Segment], list[str]]:
    """Values of form fields with their boxes, and the texts of comments."""
    fields: list[Segment] = []
    comments: list[str] = []
    form = page.formenv
    for index in range(raw.FPDFPage_GetAnnotCount(page)):
        annotation = raw.FPDFPage_GetAnnot(page, index)
        if not annotation:
            continue
        try:
            kind = raw.FPDFAnnot_GetSubtype(annotation)
            if raw.FPDFAnnot_GetFlags(annotation) & _HIDDEN:
                continue
            if kind == raw.FPDF_ANNOT_WIDGET and form is not None:
                fields += _field(form, annotation)
            elif kind in _COMMENTS and (comment := one_line(_string(annotation, b"Contents"), _MAX_FIELD_CHARS)):
                comments.append(comment)
        finally:
            raw.FPDFPage_CloseAnnot(annotation)
    return fields, comments


def _field(form: Any, annotation: Any) -> Iterator[Segment]:
    kind = raw.FPDFAnnot_GetFormFieldType(form, annotation)
    if kind in (raw.FPDF_FORMFIELD_CHECKBOX, raw.FPDF_FORMFIELD_RADIOBUTTON):
        value = "[x]" if raw.FPDFAnnot_IsChecked(form, annotation) else "[ ]"
    elif kind in (raw.FPDF_FORMFIELD_TEXTFIELD, raw.FPDF_FORMFIELD_COMBOBOX, raw.FPDF_FORMFIELD_LISTBOX):
        if raw.FPDFAnnot_GetFormFieldFlags(form, annotation) & raw.FPDF_FORMFLAG_TEXT_PASSWORD:
            return
        value = _utf16(lambda buffer, size: raw.FPDFAnnot_GetFormFieldValue(form, annotation, buffer, size))
    else:
        return
    box = raw.FS_RECTF()
    raw.FPDFAnnot_GetRect(annotation, box)
    lines = [line.strip() for line in value.splitlines() if line.strip()]
    height = (box.top - box.bottom) / max(len(lines), 1)
    for number, line in enumerate(lines):
        top = box.top - number * height
        yield Segment(line, box.left, top - height, box.right, top, 0.0)


def _string(annotation: Any, key: bytes) -> str:
    return _utf16(lambda buffer, size: raw.FPDFAnnot_GetStringValue(annotation, key, buffer, size))


def _utf16(get: Any) -> str:
    """The string that a PDFium function writes. `get` takes a buffer and its size, and returns the size it needs."""
    size = min(get(None, 0), _MAX_FIELD_CHARS * 2)
    buffer = ctypes.create_string_buffer(size)
    get(ctypes.cast(buffer, ctypes.POINTER(raw.FPDF_WCHAR)), size)
    return buffer.raw.decode("utf-16-le", "replace").split("\0", 1)[0]


def _notices(
    pages: Sequence[Sequence[Line]], broken: Sequence[int], unreadable: Sequence[int], joined: PagesText
) -> Iterator[Notice]:
    empty = [
        number
        for number, lines in enumerate(pages, start=1)
        if not lines and number not in broken and number not in unreadable
    ]
    for numbers, problem in (
        (broken, "cannot be read"),
        (unreadable, "left out: the text has no usable encoding, run text recognition (OCR)"),
        (empty, "hold no text: scanned pages? Run text recognition (OCR)"),
    ):
        if numbers:
            which = ", ".join(map(str, numbers[:10])) + (", …" if len(numbers) > 10 else "")
            yield Notice(f"{len(numbers)} of {len(pages)} pages {problem} (page {which})")
    if joined.removed:
        shown = "; ".join(one_line(text, 80) for text in joined.removed[:5])
        yield Notice(f"running lines left out: {shown}{'; …' if len(joined.removed) > 5 else ''}")


def _title(title: str, headings: Sequence[Heading]) -> str:
    """The title in the metadata if it is useful, else the first heading of level 1; empty if there is neither."""
    return real_title(title) or next((heading.title for heading in headings if heading.level == 1), "")


def _outline_headings(document: pypdfium2.PdfDocument, joined: PagesText) -> tuple[Heading, ...]:
    """The entries of the outline whose titles are on the page that they point to."""
    found: list[Heading] = []
    text, page_starts = joined.text, joined.page_starts
    try:
        for seen, entry in enumerate(document.get_toc(max_depth=8)):
            if seen >= _MAX_OUTLINE:
                break
            destination = entry.get_dest()
            page = destination.get_index() if destination is not None else None
            title = one_line(entry.get_title())
            if not title or page is None or not 0 <= page < len(page_starts):
                continue
            begin = max(page_starts[page], found[-1].end if found else 0)
            end = page_starts[page + 1] if page + 1 < len(page_starts) else len(text)
            match = re.compile(r"\s+".join(map(re.escape, title.split()[:30]))).search(text, begin, max(begin, end))
            if match is not None:
                found.append(Heading(match.start(), match.end(), entry.level + 1, title))
    except pypdfium2.PdfiumError:
        # Use the text without an outline that is broken.
        return ()
    return tuple(found)


LOADER = PdfLoader()
