"""One running graph for everything that is tested as a person meets it: the page, the notebooks, the documentation.

Started by the launcher over this project's own documentation, in a home and on ports of its own.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from kserve_rag.local.graph import GraphState
    from kserve_rag.settings import Settings
    from tests.fakes.scripted_transformer import ScriptedTransformer
    from tests.with_pages.chromium import Visitor

if importlib.util.find_spec("playwright") is None:
    collect_ignore_glob = ["test_*.py"]  # run by `make test-pages`


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", action="store_true", help="retake docs/screenshots (test_page_looks.py)")


@dataclass(frozen=True)
class PeopleGraph:
    """Base URLs of the services that people and their programs speak to."""

    transformer_url: str
    vectorstore_url: str
    frontend_url: str | None
    """None where the launcher starts none, as with the one below."""
    ingest_url: str | None
    home: Path
    index_version: str
    settings: Settings
    state: GraphState


@pytest.fixture(scope="session")
def graph(graph_settings: Settings) -> Iterator[PeopleGraph]:
    """The graph over the bundled documents. Started by the first test that asks for it."""
    from kserve_rag.local.corpus import bundled, remember
    from kserve_rag.local.indexing import index, wait_until_served
    from kserve_rag.local.launcher import launch

    paths = bundled(graph_settings)
    with launch(graph_settings) as running:
        running.wait_ready("embedder")
        summary = index(running.state, paths)
        if summary.version is None:
            pytest.fail(f"The bundled documents gave no index: {summary.skipped}")
        remember(graph_settings, paths)
        running.wait_ready()
        wait_until_served(running.state, summary.version)
        urls = {name: service.url for name, service in running.state.services.items()}
        yield PeopleGraph(
            transformer_url=urls["transformer"],
            vectorstore_url=urls["vectorstore"],
            frontend_url=urls.get("frontend"),
            ingest_url=urls.get("ingest"),
            home=graph_settings.home,
            index_version=summary.version,
            settings=graph_settings,
            state=running.state,
        )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser. Not for longer than a module: while it is there, no asynchronous test runs."""
    from tests.with_pages.chromium import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def page_url(graph: PeopleGraph) -> str:
    """The page of the running graph, with documents behind it and a real model."""
    if graph.frontend_url is None or httpx.get(graph.frontend_url, timeout=60).status_code != 200:
        pytest.fail("The page is not built: run `make page`.")
    return graph.frontend_url + "/"


@pytest.fixture
def visitor(browser: Browser, page_url: str) -> Iterator[Visitor]:
    """A person at the page of the running graph. The browser has nothing to complain of."""
    from tests.with_pages.chromium import Visitor

    visitor = Visitor(browser, page_url)
    yield visitor
    assert visitor.complaints == []
    visitor.context.close()


@pytest.fixture(scope="module")
def script_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ScriptedTransformer, str]]:
    """A scripted transformer, and the URL of a page in front of it."""
    from tests.fakes.scripted_transformer import ScriptedTransformer
    from tests.processes import free_ports, program

    transformer = ScriptedTransformer()
    url = f"http://127.0.0.1:{free_ports(1)[0]}/"
    environ = {
        **os.environ,
        "FRONTEND_HOST": "127.0.0.1",
        "FRONTEND_HTTP_PORT": url.rstrip("/").rpartition(":")[2],
        "FRONTEND_TRANSFORMER_URL": transformer.url,
    }
    log = tmp_path_factory.mktemp("frontend") / "frontend.log"
    with program([sys.executable, "-m", "frontend"], f"{url}ready", environ, log=log):
        yield transformer, url
    transformer.close()


@pytest.fixture
def script(script_url: tuple[ScriptedTransformer, str]) -> ScriptedTransformer:
    """That transformer, as it is at first."""
    from tests.fakes.scripted_transformer import answering

    transformer, _ = script_url
    transformer.requests.clear()
    transformer.documents.clear()
    transformer.examples = []
    transformer.respond = answering("Yes.")
    return transformer


@pytest.fixture
def reader(
    browser: Browser, script: ScriptedTransformer, script_url: tuple[ScriptedTransformer, str]
) -> Iterator[Visitor]:
    """A person at the page before that transformer. The browser has nothing to complain of."""
    from tests.with_pages.chromium import Visitor

    visitor = Visitor(browser, script_url[1])
    yield visitor
    assert visitor.complaints == []
    visitor.context.close()
