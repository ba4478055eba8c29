"""JCR `.content.xml`: pages exported by Adobe Experience Manager."""

from __future__ import annotations

import re
from typing import Any

from lxml import etree

from ingest.errors import SkippedFileError
from ingest.loaders.builder import TextBuilder
from ingest.loaders.document import Limits, ParsedDocument, one_line
from ingest.loaders.file import SourceFile
from ingest.loaders.html import render_fragment

_JCR = "{http://www.jcp.org/jcr/1.0}"
_CQ = "{http://www.day.com/jcr/cq/1.0}"
JCR_ROOT = f"{_JCR}root"
"""The root element of a page."""
_TEXT_ELEMENTS = ("textonlycomponent", "subtitle")
_TYPE_PREFIX = re.compile(r"^\{[A-Za-z]{1,20}\}")


def jcr_page(file: SourceFile, root: Any, limits: Limits) -> ParsedDocument:
    """The page's subtitle and every text component, in the order of the page.

    Raises SkippedFileError if it is no page or has no text.
    """
    content = _page_content(root)
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
    return document


def _page_content(root: Any) -> Any:
    content = root.find(f"{_JCR}content")
    if content is None:
        raise SkippedFileError("JCR node without jcr:content: a folder, not a page")
    return content
