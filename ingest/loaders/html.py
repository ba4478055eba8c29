"""HTML: the main content of a page as headed text, and fragments of HTML inside other formats."""

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

_META_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]{1,40})""", re.IGNORECASE)
_LOOKS_LIKE_HTML = re.compile(
    r"<(?:p|br|div|span|ul|ol|li|h[1-6]|table|a|strong|em|b|i|pre|code)\b[^<>]*>", re.IGNORECASE
)

_BEGINS_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,100}>\s*)?<(?:!doctype\s+html|html)\b", re.IGNORECASE)

_NEVER_TEXT = frozenset(
    """
    aside audio button canvas dialog embed footer iframe input link map math meta nav noscript object script select
    style svg template textarea video
    """.split()  # noqa: SIM905
)
_NEVER_TEXT_ROLES = frozenset(("navigation", "banner", "contentinfo", "search", "complementary", "dialog", "menu"))
_BOILERPLATE = frozenset(
    """
    ads advert anchor-link breadcrumb breadcrumbs comments cookie cookie-banner cookie-consent cookies
    edit-this-page footer header-anchor headerlink menu nav navbar navigation page-footer pager pagination
    prev-next-area related-posts share side-bar sidebar site-footer site-header skip-link skip-to-content social
    social-share sr-only table-of-contents toc toctree-wrapper visually-hidden
    """.split()  # noqa: SIM905
)
"""Classes and ids of the elements around the content of a page."""
_STRUCTURAL = frozenset(("html", "body", "main", "article"))
_HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}
_BLOCKS = frozenset(
    """
    address article aside blockquote body caption center dd details div dl dt fieldset figcaption figure footer form
    header hgroup hr legend main nav ol p section summary table tbody td tfoot th thead tr ul
    """.split()  # noqa: SIM905
)
_LANGUAGE_CLASS = re.compile(r"(?:^|\s)(?:language|lang|highlight|highlight-source)-([A-Za-z0-9+#-]{1,20})")
_WHITESPACE = re.compile(r"[ \t\n\r\f\v]+")


class HtmlLoader:
    """HTML: the main content of a page."""

    suffixes = (".htm", ".html", ".xhtml")
    binary = False

    def sniff(self, head: bytes) -> bool:
        """Whether the head begins like a page."""
        return _BEGINS_PAGE.match(head) is not None

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document: the page's main content, its title, canonical URL, language, description and date."""
        text = yield from file.text(limits, _META_CHARSET, XML_ENCODING)
        check_length(len(text), limits)
        page = parse_html(text)
        if page is None:
            raise SkippedFileError("holds no text")
        head = _head(page)
        _remove_boilerplate(page)
        builder = TextBuilder(limits)
        render(_main_content(page), builder)
        title = head.pop("title") or builder.first_heading or file.stem
        document = builder.document(file.source, "", title, url=head.pop("url"), date=head.pop("date"), values=head)
        if document is None:
            raise SkippedFileError("holds no text (is it filled in by a script?)")
        yield document


def looks_like_html(text: str) -> bool:
    """Whether a field that may hold either is HTML, not plain text."""
    return _LOOKS_LIKE_HTML.search(text[:20_000]) is not None


def render_fragment(text: str, builder: TextBuilder) -> None:
    """Appends the text of an HTML fragment, without scripts and other elements that are not text."""
    if not text.strip():
        return
    fragment = parse_html(text)
    if fragment is not None:
        _drop(fragment, lambda element: element.tag in _NEVER_TEXT)
        render(fragment, builder)


def parse_html(text: str) -> Any:
    """The root element of a page or fragment; None if it has no element or text.

    Raises SkippedFileError if it is nested deeper than the parser reads.
    """
    text = normalise(XML_DECLARATION.sub("", text, count=1), collapse_blank_lines=False)
    parser = lxml_html.HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True)
    try:
        root = lxml_html.document_fromstring(text.encode(), parser=parser)
    except etree.ParserError:
        return None
    except etree.LxmlError as error:
        raise SkippedFileError(f"not readable as HTML: {one_line(str(error), 200)}") from error
    # The parser drops deeply nested elements and only logs it.
    if any("depth" in entry.message.lower() for entry in parser.error_log):
        raise SkippedFileError("its elements are nested deeper than the parser reads")
    return root


def render(root: Any, builder: TextBuilder) -> None:
    """Appends the text below `root`: headings, paragraphs, list items, code and tables, in document order."""
    _Renderer(builder).run(root)


class _Renderer:
    """Walks an element tree without recursion and hands its blocks to a `TextBuilder`."""

    def __init__(self, builder: TextBuilder) -> None:
        self._builder = builder
        self._inline: list[str] = []
        self._lists: list[int | None] = []
        """Per open list its next number, or None for bullets."""
        self._marker: str | None = None

    def run(self, root: Any) -> None:
        walker = etree.iterwalk(root, events=("start", "end"))
        for event, element in walker:
            tag = element.tag if isinstance(element.tag, str) else ""
            if event == "start":
                if self._whole(tag, element):
                    walker.skip_subtree()
                    continue
                self._open(tag)
                self._text(element.text)
            else:
                self._close(tag)
                if element is not root:
                    self._text(element.tail)
        self._flush()

    def _whole(self, tag: str, element: Any) -> bool:
        """Renders an element that is read in one piece, if it is one. Its end event still follows."""
        if tag in _HEADINGS:
            self._flush()
            self._builder.heading(_HEADINGS[tag], "".join(element.itertext()))
        elif tag == "pre":
            self._flush()
            classes = " ".join([element.get("class") or "", *(child.get("class") or "" for child in element)])
            language = _LANGUAGE_CLASS.search(classes)
            for line_break in element.iter("br"):
                line_break.tail = "\n" + (line_break.tail or "")
            self._builder.code("".join(element.itertext()), language[1] if language else "")
        elif tag == "table" and (rows := _data_table(element)) is not None:
            self._flush()
            self._builder.table(rows)
        else:
            return False
        return True

    def _open(self, tag: str) -> None:
        if tag in ("ul", "ol"):
            self._flush()
            self._lists.append(1 if tag == "ol" else None)
        elif tag == "li":
            self._flush()
            number = self._lists[-1] if self._lists else None
            self._marker = "-" if number is None else f"{number}."
            if number is not None:
                self._lists[-1] = number + 1
        elif tag == "br":
            self._inline.append("\n")
        elif tag in _BLOCKS:
            self._flush()

    def _close(self, tag: str) -> None:
        if tag in ("ul", "ol"):
            self._flush()
            if self._lists:
                self._lists.pop()
        elif tag == "li":
            self._flush()
            self._marker = None
        elif tag in _BLOCKS:
            self._flush()

    def _text(self, text: str | None) -> None:
        if text:
            self._inline.append(_WHITESPACE.sub(" ", text))

    def _flush(self) -> None:
        if not self._inline:
            return
        text = "\n".join(_WHITESPACE.sub(" ", line).strip() for line in "".join(self._inline).split("\n")).strip()
        self._inline.clear()
        if not text:
            return
        if self._marker is not None:
            self._builder.list_item(text, max(len(self._lists) - 1, 0), self._marker)
            self._marker = None
        elif self._lists:
            # A second paragraph of an item.
            self._builder.list_item(text, max(len(self._lists) - 1, 0), " ")
        else:
            self._builder.paragraph(text)


def _data_table(table: Any) -> list[list[str]] | None:
    """The cells of a data table; None for a layout table."""
    rows: list[list[str]] = []
    for element in table.iter():
        if element.tag in ("table", "pre", "ul", "ol", *_HEADINGS) and element is not table:
            return None
        if element.tag == "tr":
            rows.append([])
        elif element.tag in ("td", "th"):
            if not rows:
                return None
            rows[-1].append(_WHITESPACE.sub(" ", " ".join(element.itertext())).strip())
    rows = [row for row in rows if any(row)]
    if not rows or max(len(row) for row in rows) < 2:
        return None
    return rows


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


def _remove_boilerplate(page: Any) -> None:
    _drop(page, lambda element: element.tag == "head" or element.tag in _NEVER_TEXT or _hidden(element))
    with_boilerplate = _text_length(page)
    doomed = [element for element in page.iter() if _is_boilerplate(element)]
    # Read a page whole if its class names make it all "sidebar".
    if doomed and sum(_text_length(element) for element in doomed) < 0.9 * with_boilerplate:
        _drop(page, _is_boilerplate)


def _is_boilerplate(element: Any) -> bool:
    if not isinstance(element.tag, str) or element.tag in _STRUCTURAL:
        return False
    if element.tag == "header":
        return all(ancestor.tag not in ("article", "main") for ancestor in element.iterancestors())
    if (element.get("role") or "").lower() in _NEVER_TEXT_ROLES:
        return True
    names = {*(element.get("class") or "").lower().split(), (element.get("id") or "").lower()}
    return not names.isdisjoint(_BOILERPLATE)


def _hidden(element: Any) -> bool:
    if element.tag in _STRUCTURAL:
        return False
    style = (element.get("style") or "").replace(" ", "").lower()
    return (
        element.get("hidden") is not None
        or element.get("aria-hidden") == "true"
        or "display:none" in style
        or "visibility:hidden" in style
    )


def _drop(root: Any, wanted: Any) -> None:
    for element in [element for element in root.iter() if element is not root and wanted(element)]:
        if element.getparent() is not None:
            element.drop_tree()


def _main_content(page: Any) -> Any:
    """The element with the page's subject: `main`, else the only `article`, else the page."""
    articles = list(page.iter("article"))
    candidates = [element for element in page.iter() if element.tag == "main" or element.get("role") == "main"]
    if not candidates and len(articles) == 1:
        candidates = articles
    best = max(candidates, key=_text_length, default=None)
    return best if best is not None and _text_length(best) > 0 else page


def _text_length(element: Any) -> int:
    return sum(len(text.strip()) for text in element.itertext())


LOADER = HtmlLoader()
