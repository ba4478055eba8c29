"""E-books (EPUB): the chapters in reading order, read by the HTML loader."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from urllib.parse import unquote

from ingest.errors import SkippedFileError
from ingest.loaders.builder import TextBuilder
from ingest.loaders.document import Limits, Notice, ParsedDocument
from ingest.loaders.encodings import marked_encoding
from ingest.loaders.file import SourceFile
from ingest.loaders.html import parse_html
from ingest.loaders.html_content import remove_invisible
from ingest.loaders.html_text import render
from ingest.loaders.package import Package, begins_with_type

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_PAGES = frozenset(("application/xhtml+xml", "text/html"))


class EpubLoader:
    """E-books (EPUB 2 and 3)."""

    suffixes = (".epub",)
    binary = True

    def sniff(self, head: bytes) -> bool:
        """Whether it is a package of this type."""
        return begins_with_type(head, "application/epub+zip")

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document: the chapters in the order of the spine, without the table of contents."""
        package = Package(file, limits, "e-book")
        main = next((each.get("full-path") for each in package.xml(_CONTAINER).iter("{*}rootfile")), None) or ""
        builder = TextBuilder(limits)
        for name in _chapters(package, main):
            data = package.read(name)
            page = parse_html(data.decode(marked_encoding(data) or "utf-8-sig", "replace"))
            if page is not None:
                remove_invisible(page)
                for link in list(page.iter("a")):
                    if link.get("epub:type") == "noteref":
                        link.drop_tree()
                render(page, builder)
        values = package.properties(main)
        title = values.pop("title") or builder.first_heading or file.stem
        document = builder.document(file.source, "", title, url=None, date=values.pop("date"), values=values)
        if document is None:
            raise SkippedFileError("holds no text")
        yield document


def _chapters(package: Package, main: str) -> list[str]:
    """Names of the pages in reading order. Raises SkippedFileError if one is missing or encrypted."""
    items = {}
    for item in package.xml(main).iter("{*}item"):
        if item.get("media-type") in _PAGES and "nav" not in (item.get("properties") or "").split():
            name = posixpath.join(posixpath.dirname(main), unquote(item.get("href") or ""))
            items[item.get("id")] = posixpath.normpath(name)
    spine = (each.get("idref") for each in package.xml(main).iter("{*}itemref"))
    names = [items[key] for key in dict.fromkeys(spine) if key in items]
    if _ENCRYPTION in package.names:
        locked = {unquote(each.get("URI") or "") for each in package.xml(_ENCRYPTION).iter("{*}CipherReference")}
        if not locked.isdisjoint(names):
            raise SkippedFileError("encrypted: protected against copying (DRM)")
    return names


LOADER = EpubLoader()
