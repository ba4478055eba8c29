"""The documentation site, built with --strict and opened in a browser."""

from __future__ import annotations

import contextlib
import functools
import http.server
import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import lxml.html
import pytest
from pydantic_settings import BaseSettings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from tests.with_pages.conftest import PeopleGraph

ROOT = Path(__file__).parents[2]
ROOMS = ("transformer", "vectorstore", "ingest", "embedder", "predictor", "kserve_rag", "scaleout", "frontend")
CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    said = built.stdout + built.stderr
    assert built.returncode == 0, said
    assert "WARNING" not in said
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Any]:
    """Path below the site → the parsed page."""
    return {
        path.relative_to(site).as_posix(): lxml.html.parse(str(path)).getroot() for path in sorted(site.rglob("*.html"))
    }


# ── contents ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_setting_is_in_the_reference(pages: dict[str, Any]) -> None:
    shown = {code.text for code in pages["reference/settings/index.html"].iter("code")}
    missing = set(_variables()) - shown
    assert not missing


def test_a_setting_has_its_type_bounds_unit_default_and_meaning(pages: dict[str, Any]) -> None:
    page = pages["reference/settings/index.html"]
    (row,) = page.xpath("//tr[.//code[text()='VECTORSTORE_RELOAD_INTERVAL_S']]")
    assert [cell.text_content().strip() for cell in row] == [
        "VECTORSTORE_RELOAD_INTERVAL_Snumber, above 0 … 3600, seconds",
        "Seconds between checks for a new version.default 1.0",
    ]


def test_every_command_and_option_is_in_the_reference(pages: dict[str, Any]) -> None:
    from kserve_rag.cli.app import app

    page = pages["reference/cli/index.html"].text_content()
    names = [info.name or info.callback.__name__ for info in app.registered_commands if info.callback]
    names += [str(group.name) for group in app.registered_groups]
    assert {"up", "ask", "ingest", "eval", "models"} <= set(names)
    for name in [*names, "models fetch"]:
        assert f"kserve-rag {name}" in page
        command = [str(Path(sys.executable).with_name("kserve-rag")), *name.split(), "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "200"})
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", done.stdout)) - {"--help"}
        assert not {option for option in options if option not in page}, name


@pytest.mark.parametrize("service", ["transformer", "vectorstore"])
def test_every_route_is_in_the_reference(service: str, pages: dict[str, Any], graph: PeopleGraph) -> None:
    """Compares with the running services, not with the sources of the pages."""
    import httpx

    url = {"transformer": graph.transformer_url, "vectorstore": graph.vectorstore_url}[service]
    shown = {code.text for code in pages[f"reference/{service}/index.html"].iter("code")}
    described = httpx.get(f"{url}/openapi.json", trust_env=False, timeout=60).json()
    routes = {f"{method.upper()} {path}" for path, methods in described["paths"].items() for method in methods}
    assert routes <= shown


def test_every_field_of_the_wire_is_in_the_reference(pages: dict[str, Any]) -> None:
    from transformer import wire as transformer
    from vectorstore import wire as vectorstore

    for module in (transformer, vectorstore):
        page = pages[f"reference/{module.__package__}/index.html"]
        shown = {code.text for code in page.iter("code")}
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if kind.__module__ == module.__name__:
                assert page.xpath(f"//h3[@id='{name.lower()}']"), name
                assert {info.alias or field for field, info in kind.model_fields.items()} <= shown, name


def test_tensors_are_in_the_reference(pages: dict[str, Any]) -> None:
    from predictor.servers.triton import LAYOUTS
    from transformer.wire import INPUT_TENSORS, OUTPUT_TENSORS

    shown = {code.text for code in pages["reference/transformer/index.html"].iter("code")}
    assert INPUT_TENSORS.keys() | OUTPUT_TENSORS.keys() <= shown
    triton = pages["reference/tensors/index.html"]
    assert {"minilm", "bert", "bge_m3", "tensorrt_llm"} <= {heading.get("id") for heading in triton.iter("h3")}
    shown = {code.text for code in triton.iter("code")}
    assert {"multi_vectors", "sparse_weights", "sampling_param_top_k", "finish_reason", *LAYOUTS} <= shown


def test_the_repository_s_own_pages_are_in_it(pages: dict[str, Any]) -> None:
    for name in ("quick-start", "changelog", "contributing", "decisions", *(f"rooms/{room}" for room in ROOMS[:5])):
        assert f"{name}/index.html" in pages
    assert "make up" in pages["quick-start/index.html"].text_content()


def test_generated_pages_are_not_indexed_by_a_first_start() -> None:
    """They would fill the bundled corpus with tables."""
    from kserve_rag.local.corpus import bundled
    from kserve_rag.settings import Settings

    found = [path for folder in bundled(Settings()) for path in folder.rglob("*.md")]
    assert found
    assert not [path for path in found if "VECTORSTORE_RELOAD_INTERVAL_S" in path.read_text(encoding="utf-8")]


# ── where it leads ────────────────────────────────────────────────────────────────────────────────────────────────────

_LOADED = (("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href"), ("use", "href"))


def test_nothing_is_loaded_from_another_host(site: Path, pages: dict[str, Any]) -> None:
    foreign = [
        (name, element.get(attribute))
        for name, page in pages.items()
        for tag, attribute in _LOADED
        for element in page.iter(tag)
        if re.match(r"(https?:)?//", element.get(attribute) or "") and element.get("rel") != "canonical"
    ]
    foreign += [
        (path.name, found)
        for path in site.rglob("*.css")
        for found in re.findall(r"(?:url\(|@import\s+)[\"']?((?:https?:)?//[^\"')]+)", path.read_text(encoding="utf-8"))
    ]
    assert not foreign


def test_links_and_anchors_resolve(site: Path, pages: dict[str, Any]) -> None:
    ids = {name: {each.get("id") for each in page.iter() if each.get("id")} for name, page in pages.items()}
    broken = []
    for name, page in pages.items():
        if name == "404.html":  # its links begin at the root of the host
            continue
        for link in page.iter("a"):
            parts = urlsplit(link.get("href") or "")
            if parts.scheme or parts.netloc:
                continue
            target = (site / name).parent / unquote(parts.path) if parts.path else site / name
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                broken.append((name, link.get("href")))
            elif parts.fragment and target.suffix == ".html":
                known = ids[target.resolve().relative_to(site.resolve()).as_posix()]
                if unquote(parts.fragment) not in known and not parts.fragment.startswith("__"):
                    broken.append((name, link.get("href")))
    assert not broken


def test_pages_show_no_markdown(pages: dict[str, Any]) -> None:
    """A table or list that Markdown did not take for one shows its pipes and stars."""
    for name, page in pages.items():
        for block in page.xpath("//article//p | //article//li | //article//td"):
            text = "".join(block.xpath(".//text()[not(ancestor::code) and not(ancestor::pre)]"))
            assert not re.search(r"\|\s*-{3}|^\s*\|.*\|\s*$|\*\*|\]\(|^#{1,4} ", text, re.MULTILINE), (name, text[:200])


# ── what the guides show ──────────────────────────────────────────────────────────────────────────────────────────────

SHOWN = [
    pytest.param(match["language"], match["code"], id=f"{page.name}: {match['code'][:40]!r}")
    for page in sorted([*(ROOT / "docs/guides").glob("*.md"), *(ROOT / "docs/moving").glob("*.md")])
    for match in re.finditer(r"```(?P<language>bash|python)\n(?P<code>.*?)```", page.read_text("utf-8"), re.DOTALL)
    if match["code"].startswith(("curl", "from kserve_rag.client"))
]


@pytest.mark.parametrize(("language", "code"), SHOWN)
def test_requests_that_the_guides_show_are_answered(language: str, code: str, graph: PeopleGraph) -> None:
    code = code.replace("http://127.0.0.1:8080", graph.transformer_url)
    code = code.replace("http://127.0.0.1:8082", graph.vectorstore_url)
    command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    refused = re.search(r'"error":.*"field":"(\w+)', done.stdout)
    # Of documents and indexes that the reader has, and this graph has not.
    assert refused is None or (refused[1] in ("filters", "collections") and refused[1] in code), done.stdout


def test_the_tests_that_show_a_feature_exist() -> None:
    named = re.findall(r"`(tests/[^`]+)`", (ROOT / "docs/moving/features.md").read_text("utf-8"))
    assert named
    assert [path for path in named if not (ROOT / path).is_file()] == []


# ── how it looks ──────────────────────────────────────────────────────────────────────────────────────────────────────


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """No access log."""


@pytest.fixture(scope="module")
def url(site: Path) -> Iterator[str]:
    handler = functools.partial(_Silent, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        pytest.skip("no Chromium on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser: Browser, url: str, *, width: int = 1280, dark: bool = False) -> Iterator[Page]:
    """A page without failed requests and without requests to other hosts."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
    )
    page = context.new_page()
    trouble: list[str] = []
    host = urlsplit(url).netloc
    page.on("request", lambda request: urlsplit(request.url).netloc not in (host, "") and trouble.append(request.url))
    page.on("requestfailed", lambda request: trouble.append(f"failed: {request.url}"))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda line: line.type == "error" and trouble.append(line.text))
    page.goto(url, wait_until="networkidle")
    yield page
    context.close()
    assert not trouble


def test_search_finds_a_page_by_its_words(browser: Browser, url: str) -> None:
    with opened(browser, f"{url}/") as page:
        page.get_by_role("textbox", name="Search").click()
        page.keyboard.type("roll back an index")
        # What is found changes with every letter that the search gets to.
        page.locator(".md-search-result__link[href*=concepts]").first.wait_for(state="attached")


def test_light_and_dark_follow_the_system_and_the_switch(browser: Browser, url: str) -> None:
    scheme = "document.body.getAttribute('data-md-color-scheme')"
    for dark, expected in ((False, "default"), (True, "slate")):
        with opened(browser, f"{url}/architecture/", dark=dark) as page:
            assert page.evaluate(scheme) == expected
            ink = page.locator(".drawing .name").nth(1).evaluate("element => getComputedStyle(element).fill")
            page.locator("label[for^=__palette]:visible").click()
            page.locator("label[for^=__palette]:visible").click()
            assert page.evaluate(scheme) == "slate"
            inked = page.locator(".drawing .name").nth(1).evaluate("element => getComputedStyle(element).fill")
            assert (ink == inked) is dark


@pytest.mark.parametrize("path", ["", "architecture/", "reference/settings/", "reference/transformer/", "security/"])
def test_nothing_is_wider_than_the_screen(path: str, browser: Browser, url: str) -> None:
    with opened(browser, f"{url}/{path}", width=390) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("path", ["", "architecture/", "reference/settings/"])
@pytest.mark.parametrize("dark", [False, True])
def test_there_are_no_serious_accessibility_problems(path: str, dark: bool, browser: Browser, url: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    with opened(browser, f"{url}/{path}", dark=dark) as page:
        found = Axe().run(page).response["violations"]
    serious = [
        (each["id"], node["html"][:160], node["failureSummary"][:300])
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]
    assert not serious


# ── helpers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _variables() -> Iterator[str]:
    """Every variable of every settings class of the rooms, found by looking for classes."""
    for room in ROOMS:
        for found in pkgutil.walk_packages([str(ROOT / room)], f"{room}."):
            if not found.name.endswith(".settings"):
                continue
            module = importlib.import_module(found.name)
            for _, kind in inspect.getmembers(module, inspect.isclass):
                if kind.__module__ != module.__name__:
                    continue
                if is_dataclass(kind):
                    yield from (f"{room}_{field.name}".upper() for field in fields(kind))
                elif issubclass(kind, BaseSettings):
                    prefix = str(kind.model_config.get("env_prefix", ""))
                    for name, field in kind.model_fields.items():
                        alias = field.validation_alias
                        yield alias if isinstance(alias, str) else f"{prefix}{name}".upper()
