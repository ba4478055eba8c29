"""Serves the files of the built page from memory, compressed and with caching headers."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response

INDEX = "index.html"

NOT_BUILT = "The page is not built: run `make page`."

_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".gif": "image/gif",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/vnd.microsoft.icon",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".map": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}
"""Media types by suffix. Python's own table depends on the machine."""
_COMPRESSED_ALREADY = {".gif", ".jpg", ".png", ".webp", ".woff2"}

_CODINGS = {"br": ".br", "gzip": ".gz"}
"""Content coding → suffix of files compressed with it. The best coding comes first."""
_REFUSED = re.compile(r"q\s*=\s*0(\.0{0,3})?")
_WORTH_COMPRESSING_BYTES = 1000

_HASHED = "assets/"
"""Folder of the files whose names contain a hash of their content, so that browsers may cache them forever."""


@dataclass(frozen=True)
class Asset:
    """A file of the page."""

    media_type: str
    cache_control: str
    etag: str
    """Weak, because it is the same for all codings."""
    bodies: Mapping[str, bytes]
    """Content coding → bytes; always includes "identity"."""

    def response(self, headers: Headers) -> Response:
        """The response to a GET with these headers: 200, or 304 if the browser has cached the file."""
        known = [tag.strip() for tag in headers.get("if-none-match", "").split(",")]
        sent = {"etag": self.etag, "cache-control": self.cache_control, "vary": "accept-encoding"}
        if self.etag in known or "*" in known:
            return Response(status_code=304, headers=sent)
        coding = self._coding(headers.get("accept-encoding", ""))
        if coding != "identity":
            sent["content-encoding"] = coding
        return Response(self.bodies[coding], headers={**sent, "content-type": self.media_type})

    def _coding(self, accepted: str) -> str:
        offers = (each.partition(";") for each in accepted.lower().split(","))
        allowed = {name.strip() for name, _, weight in offers if not _REFUSED.fullmatch(weight.strip())}
        return next((coding for coding in _CODINGS if coding in self.bodies and coding in allowed), "identity")


class Page:
    """The built page. A build that finishes while the server runs is picked up at the next visit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._assets: Mapping[str, Asset] = {}
        self._built_ns = 0

    def index(self) -> Asset | None:
        """The page itself; None if it is not built."""
        try:
            built_ns = (self._folder / INDEX).stat().st_mtime_ns
        except OSError:
            # A build is running: keep the previous page.
            return self._assets.get(INDEX)
        if built_ns != self._built_ns:
            self._assets, self._built_ns = _read(self._folder), built_ns
        return self._assets.get(INDEX)

    def find(self, path: str) -> Asset | None:
        """A file by its path, without a leading slash; None if it does not exist."""
        return self.index() if path in ("", INDEX) else self._assets.get(path)


def _read(folder: Path) -> dict[str, Asset]:
    assets = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix not in _CODINGS.values():
            name = path.relative_to(folder).as_posix()
            assets[name] = _asset(
                path, "public, max-age=31536000, immutable" if name.startswith(_HASHED) else "no-cache"
            )
    return assets


def _asset(path: Path, cache_control: str) -> Asset:
    content = path.read_bytes()
    bodies = {"identity": content}
    for coding, suffix in _CODINGS.items():
        compressed = path.with_name(path.name + suffix)
        if compressed.is_file():
            bodies[coding] = compressed.read_bytes()
    if "gzip" not in bodies and len(content) >= _WORTH_COMPRESSING_BYTES and path.suffix not in _COMPRESSED_ALREADY:
        bodies["gzip"] = gzip.compress(content, mtime=0)
    digest = hashlib.sha256(content).hexdigest()[:32]
    return Asset(_MEDIA_TYPES.get(path.suffix, "application/octet-stream"), cache_control, f'W/"{digest}"', bodies)
