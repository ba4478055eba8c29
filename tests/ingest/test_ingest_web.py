"""Which pages of the web are read, and which addresses never are."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ingest import pipeline
from ingest.errors import SourceNotFoundError
from ingest.served_index import ServedIndex
from ingest.settings import IngestServerSettings, IngestSettings
from ingest.sources import Entry, open_source
from ingest.sources.fetching import Fetcher, GoneError, NotFetchedError, WebSettings, is_public, parse_url
from ingest.sources.links import LinksSource
from ingest.sources.sitemap import SitemapSource
from ingest.watch import watch
from tests.fakes.website import Page, Website
from tests.processes import until
from vectorstore.versions import IndexRoot


@pytest.fixture
def site() -> Iterator[Website]:
    with Website() as website:
        yield website


def settings(**changes: Any) -> WebSettings:
    values = {"private_hosts": ("127.0.0.1",), "requests_per_s": 1e6, "timeout_s": 30.0, **changes}
    return WebSettings(**values)


@contextlib.contextmanager
def fetcher(folder: Path, **changes: Any) -> Iterator[Fetcher]:
    with Fetcher(settings(**changes), folder / "contents", threading.Event()) as made:
        yield made


def refusal(folder: Path, url: str, **changes: Any) -> str:
    """Why a URL is not fetched."""
    with fetcher(folder, **changes) as made, pytest.raises(NotFetchedError) as error:
        made.fetch(url)
    return str(error.value)


# ── addresses ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",  # noqa: S104
        "10.1.2.3",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.192",
        "192.168.1.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2001:0:7f00:1::",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
    ],
)
def test_these_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111"])
def test_these_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.org/a",
        "gopher://example.org/a",
        "//example.org/a",
        "example.org/a",
        "http://",
        "http:///a",
        "http://example.org:0/",
        "http://example.org:99999/",
        "http://[::1/",
        "http://example.org@127.0.0.1/",
        "http://user:secret@example.org/",
        "http://example.org\\@127.0.0.1/",
        "http://example.org/a b",
        "http://example.org/\r\nHost: other",
        "http://example.org\t/",
        "javascript:alert(1)",
    ],
)
def test_these_urls_are_never_requested(url: str) -> None:
    with pytest.raises(NotFetchedError):
        parse_url(url)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "017700000001",
        "0x7f000001",
        "0x7f.0.0.1",
        "0",
        "0.0.0.0",  # noqa: S104
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "localhost",
        "LOCALHOST",
    ],
)
def test_no_spelling_of_this_machine_is_read(site: Website, tmp_path: Path, host: str) -> None:
    site.put("/", "secret")
    reason = refusal(tmp_path, f"http://{host}:{site.port}/", private_hosts=())
    assert "not public" in reason or "cannot be resolved" in reason
    assert site.requests == []


def resolver(*answers: list[str]) -> Callable[..., list[Any]]:
    """Like `socket.getaddrinfo`, with these addresses for names, one list per call."""
    left, resolve = list(answers), socket.getaddrinfo

    def getaddrinfo(host: str, *arguments: Any, **options: Any) -> list[Any]:
        if host == "127.0.0.1":
            return resolve(host, *arguments, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0)) for each in left.pop(0)]

    return getaddrinfo


def test_one_private_address_of_a_name_is_enough_to_refuse_it(
    site: Website, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolver(["93.184.216.34", "127.0.0.1"]))
    assert "127.0.0.1, which is not public" in refusal(tmp_path, f"http://site.example:{site.port}/")
    assert site.requests == []


def test_a_name_is_resolved_once(site: Website, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.put("/a", "one", Connection="close")
    site.put("/b", "two", Connection="close")
    monkeypatch.setattr(socket, "getaddrinfo", resolver(["127.0.0.1"], ["169.254.169.254"]))
    with fetcher(tmp_path, private_hosts=("site.example",)) as made:
        for path in ("/a", "/b"):
            assert made.fetch(f"http://site.example:{site.port}{path}").sha256
    assert site.asked() == [("/a", 200), ("/b", 200)]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("http://127.0.0.1:{port}/secret", "which is not public"),
        ("http://[::ffff:127.0.0.1]:{port}/secret", "which is not public"),
        ("//127.0.0.1:{port}/secret", "which is not public"),
        ("file:///etc/passwd", "is not an http"),
        ("http://localhost@127.0.0.1:{port}/secret", "user name"),
        ("http://[::1", "not a URL"),
        ("/start", "redirects more than 5 times"),
    ],
)
def test_redirects_are_checked(site: Website, tmp_path: Path, target: str, reason: str) -> None:
    site.put("/secret", "secret")
    site.answer("/start", 302, Location=target.format(port=site.port))
    told = refusal(tmp_path, f"http://localhost:{site.port}/start", private_hosts=("localhost",))
    assert reason in told
    assert "/secret" not in dict(site.asked())


def test_only_listed_hosts_are_read(site: Website, tmp_path: Path) -> None:
    site.put("/a", "words")
    site.answer("/away", 302, Location=f"http://localhost:{site.port}/a")
    hosts = {"private_hosts": ("127.0.0.1", "localhost"), "hosts": ("127.0.0.1", ".example.org")}
    with fetcher(tmp_path, **hosts) as made:
        assert made.fetch(f"{site.url}/a").sha256
    for url in (f"http://localhost:{site.port}/a", f"{site.url}/away", "http://notexample.org/"):
        assert "not among the hosts" in refusal(tmp_path, url, **hosts)
    assert site.asked() == [("/a", 200), ("/away", 302)]


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_sizes_are_limited_packed_and_unpacked(site: Website, tmp_path: Path) -> None:
    plain = site.put("/plain", b"a" * 5000)
    packed = site.put("/packed", gzip.compress(b"a" * 5_000_000), Content_Encoding="gzip")
    endless = f"{site.url}/endless"
    site.pages["/endless"] = Page(b"a" * 1000, endless=True)
    for url in (plain, packed, endless):
        assert refusal(tmp_path, url, max_bytes=4096) == "larger than 4,096 bytes (INGEST_WEB_MAX_BYTES)"


def test_times_are_limited(site: Website, tmp_path: Path) -> None:
    site.pages["/endless"] = Page(b"a", endless=True)
    assert refusal(tmp_path, f"{site.url}/endless", timeout_s=0.5, robots=False) == "no complete response in 0.5 s"


def test_a_host_that_does_not_respond_is_not_asked_for_ever(tmp_path: Path) -> None:
    with socket.socket() as taken, fetcher(tmp_path, robots=False) as made:
        taken.bind(("127.0.0.1", 0))  # without `listen`, the port refuses connections
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        reasons = []
        for number in range(4):
            with pytest.raises(NotFetchedError) as error:
                made.fetch(f"{url}/{number}")
            reasons.append(str(error.value))
    assert [reason.startswith("the request failed") for reason in reasons] == [True, True, True, False]
    assert "not asked again" in reasons[3]


def test_gzip_is_unpacked(site: Website, tmp_path: Path) -> None:
    url = site.put("/a", gzip.compress(b"The kiln opens."), Content_Encoding="gzip")
    with fetcher(tmp_path) as made:
        digest = made.fetch(url).sha256
    assert (tmp_path / "contents" / str(digest)).read_bytes() == b"The kiln opens."


# ── robots.txt ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_robots_txt_is_followed(site: Website, tmp_path: Path) -> None:
    site.put("/robots.txt", "User-agent: *\nDisallow: /private/\nDisallow: /*.pdf$\n\nUser-agent: other\nDisallow: /\n")
    url = site.put("/a", "words")
    site.answer("/away", 302, Location="/private/a")
    with fetcher(tmp_path) as made:
        assert made.fetch(url).sha256
    for path in ("/private/a", "/b.pdf", "/away"):
        assert "does not permit" in refusal(tmp_path, f"{site.url}{path}")
    assert dict(site.asked()) == {"/a": 200, "/away": 302}
    with fetcher(tmp_path, robots=False) as made, pytest.raises(GoneError):
        made.fetch(f"{site.url}/b.pdf")


def test_a_host_whose_robots_txt_fails_is_not_read(site: Website, tmp_path: Path) -> None:
    url = site.put("/a", "words")
    site.answer("/robots.txt", 503)
    assert refusal(tmp_path, url).startswith("robots.txt of 127.0.0.1 cannot be read: ")
    assert site.asked() == []


# ── lists ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def write(path: Path, *lines: str) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


@pytest.fixture
def links(site: Website, tmp_path: Path) -> Path:
    path = tmp_path / "links.txt"
    write(path, "# pages", f"{site.url}/a.html", "", f"{site.url}/b")
    site.put("/a.html", "<html><title>Kiln</title><p>The kiln opens.", "text/html")
    site.put("/b", "<html><title>Shelf</title><p>The shelf is for pots.", "text/html; charset=utf-8")
    return path


@pytest.fixture
def loopback_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings, in the environment, of runs that read a website of this machine."""
    monkeypatch.setenv("INGEST_WEB_PRIVATE_HOSTS", "127.0.0.1")
    monkeypatch.setenv("INGEST_WEB_REQUESTS_PER_S", "1000000")


def listed(source: LinksSource) -> dict[str, Entry]:
    """By path."""
    return {entry.name.partition("/")[2]: entry for entry in source.list()}


def opened(location: Path | str, tmp_path: Path, **changes: Any) -> LinksSource:
    return LinksSource(str(location), tmp_path / "cache", settings(**changes))


def test_unchanged_pages_are_not_sent_again(site: Website, links: Path, tmp_path: Path) -> None:
    first = opened(links, tmp_path)
    before = {path: first.token(entry) for path, entry in listed(first).items()}
    assert site.asked() == [("/a.html", 200), ("/b", 200)]
    site.put("/b", "<html><p>The shelf is full.", "text/html")
    second = opened(links, tmp_path)
    entries = listed(second)
    assert site.asked() == [("/a.html", 304), ("/b", 200)]
    after = {path: second.token(entry) for path, entry in entries.items()}
    assert after["a.html"] == before["a.html"]
    assert after["b"] != before["b"]
    assert b"The kiln opens." in second.fetch(entries["a.html"]).read_bytes()
    assert len(list((tmp_path / "cache" / "contents").iterdir())) == 2
    list(opened(links, tmp_path, max_age_s=3600).list())
    assert site.asked() == []


def test_gone_pages_and_failures_differ(site: Website, links: Path, tmp_path: Path) -> None:
    site.answer("/a.html", 410)
    site.answer("/b", 503)
    entries = listed(opened(links, tmp_path))
    assert entries["a.html"].gone
    assert entries["a.html"].problem == "no longer exists (status 410)"
    assert not entries["b"].gone
    assert entries["b"].problem == "the server answered with status 503"


def test_a_list_is_a_url_too(site: Website, links: Path, tmp_path: Path) -> None:
    location = site.put("/links.txt", links.read_bytes())
    source = opened(location, tmp_path)
    assert list(listed(source)) == ["a.html", "b"]
    assert source.location == f"links:{location}"
    with pytest.raises(SourceNotFoundError, match="no longer exists"):
        list(opened(f"{site.url}/none.txt", tmp_path).list())


def test_lines_that_are_no_web_addresses_are_reported(site: Website, links: Path, tmp_path: Path) -> None:
    write(links, "file:///etc/passwd", "/etc/passwd", f"{site.url}/b")
    problems = {entry.key: entry.problem for entry in opened(links, tmp_path).list()}
    assert problems == {
        "/etc/passwd": "'/etc/passwd' is not an http(s) URL",
        "file:///etc/passwd": "'file:///etc/passwd' is not an http(s) URL",
        f"{site.url}/b": None,
    }


def test_the_declared_format_and_encoding_count(site: Website, tmp_path: Path) -> None:
    urls = [
        site.put("/doc?id=7", b"%PDF-1.7 ", "application/pdf"),
        site.put("/readme.md", "<html><p>A page about a file.", "text/html"),
        site.put("/raw.md", "# A file", "text/plain"),
        site.put("/old.html", "<html><p>Über".encode("latin-1"), "text/html; charset=iso-8859-1"),
    ]
    write(tmp_path / "links.txt", *urls)
    source = opened(tmp_path / "links.txt", tmp_path)
    entries = listed(source)
    assert {path: entry.suffix for path, entry in entries.items()} == {
        "doc?id=7": ".pdf",
        "readme.md": ".html",
        "raw.md": "",
        "old.html": ".html",
    }
    assert source.fetch(entries["old.html"]).read_text("utf-8-sig") == "<html><p>Über"


def test_links_are_followed_below_the_folder_of_the_page(site: Website, tmp_path: Path) -> None:
    start = site.put(
        "/docs/index.html",
        '<a href="one.html#part">1</a> <a href="/other.html">2</a> <a href="two.html" rel="nofollow">3</a> '
        '<a href="http://localhost/docs/">4</a> <a href="gone.html">5</a> <a href="index.html">6</a>',
        "text/html",
    )
    site.put("/docs/one.html", '<a href="sub/deep.html">', "text/html")
    site.put("/docs/sub/deep.html", '<a href="deeper.html">', "text/html")
    assert list(listed(opened(f"<{start}>", tmp_path))) == ["docs/index.html"]
    site.asked()
    entries = listed(opened(f"<{start}>", tmp_path, depth=2))
    assert list(entries) == ["docs/gone.html", "docs/index.html", "docs/one.html", "docs/sub/deep.html"]
    assert entries["docs/gone.html"].gone
    few = listed(opened(f"<{start}>", tmp_path, depth=2, max_pages=1))
    assert list(few) == ["docs", "docs/index.html"]
    assert "more than 1 pages" in str(few["docs"].problem)


def test_pages_below_an_unreadable_page_stay(site: Website, tmp_path: Path) -> None:
    start = f"{site.url}/docs/"
    site.answer("/docs/", 503)
    entries = list(opened(f"<{start}>", tmp_path, depth=1).list())
    # The name of the folder, so that the run keeps everything below it.
    assert {entry.name.partition("/")[2] for entry in entries} == {"docs"}
    assert "its links are unknown" in str(entries[1].problem)
    site.put("/docs/", '<a href="one.html">', "text/html")
    site.put("/docs/one.html", "<p>One", "text/html")
    assert len(listed(opened(f"<{start}>", tmp_path, depth=1))) == 2
    site.answer("/docs/", 503)
    entries = list(opened(f"<{start}>", tmp_path, depth=1).list())
    assert [(entry.name.rpartition("/")[2], entry.problem is None) for entry in entries] == [
        ("docs", False),
        ("one.html", True),
    ]


def test_a_closed_source_stops(site: Website, links: Path, tmp_path: Path) -> None:
    source = opened(links, tmp_path)
    source.close()
    with pytest.raises(SourceNotFoundError, match="interrupted"):
        list(source.list())
    assert site.requests == []


def test_web_addresses_need_no_name_of_the_source(tmp_path: Path) -> None:
    source = open_source("https://example.org/a?b=c", tmp_path)
    assert source.location == "https://example.org/a?b=c"
    assert source.prefix == "example.org"


def test_sitemaps_may_be_nested_and_packed(site: Website, tmp_path: Path) -> None:
    pages = [site.put(f"/{name}.html", f"<p>{name}", "text/html") for name in ("a", "b")]
    inner = f"<urlset><url><loc> {pages[0]}?x=1&amp;y=2 </loc><image:loc>{site.url}/c.png</image:loc></url></urlset>"
    urls = [
        site.put("/inner.xml.gz", gzip.compress(inner.encode()), "application/gzip"),
        site.put("/other.xml", f"<urlset><url><loc><![CDATA[{pages[1]}]]></loc></url></urlset>"),
        f"{site.url}/sitemap.xml",
    ]
    index = "".join(f"<sitemap><loc>{url}</loc></sitemap>" for url in urls)
    location = site.put("/sitemap.xml", f"<sitemapindex>{index}</sitemapindex>")
    site.pages["/a.html?x=1&y=2"] = site.pages["/a.html"]
    source = SitemapSource(location, tmp_path / "cache", settings())
    assert list(listed(source)) == ["a.html?x=1&y=2", "b.html"]
    site.answer("/other.xml", 503)
    with pytest.raises(SourceNotFoundError, match="status 503"):
        list(SitemapSource(location, tmp_path / "cache", settings()).list())
    site.put("/bomb.xml", gzip.compress(b" " * 60_000_000), "application/gzip")
    with pytest.raises(SourceNotFoundError, match="at most"):
        list(SitemapSource(f"{site.url}/bomb.xml", tmp_path / "cache", settings()).list())


@pytest.mark.usefixtures("loopback_is_read")
async def test_an_index_follows_a_list(
    site: Website,
    links: Path,
    make_settings: Callable[..., IngestSettings],
) -> None:
    site.answer("/moved", 301, Location="/c")
    wheel = "https://example.org/wheel"
    site.put(
        "/c", f'<html><title>Wheel</title><link rel="canonical" href="{wheel}"><p>The wheel is for clay.', "text/html"
    )
    write(links, f"{site.url}/a.html", f"{site.url}/b", f"{site.url}/moved")
    run = make_settings()
    root = IndexRoot(run.index_root, run.index_name)

    def documents() -> dict[str, str | None]:
        with root.open() as version:
            return {document.title: document.url for document in version.documents()}

    summary = await pipeline.run(run, [f"links:{links}"])
    assert (summary.documents, summary.skipped) == (3, {})
    assert documents() == {
        "Kiln": f"{site.url}/a.html",
        "Shelf": f"{site.url}/b",
        "Wheel": wheel,
    }

    site.answer("/a.html", 404)
    site.answer("/b", 503)
    summary = await pipeline.run(run, [f"links:{links}"])
    name = site.url.removeprefix("http://")
    assert summary.skipped == {
        f"{name}/a.html": "no longer exists (status 404)",
        f"{name}/b": "the server answered with status 503",
    }
    assert (summary.stale, summary.deleted) == ([f"{name}/b"], 1)
    assert set(documents()) == {"Shelf", "Wheel"}

    write(links, "# nothing")
    with pytest.raises(SourceNotFoundError, match="the list has no links; the index is unchanged"):
        await pipeline.run(run, [f"links:{links}"])
    assert root.current() == summary.version


@pytest.mark.usefixtures("loopback_is_read")
async def test_a_watched_list_is_read_again(
    site: Website,
    links: Path,
    make_settings: Callable[..., IngestSettings],
) -> None:
    run = make_settings()
    first = await pipeline.run(run, [f"links:{links}"])
    service = IngestServerSettings(**run.model_dump(), watch_s=0.01)
    root = IndexRoot(run.index_root, run.index_name)
    watching = asyncio.create_task(watch(service, ServedIndex(service, run.index_name)))
    try:
        write(links, f"{site.url}/b")
        await asyncio.to_thread(until, lambda: root.current() != first.version)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    with root.open() as version:
        assert [document.title for document in version.documents()] == ["Shelf"]
