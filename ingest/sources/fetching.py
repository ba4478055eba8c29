"""Fetches web pages for the sources: only from permitted hosts and addresses, and within limits.

A name is resolved once per run, all its addresses are checked, and connections go to these addresses, so that a name
cannot pass the check with one address and be used with another. Each redirect is a new request with the same checks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import ipaddress
import re
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

import httpcore
import httpx
import webencodings
from protego import Protego
from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from chassis.settings import split

_OF_THE_HOST = (ipaddress.ip_network("168.63.129.16/32"), ipaddress.ip_network("192.0.0.0/24"))
"""Services of the host in clouds: Azure's (Microsoft, "What is IP address 168.63.129.16?"), and protocol assignments
(RFC 6890), which Oracle's metadata uses and which Python before 3.11.10 calls global."""
_NO_URL = re.compile(r"[\x00-\x20\x7f\\]")
_TEXT_TYPES = ("text/html", "text/plain", "text/csv", "text/markdown", "text/x-markdown")
_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_BLOCK_BYTES = 64 * 1024
_MAX_ROBOTS_BYTES = 512 * 1024
"""Source: RFC 9309, section 2.5: at least 500 KiB are read."""
_MAX_FAILURES = 3
"""A host that did not respond so many times in a row is not asked again in the run."""
_MAX_CRAWL_DELAY_S = 30.0

_Hosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(split)]


class WebSettings(BaseSettings):
    """How sources read the web."""

    model_config = SettingsConfigDict(env_prefix="INGEST_WEB_")

    hosts: _Hosts = Field(
        (),
        description="Hosts that may be read, separated by commas; `.example.org` is the domain with its subdomains. "
        "Default: all hosts with public addresses.",
    )
    private_hosts: _Hosts = Field(
        (),
        description="Hosts that may have private, loopback, link-local or metadata addresses, separated by commas. "
        "Default: none.",
    )
    depth: int = Field(
        0, ge=0, le=100, description="Follow the links of a page this many steps, below the folder of its URL."
    )
    max_pages: int = Field(10_000, ge=1, description="Maximum number of pages per source.")
    max_bytes: int = Field(64 * 1024**2, ge=1024, description="Maximum size of a page or file, unpacked, in bytes.")
    timeout_s: float = Field(60, gt=0, le=3600, description="Maximum time of a request with its response, in seconds.")
    max_redirects: int = Field(5, ge=0, le=20, description="Maximum number of redirects per page.")
    requests_per_s: float = Field(
        4, gt=0, description="Maximum number of requests per second and host. A longer Crawl-delay of the host counts."
    )
    max_age_s: float = Field(
        0, ge=0, description="A page is not requested again for this time, in seconds. Lists of links always are."
    )
    robots: bool = Field(True, description="Whether to follow robots.txt. Switch it off only for your own hosts.")
    user_agent: str = Field(
        "kserve-rag", pattern=r"^[A-Za-z_-]+$", description="Product name in requests and in robots.txt."
    )


class NotFetchedError(Exception):
    """A page cannot be read now, or must not be read. The message is the reason."""


class GoneError(NotFetchedError):
    """The page no longer exists (404, 410)."""


class StoppedError(Exception):
    """The source was closed."""


class Validators(Protocol):
    """Validators of an earlier response, for a conditional request."""

    @property
    def etag(self) -> str | None:
        """Its ETag."""

    @property
    def modified(self) -> str | None:
        """Its Last-Modified."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fetched:
    """A response."""

    url: str
    """Its URL after all redirects."""
    sha256: str | None
    """Digest of the content, and its name in the folder; None: not modified since the earlier response."""
    content_type: str = ""
    """Media type, lower case, without parameters."""
    etag: str | None = None
    modified: str | None = None


class Fetcher:
    """Fetches pages, one at a time. A context manager."""

    def __init__(self, settings: WebSettings, folder: Path, stopped: threading.Event) -> None:
        """`folder`: where contents are written. After `stopped` is set, requests raise StoppedError."""
        self._settings = settings
        self._folder = folder
        self._stopped = stopped
        self._backend = _PinnedBackend(settings.private_hosts)
        self._pool = httpcore.ConnectionPool(ssl_context=httpx.create_ssl_context(), network_backend=self._backend)
        self._robots: dict[str, Protego | NotFetchedError | None] = {}
        self._asked: dict[str, float] = {}
        self._failures: dict[str, int] = {}

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def fetch(self, url: str, known: Validators | None = None) -> Fetched:
        """The content of a page, unless it equals that of the earlier response.

        Text is stored with a byte order mark if the response declares an encoding, which overrides the page's own.

        Raises:
            GoneError: it no longer exists.
            NotFetchedError: it cannot or must not be read.
            StoppedError: the source was closed.
        """
        conditions = {} if known is None else {"If-None-Match": known.etag, "If-Modified-Since": known.modified}
        headers = {name: value for name, value in conditions.items() if value}
        with self._following(url, headers, robots=self._settings.robots) as (final, response):
            if response.status == 304 and known is not None:
                return Fetched(final, None)
            if response.status in (404, 410):
                raise GoneError(f"no longer exists (status {response.status})")
            if response.status != 200:
                raise NotFetchedError(f"the server answered with status {response.status}")
            found = httpx.Headers(response.headers)
            kind, charset = _content_type(found.get("content-type", ""))
            digest = self._store(self._content(response, self._settings.max_bytes), charset)
            return Fetched(final, digest, kind, found.get("etag"), found.get("last-modified"))

    @contextlib.contextmanager
    def _following(
        self, url: str, headers: Mapping[str, str], *, robots: bool
    ) -> Iterator[tuple[str, httpcore.Response]]:
        """The response after redirects, and its URL."""
        for _ in range(self._settings.max_redirects + 1):
            asked = self._checked(url)
            if robots:
                self._check_robots(asked)
            with self._response(asked, headers) as response:
                location = httpx.Headers(response.headers).get("location")
                if response.status not in (301, 302, 303, 307, 308) or location is None:
                    yield str(asked), response
                    return
            try:
                url = str(asked.join(location).copy_with(fragment=None))
            except (httpx.InvalidURL, ValueError):
                raise NotFetchedError("redirects to something that is not a URL") from None
        raise NotFetchedError(f"redirects more than {self._settings.max_redirects} times (INGEST_WEB_MAX_REDIRECTS)")

    def _checked(self, url: str) -> httpx.URL:
        parsed = parse_url(url)
        hosts = self._settings.hosts
        if hosts and not any(_matches(parsed.host, allowed) for allowed in hosts):
            raise NotFetchedError(f"host {parsed.host} is not among the hosts that may be read (INGEST_WEB_HOSTS)")
        return parsed

    def _check_robots(self, url: httpx.URL) -> None:
        origin = str(url.copy_with(raw_path=b"/robots.txt", fragment=None))
        if origin not in self._robots:
            try:
                self._robots[origin] = self._read_robots(origin)
            except NotFetchedError as error:
                self._robots[origin] = NotFetchedError(f"robots.txt of {url.host} cannot be read: {error}")
        rules = self._robots[origin]
        if isinstance(rules, NotFetchedError):
            raise rules
        if rules is not None and not rules.can_fetch(str(url), self._settings.user_agent):
            raise NotFetchedError("robots.txt of the host does not permit to read it (INGEST_WEB_ROBOTS)")

    def _read_robots(self, url: str) -> Protego | None:
        """The rules. None if there are none; 5xx and no response forbid everything (RFC 9309, section 2.3.1)."""
        with self._following(url, {}, robots=False) as (_, response):
            if 400 <= response.status < 500 and response.status != 429:
                return None
            if response.status != 200:
                raise NotFetchedError(f"the server answered with status {response.status}")
            with contextlib.suppress(_TooLargeError):
                content = b""
                for block in self._content(response, _MAX_ROBOTS_BYTES):
                    content += block
        return Protego.parse(content.decode("utf-8-sig", "replace"))

    @contextlib.contextmanager
    def _response(self, url: httpx.URL, headers: Mapping[str, str]) -> Iterator[httpcore.Response]:
        host = url.host
        if self._failures.get(host, 0) >= _MAX_FAILURES:
            raise NotFetchedError(f"{host} did not respond {_MAX_FAILURES} times: not asked again in this run")
        self._wait(url)
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        sent = [
            ("Host", url.netloc.decode("ascii")),
            ("User-Agent", self._settings.user_agent),
            ("Accept", "*/*"),
            ("Accept-Encoding", "gzip"),
            *headers.items(),
        ]
        self._backend.deadline = time.monotonic() + self._settings.timeout_s
        try:
            with self._pool.stream("GET", target, headers=sent) as response:
                yield response
        except httpcore.TimeoutException:
            self._failures[host] = self._failures.get(host, 0) + 1
            raise NotFetchedError(f"no complete response in {self._settings.timeout_s:g} s") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, zlib.error) as error:
            self._failures[host] = self._failures.get(host, 0) + 1
            reason = str(error) or type(error).__name__
            raise NotFetchedError(f"the request failed: {reason[:200]}") from None
        except NotFetchedError:
            self._failures[host] = 0
            raise
        self._failures[host] = 0

    def _wait(self, url: httpx.URL) -> None:
        """Waits until the host may be asked again."""
        pause = 1 / self._settings.requests_per_s
        rules = self._robots.get(str(url.copy_with(raw_path=b"/robots.txt", fragment=None)))
        if isinstance(rules, Protego):
            delay = rules.crawl_delay(self._settings.user_agent) or 0.0
            pause = max(pause, min(delay, _MAX_CRAWL_DELAY_S))
        left = self._asked.get(url.host, -pause) + pause - time.monotonic()
        if self._stopped.wait(max(left, 0)):
            raise StoppedError
        self._asked[url.host] = time.monotonic()

    def _content(self, response: httpcore.Response, limit: int) -> Iterator[bytes]:
        """The unpacked content. Raises _TooLargeError when it exceeds the limit."""
        coding = httpx.Headers(response.headers).get("content-encoding", "identity").lower()
        if coding not in ("identity", "gzip", "x-gzip", "deflate"):
            raise NotFetchedError(f"the server sent the encoding {coding[:40]!r}, which was not asked for")
        unpacker = None if coding == "identity" else zlib.decompressobj(wbits=47)
        size = 0
        for block in response.iter_stream():
            if self._stopped.is_set():
                raise StoppedError
            pending = block
            while pending:
                if unpacker is None:
                    unpacked, pending = pending, b""
                else:
                    unpacked = unpacker.decompress(pending, _BLOCK_BYTES)
                    pending = unpacker.unconsumed_tail
                size += len(unpacked)
                if size > limit:
                    raise _TooLargeError(f"larger than {limit:,} bytes (INGEST_WEB_MAX_BYTES)")
                yield unpacked

    def _store(self, blocks: Iterable[bytes], charset: str) -> str:
        """Writes the content to a file that its digest names."""
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / ".new"
        with temporary.open("wb") as file:
            file.writelines(blocks)
        if charset:
            _declare_encoding(temporary, charset)
        with temporary.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
        temporary.replace(self._folder / digest.hexdigest())
        return digest.hexdigest()


class _TooLargeError(NotFetchedError):
    """The content exceeds its limit."""


def parse_url(url: str) -> httpx.URL:
    """A URL that may be requested. Raises NotFetchedError if it is not http(s), or hides its host."""
    if _NO_URL.search(url):
        raise NotFetchedError("is not a URL: it has spaces, backslashes or control characters")
    try:
        parsed = httpx.URL(url)
        port = 80 if parsed.port is None else parsed.port
    except (httpx.InvalidURL, ValueError):
        raise NotFetchedError("is not a URL") from None
    if parsed.scheme not in ("http", "https") or not parsed.host or not 0 < port < 65_536:
        raise NotFetchedError("is not an http(s) URL")
    if parsed.userinfo:
        raise NotFetchedError("has a user name or password: credentials in URLs are not sent")
    return parsed.copy_with(fragment=None)


def is_public(address: str) -> bool:
    """Whether an IP address is on the public Internet, and not a way to a private IPv4 address."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and (found.is_site_local or found.sixtofour or found.teredo):
        return False
    own = any(found in network for network in _OF_THE_HOST)
    return found.is_global and not found.is_multicast and not found.is_reserved and not own


def _matches(host: str, allowed: str) -> bool:
    allowed = allowed.lower()
    return host == allowed.lstrip(".") or (allowed.startswith(".") and host.endswith(allowed))


def _content_type(value: str) -> tuple[str, str]:
    """The media type, and for text the charset; empty if they are not declared."""
    kind, _, parameters = value.lower().partition(";")
    charset = re.search(r"charset\s*=\s*[\"']?([a-z0-9_.:-]{1,40})", parameters)
    kind = kind.strip()
    return kind, charset[1] if charset and kind in _TEXT_TYPES else ""


def _declare_encoding(file: Path, charset: str) -> None:
    """Rewrites the file as UTF-8 with a byte order mark, unless it has one or the encoding is unknown."""
    encoding = webencodings.lookup(charset)
    content = file.read_bytes()
    if encoding is None or content.startswith(_BOMS):
        return
    text, _ = webencodings.decode(content, encoding)
    file.write_text(text, encoding="utf-8-sig", newline="")


class _PinnedBackend(httpcore.NetworkBackend):
    """Connects to checked addresses only, and ends all I/O at `deadline` (`time.monotonic`)."""

    def __init__(self, private_hosts: Iterable[str]) -> None:
        self.deadline = 0.0
        self._private_hosts = tuple(private_hosts)
        self._backend = httpcore.SyncBackend()
        self._addresses: dict[str, list[str]] = {}

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        *others, last = self._resolved(host)
        for address in others:
            with contextlib.suppress(httpcore.ConnectError):
                return self._connect(address, port, local_address, socket_options)
        return self._connect(last, port, local_address, socket_options)

    def _connect(
        self, address: str, port: int, local_address: str | None, options: Iterable[Any] | None
    ) -> httpcore.NetworkStream:
        stream = self._backend.connect_tcp(address, port, left(self.deadline), local_address, options)
        return _BoundedStream(stream, self)

    def _resolved(self, host: str) -> list[str]:
        if host not in self._addresses:
            try:
                answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError):
                raise httpcore.ConnectError("the name of the host cannot be resolved") from None
            self._addresses[host] = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
        addresses = self._addresses[host]
        if not any(_matches(host, named) for named in self._private_hosts):
            for address in addresses:
                if not is_public(address):
                    raise NotFetchedError(
                        f"host {host} has the address {address}, which is not public (INGEST_WEB_PRIVATE_HOSTS)"
                    )
        return addresses


class _BoundedStream(httpcore.NetworkStream):
    """A connection whose I/O ends at the deadline of its backend."""

    def __init__(self, stream: httpcore.NetworkStream, backend: _PinnedBackend) -> None:
        self._stream = stream
        self._backend = backend

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, left(self._backend.deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, left(self._backend.deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self._stream.start_tls(ssl_context, server_hostname, left(self._backend.deadline))
        return _BoundedStream(stream, self._backend)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def left(deadline: float) -> float:
    """Seconds until the deadline. Raises httpcore.ReadTimeout after it."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise httpcore.ReadTimeout
    return seconds
