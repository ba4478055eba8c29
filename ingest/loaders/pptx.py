"""Slides (Office Open XML), converted to HTML."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lxml import etree

from ingest.errors import SkippedFileError
from ingest.loaders.builder import TextBuilder
from ingest.loaders.document import Limits, Notice, ParsedDocument, one_line
from ingest.loaders.file import SourceFile
from ingest.loaders.html_text import render
from ingest.loaders.package import Package, append_table, begins_open_xml, relation_id

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_C = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"
_TITLES = frozenset(("title", "ctrTitle"))
_REPEATED = frozenset(("dt", "ftr", "hdr", "sldNum", "sldImg"))
"""Placeholders that repeat on every slide."""
_MAIN = "ppt/presentation.xml"


class PptxLoader:
    """Slides of PowerPoint."""

    suffixes = (".potx", ".ppsm", ".ppsx", ".pptm", ".pptx")
    binary = True

    def sniff(self, head: bytes) -> bool:
        """Whether it is a package with a part in the folder of PowerPoint."""
        return begins_open_xml(head, "ppt")

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document with a heading per slide: its text, tables, charts, diagrams and notes.

        Hidden slides, slide numbers and footers are left out.
        """
        package = Package(file, limits, "presentation")
        names = {key: name for key, _, name in package.related(_MAIN)}
        builder = TextBuilder(limits)
        first_title, hidden = "", 0
        for number, each in enumerate(package.xml(_MAIN).iter(f"{_P}sldId"), start=1):
            name = names.get(relation_id(each))
            if name is None:
                raise SkippedFileError(f"broken presentation: slide {number} is missing")
            root = package.xml(name)
            if root.get("show") == "0":
                hidden += 1
                continue
            title, body = _slide(package, name, root)
            first_title = first_title or title
            builder.heading(1, f"Slide {number}: {title}" if title else f"Slide {number}")
            render(body, builder)
        values = package.properties("docProps/core.xml")
        title = values.pop("title") or first_title or file.stem
        document = builder.document(file.source, "", title, url=None, date=values.pop("date"), values=values)
        if document is None:
            raise SkippedFileError("holds no text")
        if hidden:
            yield Notice(f"{hidden} hidden slides are left out")
        yield document


def _slide(package: Package, name: str, root: Any) -> tuple[str, Any]:
    """The title of a slide, and its content as HTML."""
    # The same content for older programs.
    for fallback in list(root.iter("{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback")):
        fallback.getparent().remove(fallback)
    body = etree.Element("body")
    related = {key: (kind, target) for key, kind, target in package.related(name)}
    title = ""
    for shape in root.iter(f"{_P}sp", f"{_P}graphicFrame"):
        placeholder = next((each.get("type") or "body" for each in shape.iter(f"{_P}ph")), "")
        if placeholder in _TITLES and not title:
            title = one_line(" ".join(map(_line, shape.iter(f"{_A}p"))))
        elif shape.tag == f"{_P}sp":
            if placeholder not in _REPEATED:
                _append_paragraphs(body, shape, bullets=placeholder in ("body", "obj"))
        elif (table := next(shape.iter(f"{_A}tbl"), None)) is not None:
            _append_table(body, table)
        else:
            _append_graphic(body, shape, package, related)
    for kind, target in related.values():
        if kind == "notesSlide":
            notes = [_line(each) for shape in _note_shapes(package.xml(target)) for each in shape.iter(f"{_A}p")]
            if any(notes):
                etree.SubElement(body, "p").text = "Notes: " + "\n".join(filter(None, notes))
    return title, body


def _note_shapes(root: Any) -> Iterator[Any]:
    for shape in root.iter(f"{_P}sp"):
        if any(each.get("type") == "body" for each in shape.iter(f"{_P}ph")):
            yield shape


def _append_paragraphs(body: Any, shape: Any, *, bullets: bool) -> None:
    """Appends the paragraphs of a shape, as a list with its levels where they have bullets."""
    lists: list[Any] = []
    for paragraph in shape.iter(f"{_A}p"):
        line = _line(paragraph)
        if not line:
            continue
        properties = paragraph.find(f"{_A}pPr")
        level = min(int(properties.get("lvl") or 0), 8) if properties is not None else 0
        marks = [] if properties is None else [each.tag for each in properties]
        bullet = f"{_A}buNone" not in marks and (bullets or f"{_A}buChar" in marks or f"{_A}buAutoNum" in marks)
        if not bullet:
            lists = []
            etree.SubElement(body, "p").text = line
            continue
        del lists[level + 1 :]
        while len(lists) <= level:
            lists.append(etree.SubElement(lists[-1] if lists else body, "ul"))
        etree.SubElement(lists[-1], "li").text = line


def _append_table(body: Any, table: Any) -> None:
    rows = []
    above: dict[int, str] = {}
    for row in table.iter(f"{_A}tr"):
        line = []
        for column, cell in enumerate(row.iter(f"{_A}tc")):
            text = one_line(" ".join(map(_line, cell.iter(f"{_A}p"))), 100_000)
            line.append(above.get(column, "") if cell.get("vMerge") in ("1", "true") else text)
            above[column] = line[-1]
        rows.append(line)
    properties = table.find(f"{_A}tblPr")
    append_table(body, rows, header=properties is not None and properties.get("firstRow") in ("1", "true"))


def _append_graphic(body: Any, shape: Any, package: Package, related: dict[str, tuple[str, str]]) -> None:
    """Appends the words of a diagram, or the values of a chart as a table."""
    for each in shape.iter(f"{_C}chart"):
        kind, target = related.get(relation_id(each), ("", ""))
        if kind == "chart":
            _append_chart(body, package.xml(target))
    for each in shape.iter("{http://schemas.openxmlformats.org/drawingml/2006/diagram}relIds"):
        kind, target = related.get(relation_id(each, "dm"), ("", ""))
        if kind == "diagramData":
            items = etree.SubElement(body, "ul")
            for line in filter(None, map(_line, package.xml(target).iter(f"{_A}p"))):
                etree.SubElement(items, "li").text = line


def _append_chart(body: Any, chart: Any) -> None:
    title = next(chart.iter(f"{_C}title"), None)
    if title is not None:
        etree.SubElement(body, "p").text = " ".join(map(_line, title.iter(f"{_A}p")))
    columns: dict[str, dict[str, str]] = {}
    categories: dict[str, str] = {}
    for series in chart.iter(f"{_C}ser"):
        values = {kind: _points(series.find(f"{_C}{kind}")) for kind in ("tx", "cat", "xVal", "val", "yVal")}
        categories |= values["cat"] or values["xVal"]
        columns[next(iter(values["tx"].values()), f"Series {len(columns) + 1}")] = values["val"] or values["yVal"]
    places = sorted({place for points in (categories, *columns.values()) for place in points}, key=int)
    rows = [[categories.get(place, ""), *(points.get(place, "") for points in columns.values())] for place in places]
    append_table(body, [["", *columns], *rows], header=True)


def _points(element: Any) -> dict[str, str]:
    """The points of a chart's reference, by their index."""
    if element is None:
        return {}
    found = ((point.get("idx") or "", point.findtext(f"{_C}v") or "") for point in element.iter(f"{_C}pt"))
    return {index: text for index, text in found if index.isdecimal()}


def _line(paragraph: Any) -> str:
    """The text of a paragraph, with its line breaks as spaces."""
    words = (each.text or "" if each.tag == f"{_A}t" else " " for each in paragraph.iter(f"{_A}t", f"{_A}br"))
    return " ".join("".join(words).split())


LOADER = PptxLoader()
