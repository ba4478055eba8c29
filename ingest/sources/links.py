"""Web pages and files whose URLs are in a list, and the pages that they link to."""

from __future__ import annotations

import contextlib
import html.parser
import mimetypes
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urljoin

import httpx
import orjson

from chassis.settings import read_settings
from ingest.errors import SourceNotFoundError
from ingest.sources import Entry
from ingest.sources.fetching import (
    Fetched,
    Fetcher,
    GoneError,
    NotFetchedError,
    StoppedError,
    WebSettings,
    parse_url,
)

_MAX_LIST_BYTES = 16 * 1024**2
_MAX_SCANNED_CHARS = 5_000_000
"""Links after so many characters of a page are not followed."""
_PAGE_SUFFIXES = (".html", ".xhtml")
_SUFFIXES = {
    "application/pdf": ".pdf",
    "application/xhtml+xml": ".xhtml",
    "text/html": ".html",
    "text/markdown": ".md",
    "text/x-markdown": ".md",
}
"""Formats whose media type is right more often than the suffix of the URL."""


@dataclass(frozen=True, slots=True)
class _Page:
    """A page of an earlier run."""

    url: str
    """After redirects."""
    sha256: str
    """Name of its content in the folder of contents."""
    suffix: str
    etag: str | None
    modified: str | None
    fetched_at: float
    """When the server was asked last, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class _Link:
    url: str
    depth: int
    """How many further steps its own links are followed."""
    folder: str
    """Links are followed to URLs that begin with this."""


class LinksSource:
    """The pages of a list of links: a text file with a URL per line. Lines that begin with `#` are ignored.

    Pages are requested with the ETag and Last-Modified of the earlier run. One that no longer exists (404, 410) is
    gone; one that cannot be read has a problem. Names are the URLs without their scheme.
    """

    def __init__(self, location: str, cache: Path, settings: WebSettings | None = None) -> None:
        """Does no I/O. `location`: path or URL of the list, or `<URL>` for that page alone.

        `settings`: by default from the environment; raises SettingError if they are invalid.
        """
        self._only = location[1:-1] if location.startswith("<") else None
        self._list = location if _is_web(location) else str(Path(location).expanduser().absolute())
        self._settings = settings or read_settings(WebSettings)
        self._contents = cache / "contents"
        self._state = cache / "pages.json"
        self._stopped = threading.Event()
        self._pages: dict[str, _Page] = {}

    @property
    def location(self) -> str:
        """`links:` and the absolute path or URL of the list; or the URL of the page."""
        return self._only or f"links:{self._list}"

    @property
    def prefix(self) -> str:
        """Name of the list without suffix, or the host of its URL."""
        url = self._only or self._list
        return (httpx.URL(url).host if _is_web(url) else Path(url).stem) or "links"

    def list(self) -> Iterator[Entry]:
        """The pages, sorted by name. Raises SourceNotFoundError if the list cannot be read or has no URL."""
        self._pages = self._load()
        with Fetcher(self._settings, self._contents, self._stopped) as fetcher:
            try:
                links = [self._only] if self._only else self._read_list(fetcher)
                entries = list(self._crawl(fetcher, links))
            except StoppedError as error:
                raise SourceNotFoundError(f"{self.location}: interrupted") from error
            finally:
                self._save()
        self._remove_contents()
        yield from sorted(entries, key=lambda entry: entry.name)

    def token(self, entry: Entry) -> str:
        """SHA-256 of the content."""
        return self._page(entry).sha256

    def fetch(self, entry: Entry) -> Path:
        """The content, which `list` has fetched."""
        return self._contents / self._page(entry).sha256

    def close(self) -> None:
        """Stops a running `list` after its current request."""
        self._stopped.set()

    def _page(self, entry: Entry) -> _Page:
        pages = self._pages or self._load()
        if entry.key not in pages:
            raise FileNotFoundError(2, "No such file: it was not fetched", entry.key)
        return pages[entry.key]

    def _read_list(self, fetcher: Fetcher) -> Sequence[str]:
        try:
            if _is_web(self._list):
                digest = fetcher.fetch(self._list).sha256 or ""
                content = (self._contents / digest).read_bytes()
            else:
                with Path(self._list).open("rb") as file:
                    content = file.read(_MAX_LIST_BYTES + 1)
        except NotFetchedError as error:
            raise SourceNotFoundError(f"{self._list}: {error}") from error
        except OSError as error:
            raise SourceNotFoundError(f"{self._list}: {error.strerror}") from error
        if len(content) > _MAX_LIST_BYTES:
            raise SourceNotFoundError(f"{self._list}: a list of links has at most {_MAX_LIST_BYTES:,} bytes")
        lines = (line.strip() for line in content.decode("utf-8-sig", "replace").splitlines())
        links = [line for line in lines if line and not line.startswith("#")]
        if not links:
            raise SourceNotFoundError(f"{self._list}: the list has no links; the index is unchanged")
        return links

    def _crawl(self, fetcher: Fetcher, links: Sequence[str]) -> Iterator[Entry]:
        seen: set[str] = set()
        waiting: deque[_Link] = deque()
        for given in links:
            try:
                url = str(parse_url(given))
            except NotFetchedError as error:
                yield Entry(given[:200].lstrip("./") or "link", given, f"{given[:200]!r} {error}")
                continue
            waiting.append(_Link(url, self._settings.depth, url[: url.rindex("/") + 1]))
        while waiting:
            link = waiting.popleft()
            if link.url in seen:
                continue
            if len(seen) == self._settings.max_pages:
                limit = f"more than {self._settings.max_pages:,} pages: the rest is not read (INGEST_WEB_MAX_PAGES)"
                for rest in dict.fromkeys((link.folder, *(each.folder for each in waiting))):
                    yield Entry(_name(rest), rest, limit)
                return
            seen.add(link.url)
            entry = self._entry(fetcher, link)
            yield entry
            if link.depth and not entry.gone:
                yield from self._follow(link, entry, waiting)
        for url in self._pages.keys() - seen:
            del self._pages[url]

    def _entry(self, fetcher: Fetcher, link: _Link) -> Entry:
        """Fetches a page, unless it is unchanged."""
        name, known = _name(link.url), self._pages.get(link.url)
        try:
            if known is None or time.time() - known.fetched_at >= self._settings.max_age_s:
                known = self._pages[link.url] = _page(fetcher.fetch(link.url, known), known)
        except GoneError as error:
            self._pages.pop(link.url, None)
            return Entry(name, link.url, str(error), gone=True)
        except NotFetchedError as error:
            return Entry(name, link.url, str(error))
        except OSError as error:
            raise SourceNotFoundError(f"{self._contents} cannot be written: {error.strerror}") from error
        return Entry(name, link.url, url=known.url, suffix=known.suffix)

    def _follow(self, link: _Link, entry: Entry, waiting: deque[_Link]) -> Iterator[Entry]:
        """Queues the links of a page below its folder."""
        page = self._pages.get(link.url)
        if page is None:
            yield Entry(_name(link.folder), link.folder, f"{entry.name} {entry.problem}, so its links are unknown")
        elif page.suffix in _PAGE_SUFFIXES:
            text = (self._contents / page.sha256).read_bytes().decode("utf-8", "replace")
            for url in _links(text[:_MAX_SCANNED_CHARS], page.url):
                if url.startswith(link.folder):
                    waiting.append(_Link(url, link.depth - 1, link.folder))

    def _load(self) -> dict[str, _Page]:
        """The pages of the earlier run whose content is still there."""
        try:
            found = orjson.loads(self._state.read_bytes())
            pages = {url: _Page(**values) for url, values in found.items()}
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            return {}
        return {url: page for url, page in pages.items() if (self._contents / page.sha256).is_file()}

    def _save(self) -> None:
        if self._pages:
            temporary = self._state.with_suffix(".new")
            temporary.write_bytes(orjson.dumps({url: asdict(page) for url, page in self._pages.items()}))
            temporary.replace(self._state)

    def _remove_contents(self) -> None:
        """Removes contents that no page has any more."""
        needed = {page.sha256 for page in self._pages.values()}
        for file in self._contents.iterdir() if self._contents.is_dir() else ():
            if file.name not in needed:
                file.unlink()


class _LinkFinder(html.parser.HTMLParser):
    """Collects the links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.base = ""
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        address = values.get("href") or ""
        if tag == "base":
            self.base = self.base or address
        elif tag == "a" and address and "nofollow" not in (values.get("rel") or ""):
            self.links.append(address)


def _links(text: str, url: str) -> Iterator[str]:
    """The web addresses that a page links to, absolute and without fragments, in order."""
    finder = _LinkFinder()
    finder.feed(text)
    for link in finder.links:
        with contextlib.suppress(NotFetchedError, ValueError):
            yield str(parse_url(urljoin(urljoin(url, finder.base), link.strip())))


def _page(fetched: Fetched, known: _Page | None) -> _Page:
    if fetched.sha256 is None and known is not None:
        return _Page(fetched.url, known.sha256, known.suffix, known.etag, known.modified, time.time())
    suffix = _SUFFIXES.get(fetched.content_type, "")
    if not suffix and fetched.content_type not in ("", "text/plain", "application/octet-stream"):
        own = mimetypes.guess_type(fetched.url)[0]
        suffix = "" if own == fetched.content_type else mimetypes.guess_extension(fetched.content_type) or ""
    return _Page(fetched.url, fetched.sha256 or "", suffix, fetched.etag, fetched.modified, time.time())


def _name(url: str) -> str:
    """Name of a page in the index: its URL without scheme."""
    return url.partition("://")[2].rstrip("/")


def _is_web(location: str) -> bool:
    return location.lower().startswith(("http://", "https://"))
