"""JCR `.content.xml`: pages as Adobe Experience Manager exports them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lxml import etree

from ingest.errors import SkippedFileError
from ingest.loaders.dates import date_metadata
from ingest.loaders.document import (
    MetadataValue,
    Notice,
    ParsedDocument,
    ParserLimits,
    TextBuilder,
    as_metadata,
    one_line,
)
from ingest.loaders.file import SourceFile, decode
from ingest.loaders.html import render_fragment

_JCR = "{http://www.jcp.org/jcr/1.0}"
_CQ = "{http://www.day.com/jcr/cq/1.0}"
_TEXT_ELEMENTS = ("textonlycomponent", "subtitle")
_DECLARATION = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9_.:-]{1,40})["']""")
_DECLARATION_TEXT = re.compile(r"^\s*<\?xml[^>]{0,300}\?>")
_BEGINS_JCR = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,200}>\s*)?<jcr:root\b")
_TYPE_PREFIX = re.compile(r"^\{[A-Za-z]{1,20}\}")


class JcrLoader:
    """JCR pages, as Adobe Experience Manager exports them."""

    suffixes = (".xml",)
    binary = False

    def sniff(self, head: bytes) -> bool:
        """Whether the root element is `jcr:root`."""
        return _BEGINS_JCR.match(head) is not None

    def load(self, file: SourceFile, limits: ParserLimits) -> Iterator[ParsedDocument | Notice]:
        """One document: the page's subtitle and every text component, in the order of the page.

        Raises:
            SkippedFileError: the file is no well-formed XML, defines entities, is no page, or is a page without a title
                or without text.
        """
        data = file.read(limits)
        declared = _DECLARATION.search(data[:400])
        decoded = decode(data, declared[1].decode("ascii") if declared else None)
        if decoded.notice is not None:
            yield decoded.notice
        content = _page_content(parse_xml(decoded.text))
        title = one_line(content.get("pageTitle") or "")
        if not title:
            raise SkippedFileError("JCR page without a pageTitle")
        builder = TextBuilder(limits)
        builder.paragraph(_TYPE_PREFIX.sub("", content.get("subtitle") or ""))
        for element in content.iter():
            if isinstance(element.tag, str) and etree.QName(element).localname.startswith(_TEXT_ELEMENTS):
                render_fragment(_TYPE_PREFIX.sub("", element.get("textOnly") or ""), builder)
        text, headings, blocks = builder.build()
        if not text:
            raise SkippedFileError("JCR page without text")
        metadata: dict[str, MetadataValue] = as_metadata(
            {
                "content_type": content.get("contentType") or "",
                "description": content.get("metaDescription") or "",
                "tags": (content.get(f"{_CQ}tags") or "").strip("[]").replace(",", ", "),
                "lang": content.get(f"{_JCR}language") or "",
            }
        )
        yield ParsedDocument(
            source=file.source,
            key="",
            text=text,
            title=title,
            metadata=metadata | date_metadata(content.get("displayDate") or ""),
            headings=headings,
            blocks=blocks,
        )


def parse_xml(text: str) -> Any:
    """The root element. Document types, and with them entities of the file's own, are refused unread.

    Raises:
        SkippedFileError: the text declares a document type, or is no well-formed XML.
    """
    text = _DECLARATION_TEXT.sub("", text, count=1)
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
        raise SkippedFileError(f"XML of a kind that is not read: root element {name!r}, wanted jcr:root")
    content = root.find(f"{_JCR}content")
    if content is None:
        raise SkippedFileError("JCR node without jcr:content: a folder, not a page")
    return content


LOADER = JcrLoader()
