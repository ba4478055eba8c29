"""Word documents (Office Open XML), converted to HTML."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import mammoth
from lxml import etree

from ingest.errors import SkippedFileError
from ingest.loaders.builder import TextBuilder
from ingest.loaders.csv import is_header
from ingest.loaders.document import Limits, Notice, ParsedDocument, one_line
from ingest.loaders.file import SourceFile
from ingest.loaders.html import parse_html
from ingest.loaders.html_text import render
from ingest.loaders.package import Package, begins_open_xml, check_no_entities, distinct_lines

_WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_MATH = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_HEADER_OR_FOOTER = re.compile(r"word/(header|footer)\d*\.xml")
_STYLES = """
p[style-name='Title'] => h1:fresh
p[style-name='Subtitle'] => p:fresh
p[style-name='Heading 7'] => h6:fresh
p[style-name='Heading 8'] => h6:fresh
p[style-name='Heading 9'] => h6:fresh
"""


class DocxLoader:
    """Word documents."""

    suffixes = (".docm", ".docx", ".dotm", ".dotx")
    binary = True

    def sniff(self, head: bytes) -> bool:
        """Whether it is a package with a part in the folder of Word."""
        return begins_open_xml(head, "word")

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document: page headers once, the text with lists, tables, text boxes and notes, page footers once.

        Deleted text, comments and macros are left out.
        """
        package = Package(file, limits, "Word document")
        headers, footers = _headers_and_footers(package)
        builder = TextBuilder(limits)
        builder.paragraph("\n".join(headers))
        root = parse_html(_as_html(package))
        if root is not None:
            _prepare(root)
            render(root, builder)
        builder.paragraph("\n".join(footers))
        values = package.properties("docProps/core.xml")
        title = values.pop("title") or builder.first_heading or file.stem
        document = builder.document(file.source, "", title, url=None, date=values.pop("date"), values=values)
        if document is None:
            raise SkippedFileError("holds no text")
        yield document


def _as_html(package: Package) -> str:
    for name in package.names:
        if name.endswith((".xml", ".rels")):
            check_no_entities(package.read(name))
    try:
        converted = mammoth.convert_to_html(
            io.BytesIO(_with_formulas(package)),
            style_map=_STYLES,
            convert_image=mammoth.images.img_element(lambda image: {}),
        )
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # mammoth has no base of its errors; those of damaged parts have any type
        raise SkippedFileError(f"broken Word document: {one_line(str(error), 200)}") from error
    return str(converted.value)


def _with_formulas(package: Package) -> bytes:
    """The document with its formulas as text, which mammoth would drop."""
    main = "word/document.xml"
    if main not in package.names or _MATH[1:-1].encode() not in (data := package.read(main)) or b":oMath" not in data:
        return package.data
    root = package.xml(main)
    for formula in list(root.iter(f"{_MATH}oMath")):
        run = etree.Element(f"{_WORD}r")
        text = etree.SubElement(run, f"{_WORD}t")
        text.text = f" {''.join(part.text or '' for part in formula.iter(f'{_MATH}t'))} "
        formula.getparent().replace(formula, run)
    for paragraph in list(root.iter(f"{_MATH}oMathPara")):
        paragraph.tag = f"{_WORD}p" if paragraph.getparent().tag != f"{_WORD}p" else f"{_WORD}smartTag"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in package.names:
            archive.writestr(name, etree.tostring(root) if name == main else package.read(name))
    return packed.getvalue()


def _headers_and_footers(package: Package) -> tuple[list[str], list[str]]:
    """The different lines of all page headers and of all page footers, without page numbers."""
    lines: dict[str, list[str]] = {"header": [], "footer": []}
    for name in sorted(package.names):
        if match := _HEADER_OR_FOOTER.fullmatch(name):
            for paragraph in package.xml(name).iter(f"{_WORD}p"):
                lines[match[1]].append("".join(_run_text(each) for each in paragraph.iter(etree.Element)))
    return distinct_lines(lines["header"]), distinct_lines(lines["footer"])


def _run_text(element: Any) -> str:
    if element.tag == f"{_WORD}t":
        return element.text or ""
    return " " if element.tag in (f"{_WORD}tab", f"{_WORD}br", f"{_WORD}ptab") else ""


def _prepare(root: Any) -> None:
    """Names the columns of tables, and removes the links from notes back to the text."""
    for link in list(root.iter("a")):
        if (link.get("href") or "").startswith(("#footnote-ref-", "#endnote-ref-")):
            link.drop_tree()
    for table in root.iter("table"):
        rows = list(table.iter("tr"))
        texts = [[one_line(cell.text_content()) for cell in row] for row in rows[:50]]
        if len(rows) > 1 and next(table.iter("th"), None) is None and is_header(texts):
            for cell in rows[0]:
                cell.tag = "th"


LOADER = DocxLoader()
