"""The web page's server: files, configuration, and a proxy to the graph, on one origin."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from html import escape
from typing import Any

from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis.errors import NotFoundError
from chassis.principal import signer
from chassis.relay import Relay
from frontend.assets import NOT_BUILT, Page
from frontend.proxy import INGEST, TRANSFORMER, proxy_routes
from frontend.settings import FrontendSettings

TRANSFORMER_PREFIX = "/api/transformer"
INGEST_PREFIX = "/api/ingest"

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def application(settings: FrontendSettings, page: Page) -> FastAPI:
    """The application, for `chassis.serving.serve`."""
    transformer = Relay(settings.transformer_url, name="transformer", signer=signer(settings, "transformer"))
    ingest = None
    if settings.ingest_url:
        ingest = Relay(settings.ingest_url, name="ingest service", signer=signer(settings, "ingest"))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        page.index()
        yield
        await transformer.aclose()
        if ingest is not None:
            await ingest.aclose()

    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.add_middleware(SecurityHeaders, frame_ancestors=settings.frame_ancestors)
    limits = {"timeout_s": settings.timeout_s, "transfer_timeout_s": settings.transfer_timeout_s}
    app.include_router(proxy_routes(TRANSFORMER_PREFIX, transformer, TRANSFORMER, **limits))
    if ingest is not None:
        app.include_router(proxy_routes(INGEST_PREFIX, ingest, INGEST, **limits))

    @app.get("/api/config")
    async def config() -> dict[str, Any]:
        return {"version": settings.version, "ingest": ingest is not None, "title": settings.title}

    @app.api_route("/api", methods=_METHODS)
    @app.api_route("/api/{path:path}", methods=_METHODS)
    async def nothing(request: Request, path: str = "") -> None:
        if ingest is None and path.startswith("ingest/"):
            raise NotFoundError("No ingest service is configured here, so documents cannot be uploaded.")
        raise NotFoundError(f"There is no {request.method} {request.url.path} here.")

    # Not a route, because `serve` adds routes later, which no file may hide.
    app.router.default = _files(page, app.router.default)
    return app


def _files(page: Page, fallback: ASGIApp) -> ASGIApp:
    """Serves the page's files. Other requests go to `fallback`."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            request, path = Request(scope), scope["path"].removeprefix("/")
            navigates = _is_navigation(path, request.headers)
            asset = page.find(path) or (page.index() if navigates else None)
            if asset is not None:
                await asset.response(request.headers)(scope, receive, send)
                return
            if navigates:
                await HTMLResponse(_NOT_BUILT_PAGE, 503, {"retry-after": "5"})(scope, receive, send)
                return
        await fallback(scope, receive, send)

    return answer


def _is_navigation(path: str, headers: Headers) -> bool:
    """Whether a browser navigates to a view of the page: the root, or a name without a suffix."""
    return not path or ("/" not in path and "." not in path and "text/html" in headers.get("accept", ""))


_NOT_BUILT_PAGE = (
    f"<!doctype html><html lang=en><meta charset=utf-8><title>Not ready</title><p>{escape(NOT_BUILT)}</p></html>"
)


class SecurityHeaders:
    """Adds the security headers."""

    def __init__(self, inner: ASGIApp, *, frame_ancestors: str) -> None:
        """`frame_ancestors`: sites that may embed the page."""
        self._inner = inner
        self._for_page = _headers(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
            "connect-src 'self'; manifest-src 'self'; form-action 'none'; base-uri 'none'; "
            f"frame-ancestors {frame_ancestors}"
        )
        self._for_data = _headers("default-src 'none'; frame-ancestors 'none'; sandbox")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        is_data = scope["path"].startswith("/api/")
        headers = self._for_data if is_data else self._for_page

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent = list(message.get("headers", ()))
                if is_data and not any(name == b"cache-control" for name, _ in sent):
                    sent.append((b"cache-control", b"no-store"))
                message["headers"] = [*sent, *headers]
            await send(message)

        await self._inner(scope, receive, send_with_headers)


def _headers(policy: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    ]
