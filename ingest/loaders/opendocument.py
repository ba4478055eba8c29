"""Documents and slides of LibreOffice (OpenDocument), converted to HTML."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lxml import etree

from ingest.errors import SkippedFileError
from ingest.loaders.builder import TextBuilder
from ingest.loaders.document import Limits, Notice, ParsedDocument
from ingest.loaders.file import SourceFile
from ingest.loaders.html_text import render
from ingest.loaders.package import Package, begins_with_type, distinct_lines

_TYPE = "application/vnd.oasis.opendocument."
_DRAW = "{urn:oasis:names:tc:opendocument:xmlns:drawing:1.0}"
_OFFICE = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"
_PRESENTATION = "{urn:oasis:names:tc:opendocument:xmlns:presentation:1.0}"
_STYLE = "{urn:oasis:names:tc:opendocument:xmlns:style:1.0}"
_TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
_TEXT = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
_MANIFEST = "META-INF/manifest.xml"
_LEFT_OUT = frozenset(
    (
        *(f"{_OFFICE}{name}" for name in ("annotation", "annotation-end", "binary-data", "forms", "scripts")),
        *(f"{_TEXT}{name}" for name in ("note-citation", "sequence-decls", "table-of-content", "tracked-changes")),
        *(f"{_TABLE}covered-table-cell", f"{_PRESENTATION}notes"),
    )
)
_TAGS = {
    f"{_TEXT}line-break": "br",
    f"{_TEXT}list-header": "li",
    f"{_TEXT}list-item": "li",
    f"{_TEXT}p": "p",
    f"{_TABLE}table": "table",
    f"{_TABLE}table-row": "tr",
    f"{_DRAW}text-box": "div",
}
_MOST_REPEATS = 1_000


class OpenDocumentLoader:
    """Documents and slides of LibreOffice."""

    suffixes = (".odp", ".odt", ".otp", ".ott")
    binary = True

    def sniff(self, head: bytes) -> bool:
        """Whether it is a package of one of these types."""
        return begins_with_type(head, f"{_TYPE}text") or begins_with_type(head, f"{_TYPE}presentation")

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document: page headers once, the text, its notes, page footers once; of slides a heading for each.

        Deleted text, comments, tables of contents and macros are left out.
        """
        package = Package(file, limits, "OpenDocument file")
        if _MANIFEST in package.names and b"encryption-data" in package.read(_MANIFEST):
            raise SkippedFileError("encrypted: needs a password")
        builder = TextBuilder(limits)
        headers, footers = _headers_and_footers(package)
        builder.paragraph("\n".join(headers))
        content = _Content(package.xml("content.xml"))
        render(content.body, builder)
        builder.paragraph("\n".join(footers))
        values = package.properties("meta.xml")
        title = values.pop("title") or content.first_slide or builder.first_heading or file.stem
        document = builder.document(file.source, "", title, url=None, date=values.pop("date"), values=values)
        if document is None:
            raise SkippedFileError("holds no text")
        yield document


class _Content:
    """The body of a document as HTML."""

    def __init__(self, root: Any) -> None:
        self.body = etree.Element("body")
        self.first_slide = ""
        """Title of the first slide that has one."""
        self._slides = 0
        self._notes = etree.Element("ol")
        self._numbered = {
            style.get(f"{_STYLE}name")
            for style in root.iter(f"{_TEXT}list-style")
            if next(style.iterchildren(etree.Element), style).tag == f"{_TEXT}list-level-style-number"
        }
        for body in root.iter(f"{_OFFICE}body"):
            self._fill(self.body, body)
        if len(self._notes):
            self.body.append(self._notes)

    def _fill(self, target: Any, element: Any) -> None:
        """Appends the content of an element."""
        _append_text(target, element.text)
        for child in element:
            if child.tag not in _LEFT_OUT:
                self._add(target, child)
            _append_text(target, child.tail)

    def _add(self, target: Any, element: Any) -> None:
        tag = element.tag
        if tag in _TAGS:
            self._fill(etree.SubElement(target, _TAGS[tag]), element)
        elif tag == f"{_TEXT}h":
            level = _number(element, f"{_TEXT}outline-level", 6)
            self._fill(etree.SubElement(target, f"h{level}"), element)
        elif tag in (f"{_TEXT}s", f"{_TEXT}tab"):
            _append_text(target, " ")
        elif tag == f"{_TEXT}list":
            outer = target.getparent() if target.tag == "li" else None
            numbered = element.get(f"{_TEXT}style-name") in self._numbered or (outer is not None and outer.tag == "ol")
            self._fill(etree.SubElement(target, "ol" if numbered else "ul"), element)
        elif tag == f"{_TEXT}note":
            self._fill(etree.SubElement(self._notes, "li"), element)
        elif tag == f"{_TABLE}table-cell":
            self._add_cell(target, element)
        elif tag == f"{_DRAW}page":
            self._add_slide(target, element)
        else:
            self._fill(target, element)

    def _add_cell(self, target: Any, element: Any) -> None:
        header = any(parent.tag == f"{_TABLE}table-header-rows" for parent in element.iterancestors())
        for _ in range(_number(element, f"{_TABLE}number-columns-repeated", _MOST_REPEATS)):
            cell = etree.SubElement(target, "th" if header else "td")
            for name, attribute in (("colspan", "number-columns-spanned"), ("rowspan", "number-rows-spanned")):
                cell.set(name, str(_number(element, f"{_TABLE}{attribute}", _MOST_REPEATS)))
            self._fill(cell, element)

    def _add_slide(self, target: Any, element: Any) -> None:
        self._slides += 1
        title = ""
        for frame in list(element.iter(f"{_DRAW}frame")):
            if frame.get(f"{_PRESENTATION}class") == "title" and not title:
                title = " ".join("".join(frame.itertext()).split())
                frame.getparent().remove(frame)
        self.first_slide = self.first_slide or title
        etree.SubElement(target, "h1").text = f"Slide {self._slides}: {title}" if title else f"Slide {self._slides}"
        self._fill(target, element)
        for notes in element.iter(f"{_PRESENTATION}notes"):
            if "".join(notes.itertext()).strip():
                paragraph = etree.SubElement(target, "p")
                paragraph.text = "Notes: " + " ".join(" ".join(notes.itertext()).split())


def _headers_and_footers(package: Package) -> tuple[list[str], list[str]]:
    """The different lines of all page headers and of all page footers, without page numbers."""
    if "styles.xml" not in package.names:
        return [], []
    root = package.xml("styles.xml")
    headers, footers = (
        distinct_lines(
            "".join(line.itertext()) for part in root.iter(f"{_STYLE}{name}") for line in part.iter(f"{_TEXT}p")
        )
        for name in ("header", "footer")
    )
    return headers, footers


def _append_text(target: Any, text: str | None) -> None:
    if text and len(target):
        target[-1].tail = (target[-1].tail or "") + text
    elif text:
        target.text = (target.text or "") + text


def _number(element: Any, name: str, most: int) -> int:
    text = element.get(name) or ""
    return max(1, min(int(text), most)) if text.isascii() and text.isdigit() else 1


LOADER = OpenDocumentLoader()
