"""JCR `.content.xml`: pages exported by Adobe Experience Manager."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lxml import etree

from ingest.errors import SkippedFileError
from ingest.loaders.builder import TextBuilder
from ingest.loaders.document import Limits, Notice, ParsedDocument, one_line
from ingest.loaders.file import XML_DECLARATION, XML_ENCODING, SourceFile
from ingest.loaders.html import render_fragment

_JCR = "{http://www.jcp.org/jcr/1.0}"
_CQ = "{http://www.day.com/jcr/cq/1.0}"
_TEXT_ELEMENTS = ("textonlycomponent", "subtitle")
_BEGINS_JCR = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,200}>\s*)?<jcr:root\b")
_TYPE_PREFIX = re.compile(r"^\{[A-Za-z]{1,20}\}")


class JcrLoader:
    """JCR pages exported by Adobe Experience Manager."""

    suffixes = (".xml",)
    binary = False

    def sniff(self, head: bytes) -> bool:
        """Whether the root element is `jcr:root`."""
        return _BEGINS_JCR.match(head) is not None

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document: the page's subtitle and every text component, in the order of the page."""
        content = _page_content(parse_xml((yield from file.text(limits, XML_ENCODING))))
        title = one_line(content.get("pageTitle") or "")
        if not title:
            raise SkippedFileError("JCR page without a pageTitle")
        builder = TextBuilder(limits)
        builder.paragraph(_TYPE_PREFIX.sub("", content.get("subtitle") or ""))
        for element in content.iter():
            if isinstance(element.tag, str) and etree.QName(element).localname.startswith(_TEXT_ELEMENTS):
                render_fragment(_TYPE_PREFIX.sub("", element.get("textOnly") or ""), builder)
        values = {
            "content_type": content.get("contentType"),
            "description": content.get("metaDescription"),
            "tags": (content.get(f"{_CQ}tags") or "").strip("[]").replace(",", ", "),
            "lang": content.get(f"{_JCR}language"),
        }
        date = content.get("displayDate") or ""
        document = builder.document(file.source, "", title, url=None, values=values, date=date)
        if document is None:
            raise SkippedFileError("JCR page without text")
        yield document


def parse_xml(text: str) -> Any:
    """The root element. Raises SkippedFileError if the XML is invalid or has a DOCTYPE, which may define entities."""
    text = XML_DECLARATION.sub("", text, count=1)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise SkippedFileError("XML with a document type declaration: refused, it may define entities")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True, remove_pis=True, encoding="utf-8"
    )
    try:
        return etree.fromstring(text.encode("utf-8", "replace"), parser=parser)
    except etree.XMLSyntaxError as error:
        raise SkippedFileError(f"invalid XML: {one_line(str(error), 200)}") from error


def _page_content(root: Any) -> Any:
    if root.tag != f"{_JCR}root":
        name = etree.QName(root).localname
        raise SkippedFileError(f"unsupported XML: the root element is {name!r}, not jcr:root")
    content = root.find(f"{_JCR}content")
    if content is None:
        raise SkippedFileError("JCR node without jcr:content: a folder, not a page")
    return content


LOADER = JcrLoader()
