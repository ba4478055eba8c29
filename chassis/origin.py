"""Where a request comes from, as browsers tell it."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from chassis.errors import ForbiddenError


def check_origin(headers: Mapping[str, str], *, evidence: bool = False) -> None:
    """Refuses what a page of another site has a browser send, with the credentials that are added on the way.

    Args:
        headers: of the request, case-insensitive.
        evidence: whether what does not say where it comes from is refused too: programs never do, browsers always.

    Raises:
        ForbiddenError: the request does not come from a page of this very address.

    Source: https://www.w3.org/TR/fetch-metadata/ and https://fetch.spec.whatwg.org/#origin-header; browsers send the
    first over HTTPS and to loopback only.
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
    """Host and port, lower case; None where it is no URL."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None
