"""The page's files: caching, compression, and security headers."""

from __future__ import annotations

import gzip
from pathlib import Path

import httpx
import pytest

from tests.frontend.page_servers import SCRIPT, RunFrontend, Wire, build

JS = "/assets/index-3f2a.js"
CSS = "/assets/index-77c1.css"
HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def test_the_page_is_revalidated_and_sent_once(client: httpx.Client) -> None:
    page = client.get("/", headers=HTML)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    etag = page.headers["etag"]
    for known in (etag, f'"other", {etag}', "*"):
        again = client.get("/", headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert client.get("/", headers={"if-none-match": '"other"'}).status_code == 200
    assert client.get("/index.html").content == page.content


def test_files_with_a_hash_in_their_name_are_cached(client: httpx.Client) -> None:
    for path in (JS, CSS, "/assets/serif-9d.woff2"):
        assert client.get(path).headers["cache-control"] == "public, max-age=31536000, immutable"
    assert client.get("/icon.svg").headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        (JS, "text/javascript; charset=utf-8"),
        (CSS, "text/css; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
        ("/assets/serif-9d.woff2", "font/woff2"),
    ],
)
def test_media_types(client: httpx.Client, path: str, media_type: str) -> None:
    assert client.get(path).headers["content-type"] == media_type


@pytest.mark.parametrize(
    ("path", "accepted", "coding"),
    [
        (JS, "gzip, deflate, br, zstd", "gzip"),
        (JS, "br;q=1.0, gzip;q=0.8", "gzip"),
        (JS, "gzip;q=0", None),
        (JS, "identity", None),
        (JS, "", None),
        (CSS, "gzip, br", "br"),  # by the build
        (CSS, "gzip, br;q=0", "gzip"),
        ("/assets/serif-9d.woff2", "gzip, br", None),  # already compressed
        ("/", "gzip, br", None),  # too small
    ],
)
def test_files_are_compressed_as_the_browser_accepts(
    client: httpx.Client, path: str, accepted: str, coding: str | None
) -> None:
    with client.stream("GET", path, headers={"accept-encoding": accepted}) as response:
        raw = b"".join(response.iter_raw())
    assert response.headers.get("content-encoding") == coding
    assert response.headers["vary"] == "accept-encoding"
    assert len(raw) == int(response.headers["content-length"])
    if coding == "br":
        assert raw == b"what the build made of it"
    elif path == JS:
        assert (gzip.decompress(raw) if coding else raw) == SCRIPT.encode()


def test_head_is_get_without_its_body(client: httpx.Client) -> None:
    head, get = client.head(JS), client.get(JS)
    assert head.content == b""
    kept = ("content-length", "content-type", "etag", "cache-control")
    assert {name: head.headers[name] for name in kept} == {name: get.headers[name] for name in kept}


def test_a_view_of_the_page_is_the_page(client: httpx.Client) -> None:
    assert client.get("/documents", headers=HTML).content == client.get("/").content


@pytest.mark.parametrize(
    ("method", "path", "accept"),
    [
        ("GET", "/documents", "application/json"),
        ("GET", "/missing.js", HTML["accept"]),
        ("GET", "/assets/index-0000.js", HTML["accept"]),
        ("GET", "/a/b", HTML["accept"]),
        ("GET", "/assets", "*/*"),
        ("GET", "/api", "*/*"),
        ("GET", "/api/nothing", HTML["accept"]),
        ("POST", "/", HTML["accept"]),
        ("PUT", JS, "*/*"),
        ("GET", "/%2e%2e/settings.py", "*/*"),
        ("GET", "/assets/..%2f..%2fsettings.py", "*/*"),
        ("GET", "/index-77c1.css.br", "*/*"),
        ("GET", CSS + ".br", "*/*"),
        ("GET", "/docs", "*/*"),
        ("GET", "/openapi.json", "*/*"),
    ],
)
def test_other_paths_are_not_found(client: httpx.Client, method: str, path: str, accept: str) -> None:
    response = client.request(method, path, headers={"accept": accept})
    assert response.status_code == 404
    assert response.json()["code"] == "not_found"


def test_the_page_may_load_only_from_its_own_origin(client: httpx.Client) -> None:
    response = client.get("/")
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'self'"
    assert policy["base-uri"] == policy["form-action"] == "'none'"
    assert not [source for source in policy.values() if "unsafe" in source or "http" in source or "*" in source]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "same-origin"
    assert "microphone=()" in response.headers["permissions-policy"]
    assert "server" not in response.headers
    assert "access-control-allow-origin" not in client.get("/", headers={"origin": "https://example.com"}).headers


@pytest.mark.parametrize("path", ["/api/config", "/api/nothing", "/api/transformer/v1/documents/html"])
def test_data_responses_are_sandboxed(client: httpx.Client, path: str) -> None:
    """Not even if it is opened in a tab and a service has sent HTML."""
    response = client.get(path, headers=HTML)
    assert response.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'; sandbox"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"


def test_configuration(client: httpx.Client) -> None:
    config = client.get("/api/config").json()
    assert config.keys() == {"version", "ingest", "title"}
    assert config["ingest"] is True


def test_settings_reach_the_browser(run_frontend: RunFrontend, built: Path) -> None:
    with run_frontend(
        FRONTEND_PAGE_DIR=str(built),
        FRONTEND_TITLE="Ask the handbook",
        FRONTEND_FRAME_ANCESTORS="'self' https://portal.example.com",
        FRONTEND_VERSION="1.2.3",
        FRONTEND_INGEST_URL="",
    ) as running:
        config = httpx.get(f"{running.url}/api/config", trust_env=False).json()
        policy = httpx.get(running.url, trust_env=False).headers["content-security-policy"]
    assert config == {"version": "1.2.3", "ingest": False, "title": "Ask the handbook"}
    assert policy.endswith("frame-ancestors 'self' https://portal.example.com")


def test_an_unbuilt_page_says_so_until_it_is_built(run_frontend: RunFrontend, wire: Wire, tmp_path: Path) -> None:
    folder = tmp_path / "dist"
    with (
        run_frontend(FRONTEND_PAGE_DIR=str(folder), FRONTEND_TRANSFORMER_URL=wire.url) as running,
        httpx.Client(base_url=running.url, trust_env=False) as client,
    ):
        ready = client.get("/ready")
        assert (ready.status_code, ready.json()["code"]) == (503, "not_ready")
        assert "make page" in ready.json()["error"]
        page = client.get("/", headers=HTML)
        assert (page.status_code, page.headers["content-type"]) == (503, "text/html; charset=utf-8")
        assert "make page" in page.text
        assert client.get("/api/config").status_code == 200
        assert client.get("/api/transformer/openai/v1/models").status_code == 200

        build(folder)
        assert client.get("/ready").status_code == 200
        assert client.get("/").status_code == client.get(JS).status_code == 200

        (folder / "index.html").write_text("<!doctype html>second build")
        assert "second build" in client.get("/").text
        (folder / "index.html").unlink()  # during the next build
        assert "second build" in client.get("/").text
