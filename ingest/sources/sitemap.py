"""The pages of a website's sitemap: `sitemap:https://example.org/sitemap.xml`."""

from __future__ import annotations

import html
import re
import zlib
from collections.abc import Sequence

from ingest.errors import SourceNotFoundError
from ingest.sources.fetching import Fetcher, NotFetchedError
from ingest.sources.links import LinksSource

_MAX_SITEMAPS = 1_000
_MAX_BYTES = 50 * 1024**2
"""Source: https://www.sitemaps.org/protocol.html, "Using Sitemap index files"."""
_GZIP = b"\x1f\x8b"
_LOCATION = re.compile(r"<loc>([^<]{1,4000})</loc>")


class SitemapSource(LinksSource):
    """Like a list of links, which it reads from a sitemap and those that it names. They may be packed with gzip."""

    @property
    def location(self) -> str:
        """`sitemap:` and the URL."""
        return f"sitemap:{self._list}"

    def _read_list(self, fetcher: Fetcher) -> Sequence[str]:
        waiting, read, pages = [self._list], set[str](), list[str]()
        while waiting and len(pages) <= self._settings.max_pages:
            url = waiting.pop()
            if url in read:
                continue
            if len(read) == _MAX_SITEMAPS:
                raise SourceNotFoundError(f"{self._list}: more than {_MAX_SITEMAPS:,} sitemaps")
            read.add(url)
            text = self._read(fetcher, url)
            found = [html.unescape(each).strip() for each in _LOCATION.findall(text)]
            if "<sitemapindex" in text:
                waiting += reversed(found)
            else:
                pages += found
        if not pages:
            raise SourceNotFoundError(f"{self._list}: the sitemap has no pages; the index is unchanged")
        return pages

    def _read(self, fetcher: Fetcher, url: str) -> str:
        """Text of one sitemap. If it cannot be read, its pages are unknown, so that the run must not go on."""
        try:
            content = (self._contents / (fetcher.fetch(url).sha256 or "")).read_bytes()
            if content.startswith(_GZIP):
                content = zlib.decompressobj(wbits=31).decompress(content, _MAX_BYTES + 1)
        except NotFetchedError as error:
            raise SourceNotFoundError(f"{url}: {error}") from error
        except (OSError, zlib.error) as error:
            raise SourceNotFoundError(f"{url}: cannot be read: {error}") from error
        if len(content) > _MAX_BYTES:
            raise SourceNotFoundError(f"{url}: a sitemap has at most {_MAX_BYTES:,} bytes")
        return content.decode("utf-8-sig", "replace").replace("<![CDATA[", "").replace("]]>", "")
