"""The files of the built page: read once, kept compressed, served with caching headers."""

from __future__ import annotations

import gzip
import hashlib
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
"""Told here, because Python's own table grows with the machine's."""
_COMPRESSED_ALREADY = {".gif", ".jpg", ".png", ".webp", ".woff2"}

_CODINGS = {"br": ".br", "gzip": ".gz"}
"""Content coding → what the build calls a file in it. The best first."""
_WORTH_COMPRESSING_BYTES = 1000

_HASHED = "assets/"
"""Folder of the files whose names hold a hash of what is in them: under one name there is never anything else."""


@dataclass(frozen=True)
class Asset:
    """A file of the page."""

    media_type: str
    cache_control: str
    etag: str
    """The same in every coding, and so a weak one."""
    bodies: Mapping[str, bytes]
    """Content coding → bytes. "identity" is always there."""

    def response(self, headers: Headers) -> Response:
        """The answer to a GET with these headers: 200, or 304 where the browser has it."""
        known = [tag.strip() for tag in headers.get("if-none-match", "").split(",")]
        told = {"etag": self.etag, "cache-control": self.cache_control, "vary": "accept-encoding"}
        if self.etag in known or "*" in known:
            return Response(status_code=304, headers=told)
        coding = self._coding(headers.get("accept-encoding", ""))
        if coding != "identity":
            told["content-encoding"] = coding
        return Response(self.bodies[coding], headers={**told, "content-type": self.media_type})

    def _coding(self, accepted: str) -> str:
        weights = {}
        for each in accepted.lower().split(","):
            name, _, weight = each.partition(";")
            weights[name.strip()] = weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
        return next((coding for coding in _CODINGS if coding in self.bodies and weights.get(coding, False)), "identity")


class Page:
    """The page as its build has left it. A build that ends while the server runs is found at the next visit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._assets: Mapping[str, Asset] = {}
        self._built_ns = 0

    def index(self) -> Asset | None:
        """The page itself; None where it is not built."""
        try:
            built_ns = (self._folder / INDEX).stat().st_mtime_ns
        except OSError:
            # In the middle of a build, the one before it.
            return self._assets.get(INDEX)
        if built_ns != self._built_ns:
            self._assets, self._built_ns = _read(self._folder), built_ns
        return self._assets.get(INDEX)

    def find(self, path: str) -> Asset | None:
        """A file by its path in the page, without a slash before it. None: there is no such file."""
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
        made = path.with_name(path.name + suffix)
        if made.is_file():
            bodies[coding] = made.read_bytes()
    if "gzip" not in bodies and len(content) >= _WORTH_COMPRESSING_BYTES and path.suffix not in _COMPRESSED_ALREADY:
        bodies["gzip"] = gzip.compress(content, mtime=0)
    digest = hashlib.sha256(content).hexdigest()[:32]
    return Asset(_MEDIA_TYPES.get(path.suffix, "application/octet-stream"), cache_control, f'W/"{digest}"', bodies)
