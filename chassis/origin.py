"""Rejects requests that a browser sends for a page of another origin."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from chassis.errors import ForbiddenError


def check_origin(headers: Mapping[str, str], *, require_origin: bool = False) -> None:
    """Raises ForbiddenError for a cross-site request, to which a browser or a proxy may have added credentials.

    Args:
        headers: the request's headers, case-insensitive.
        require_origin: whether to reject requests without an origin as well. Browsers send one, programs do not.

    Source: https://www.w3.org/TR/fetch-metadata/ (sent by browsers over HTTPS and to loopback only) and
    https://fetch.spec.whatwg.org/#origin-header
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        same = site == "same-origin"
    elif origin is not None:
        same = _netloc(origin) == headers.get("host", "").lower()
    else:
        same = not require_origin
    if not same:
        raise ForbiddenError("Cross-site requests are rejected: use a page of this origin, or a program.")


def _netloc(origin: str) -> str | None:
    """Host and port in lower case; None if it is not a URL."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None
