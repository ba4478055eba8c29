"""HTML: the content of a page, and HTML fragments in other formats."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lxml import etree
from lxml import html as lxml_html

from ingest.errors import SkippedFileError
from ingest.loaders.builder import TextBuilder
from ingest.loaders.document import Limits, Notice, ParsedDocument, check_length, normalise, one_line
from ingest.loaders.file import XML_DECLARATION, XML_ENCODING, SourceFile
from ingest.loaders.html_content import content_of, remove_invisible
from ingest.loaders.html_text import render

_META_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]{1,40})""", re.IGNORECASE)
_LOOKS_LIKE_HTML = re.compile(
    r"<(?:p|br|div|span|ul|ol|li|h[1-6]|table|a|strong|em|b|i|pre|code)\b[^<>]*>", re.IGNORECASE
)

_BEGINS_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,100}>\s*)?<(?:!doctype\s+html|html)\b", re.IGNORECASE)


class HtmlLoader:
    """HTML: the content of a page."""

    suffixes = (".htm", ".html", ".xhtml")
    binary = False

    def sniff(self, head: bytes) -> bool:
        """Whether the head begins like a page."""
        return _BEGINS_PAGE.match(head) is not None

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document: the page's content, its title, canonical URL, language, description and date."""
        text = yield from file.text(limits, _META_CHARSET, XML_ENCODING)
        check_length(len(text), limits)
        page = parse_html(text)
        if page is None:
            raise SkippedFileError("holds no text")
        head = _head(page)
        builder = TextBuilder(limits)
        for part in content_of(page):
            render(part, builder)
        title = head.pop("title") or builder.first_heading or file.stem
        document = builder.document(file.source, "", title, url=head.pop("url"), date=head.pop("date"), values=head)
        if document is None:
            raise SkippedFileError("holds no text besides links and headings (is it filled in by a script?)")
        yield document


def looks_like_html(text: str) -> bool:
    """Whether a text is HTML and not plain text."""
    return _LOOKS_LIKE_HTML.search(text[:20_000]) is not None


def render_fragment(text: str, builder: TextBuilder) -> None:
    """Appends the visible text of an HTML fragment."""
    if not text.strip():
        return
    fragment = parse_html(text)
    if fragment is not None:
        remove_invisible(fragment)
        render(fragment, builder)


def parse_html(text: str) -> Any:
    """The root element of a page or fragment; None if it is empty.

    Raises SkippedFileError if its elements are nested too deeply for the parser.
    """
    text = normalise(XML_DECLARATION.sub("", text, count=1), collapse_blank_lines=False)
    parser = lxml_html.HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True)
    try:
        root = lxml_html.document_fromstring(text.encode(), parser=parser)
    except etree.ParserError:
        return None
    except etree.LxmlError as error:
        raise SkippedFileError(f"not readable as HTML: {one_line(str(error), 200)}") from error
    # The parser drops deeply nested elements and only logs this.
    if any("depth" in entry.message.lower() for entry in parser.error_log):
        raise SkippedFileError("its elements are nested deeper than the parser reads")
    return root


def _head(page: Any) -> dict[str, str]:
    """Metadata of a page: title, url, date, lang, description, author; empty if missing."""
    metas: dict[str, str] = {}
    for meta in page.iter("meta"):
        name = (meta.get("property") or meta.get("name") or "").lower()
        if name and meta.get("content"):
            metas.setdefault(name, meta.get("content"))
    title = next((element.text_content() for element in page.iter("title")), "")
    canonical = next(
        (link.get("href") for link in page.iter("link") if (link.get("rel") or "").lower() == "canonical"), None
    )
    urls = (canonical or "", metas.get("og:url", ""))
    dates = ("article:published_time", "date", "dc.date", "dcterms.created", "last-modified")
    return {
        "title": one_line(metas.get("og:title") or title),
        "url": next((url.strip() for url in urls if url.strip().startswith(("http://", "https://"))), ""),
        "date": next((metas[name] for name in dates if name in metas), ""),
        "lang": page.get("lang") or page.get("{http://www.w3.org/XML/1998/namespace}lang") or "",
        "description": metas.get("description") or metas.get("og:description") or "",
        "author": metas.get("author", ""),
    }


LOADER = HtmlLoader()
