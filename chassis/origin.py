"""The origin of a browser's request."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from chassis.errors import ForbiddenError


def check_origin(headers: Mapping[str, str], *, evidence: bool = False) -> None:
    """Rejects cross-site requests, to which a browser or a proxy may add credentials.

    Args:
        headers: of the request, case-insensitive.
        evidence: whether to reject requests without an origin, too. Browsers send one, programs do not.

    Source: https://www.w3.org/TR/fetch-metadata/ (sent by browsers over HTTPS and to loopback only) and
    https://fetch.spec.whatwg.org/#origin-header
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        same = site == "same-origin"
    elif origin is not None:
        same = _netloc(origin) == headers.get("host", "").lower()
    else:
        same = not evidence
    if not same:
        raise ForbiddenError("A page of another address may not ask this. Programs may, and the page of this address.")


def _netloc(origin: str) -> str | None:
    """Host and port in lower case; None if it is not a URL."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None
