"""XML: DocBook, DITA, JATS and TEI by their structure, other XML as the texts of its elements, in order."""

from __future__ import annotations

import html.entities
import re
from collections.abc import Iterator
from typing import Any

from lxml import etree

from ingest.errors import SkippedFileError
from ingest.loaders.builder import TextBuilder
from ingest.loaders.document import Limits, Notice, ParsedDocument, check_length, one_line
from ingest.loaders.file import XML_DECLARATION, XML_ENCODING, SourceFile
from ingest.loaders.html import LOADER as HTML
from ingest.loaders.html import looks_like_html, parse_html
from ingest.loaders.html_content import remove_invisible
from ingest.loaders.html_text import render
from ingest.loaders.jcr import JCR_ROOT, jcr_page

_BEGINS = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,200}>\s*)?(?:<!DOCTYPE[^>\[]{0,300}>\s*)?"
    rb"<(?:jcr:root|article|book|chapter|topic|concept|task|dita|rss|feed|TEI)\b"
)
_DOCTYPE = re.compile(r"<!DOCTYPE[^\[<>]{0,1000}>")
_ENTITY = re.compile(r"&([A-Za-z]\w{0,30};)")

_HTML_NAMES = {
    "br": "br lb sbr",
    "dd": "dd glossdef pd",
    "dl": "dl glosslist parml variablelist",
    "dt": "dt glossterm pt term",
    "li": "choice item li list-item listitem member step substep",
    "ol": "ol orderedlist procedure steps substeps",
    "p": "ab alt caption cmd formalpara p para phrase seg shortdesc simpara",
    "pre": "codeblock literallayout msgblock pre preformat programlisting screen synopsis",
    "q": "q quote",
    "sub": "sub subscript",
    "sup": "sup superscript",
    "table": "informaltable properties simpletable table",
    "td": "cell entry propdesc proptype propvalue stentry td",
    "th": "th",
    "thead": "thead",
    "tr": "prophead property row sthead strow tr",
    "ul": "choices itemizedlist list simplelist steps-unordered ul",
}
_HTML = {name: tag for tag, names in _HTML_NAMES.items() for name in names.split()}
"""Names of DocBook, DITA, JATS and TEI → HTML element."""
_SECTIONS = frozenset(
    """
    appendix article book chapter concept div div1 div2 div3 part preface refsect1 refsect2 refsect3 refsection
    reference sec sect1 sect2 sect3 sect4 sect5 section task topic troubleshooting
    """.split()  # noqa: SIM905
)
_TITLES = frozenset(("article-title", "head", "title"))
_AROUND_TITLES = frozenset(("article-meta", "articleinfo", "bookinfo", "front", "info", "title-group", "titleStmt"))
_NOTES = frozenset(("caution", "danger", "fn", "footnote", "important", "note", "tip", "warning"))
_BOXES = frozenset(("biblioentry", "bibliomixed", "blockquote", "equation", "example", "fig", "figure", "table-wrap"))
"""Their titles are captions."""
_UNSEEN = frozenset(("colspec", "indexterm", "spanspec"))
_POINTERS = frozenset("anchor graphic image imagedata link pb ptr ref xref".split())  # noqa: SIM905
"""Their attributes are not shown."""


class XmlLoader:
    """XML."""

    suffixes = (".dbk", ".dita", ".docbook", ".xml")
    binary = False

    def sniff(self, head: bytes) -> bool:
        """Whether the root element is that of a document or feed."""
        return _BEGINS.match(head) is not None

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document, whose title is its first heading."""
        text = yield from file.text(limits, XML_ENCODING)
        check_length(len(text), limits)
        root = parse_xml(text)
        name = etree.QName(root).localname
        if name == "html":
            yield from HTML.load(file, limits)
            return
        if root.tag == JCR_ROOT:
            yield jcr_page(file, root, limits)
            return
        if included := [each.get("href") or "" for each in root.iter("{http://www.w3.org/2001/XInclude}include")]:
            yield Notice(one_line(f"the files that it includes are not read with it: {', '.join(included)}"))
        values = {"lang": root.get("{http://www.w3.org/XML/1998/namespace}lang")}
        _to_html(root)
        builder = TextBuilder(limits)
        render(root, builder)
        document = builder.document(
            file.source, "", builder.first_heading or file.stem, url=None, values=values, date=""
        )
        if document is None:
            raise SkippedFileError(f"holds no text: the root element is {name!r}")
        yield document


def parse_xml(text: str) -> Any:
    """The root element.

    Neither document types nor external entities are loaded. Raises SkippedFileError if the XML is invalid or may define
    entities of its own.
    """
    text = _DOCTYPE.sub("", XML_DECLARATION.sub("", text, count=1), count=1)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise SkippedFileError("XML with a document type declaration: refused, it may define entities")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True, remove_pis=True, encoding="utf-8"
    )
    try:
        return etree.fromstring(_ENTITY.sub(_character, text).encode("utf-8", "replace"), parser=parser)
    except etree.XMLSyntaxError as error:
        raise SkippedFileError(f"invalid XML: {one_line(error.msg, 200)}") from error


def _character(match: re.Match[str]) -> str:
    """The character of an entity that document types of HTML and DocBook define."""
    character = html.entities.html5.get(match[1], "")
    return match[0] if character in ("", "&", "<", ">", '"', "'") else character


def _to_html(root: Any) -> None:
    """Renames the elements to those of HTML."""
    stack = [(root, "", 0, False)]
    while stack:
        element, place, level, inline = stack.pop()
        name = etree.QName(element).localname
        children = list(element.iterchildren(etree.Element))
        values = {etree.QName(key).localname: value for key, value in element.items()}
        element.attrib.clear()
        has_text = any((text or "").strip() for text in (element.text, *(child.tail for child in children)))
        tag = _HTML.get(name, "")
        if name in _UNSEEN:
            tail = element.tail
            element.clear()
            element.tag, element.tail = "span", tail
            continue
        if place == "footnote" or (inline and not tag):
            tag = "span"
            if inline and name in _NOTES:
                place = "footnote"
                element.text, element.tail = f" ({(element.text or '').lstrip()}", f"){element.tail or ''}"
        elif name in _TITLES:
            tag = {"section": f"h{min(max(level, 1), 6)}", "table": "caption"}.get(place, "p")
            if place == "note":
                element.set("class", "admonition-title")
            inline = True
        elif name in _NOTES:
            tag, place = "aside", "note"
            if not any(etree.QName(child).localname in _TITLES for child in children):
                title = etree.Element("p", {"class": "admonition-title"})
                title.text, title.tail, element.text = (values.get("type") or name).capitalize(), element.text, None
                element.insert(0, title)
        elif name in _AROUND_TITLES:
            tag = "div"
        elif name in _SECTIONS or (_is_titled(children) and name not in _BOXES and tag in ("", "li", "td")):
            tag, place, level = "div", "section", level + 1
        else:
            place = "table" if tag == "table" else ""
        if not tag:
            tag = "p" if has_text else "div"
            if not children:
                tag = _write_leaf(element, name, values)
        _set_attributes(element, tag, values)
        element.tag = tag
        inline = inline or tag in ("dt", "p", "pre", "th") or (has_text and tag in ("dd", "li", "td"))
        stack += [(child, place, level, inline) for child in children]


def _is_titled(children: list[Any]) -> bool:
    return any(etree.QName(child).localname == "title" for child in children)


def _write_leaf(element: Any, name: str, values: dict[str, str]) -> str:
    """Puts its name before the text of an unknown element, else before its attributes. Returns the HTML element."""
    text = (element.text or "").strip()
    if looks_like_html(text) and (fragment := parse_html(text)) is not None:
        remove_invisible(fragment)
        element.text = None
        element.append(fragment)
        return "div"
    if not text and name not in _POINTERS:
        text = ", ".join(f"{key} {value}" for key, value in values.items() if value.strip())
    element.text = f"{name}: {text}" if text else ""
    following = element.getnext()
    if text and following is not None and not len(following) and etree.QName(following).localname not in _HTML:
        element.tail = "; "
    return "span"


def _set_attributes(element: Any, tag: str, values: dict[str, str]) -> None:
    """Sets the attributes of HTML that structure the text."""
    language = values.get("language") or values.get("outputclass") or ""
    if tag == "pre" and language:
        element.set("class", f"language-{language.removeprefix('language-')}")
    if tag in ("td", "th"):
        rows = values.get("morerows", "")
        spans = {"rowspan": str(int(rows) + 1)} if rows.isascii() and rows.isdigit() else {}
        for key, value in ({"rowspan": values.get("rowspan"), "colspan": values.get("colspan")} | spans).items():
            if value:
                element.set(key, value)


LOADER = XmlLoader()
