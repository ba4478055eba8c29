"""The page's server in front of stand-ins for the graph's services, all on loopback."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.frontend.page_servers import ROOT, Frontend, RunFrontend, Wire, build, environment
from tests.processes import free_ports, program


@pytest.fixture(scope="session")
def wire() -> Iterator[Wire]:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    variables = environment(WIRE_HOST="127.0.0.1", WIRE_HTTP_PORT=str(port))
    with program([sys.executable, ROOT / "tests" / "fakes" / "graph.py"], f"{url}/ready", variables):
        yield Wire(url)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("page") / "dist")


@pytest.fixture(scope="session")
def run_frontend(tmp_path_factory: pytest.TempPathFactory) -> RunFrontend:
    """Runs the server with these variables."""

    @contextlib.contextmanager
    def run(**variables: str) -> Iterator[Frontend]:
        (port,) = free_ports(1)
        url, log = f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("frontend") / "log"
        told = environment(FRONTEND_HOST="127.0.0.1", FRONTEND_HTTP_PORT=str(port), **variables)
        with program([sys.executable, "-m", "frontend"], f"{url}/live", told, log=log) as process:
            yield Frontend(url, log, process.pid)

    return run


@pytest.fixture(scope="session")
def frontend(run_frontend: RunFrontend, wire: Wire, built: Path) -> Iterator[Frontend]:
    """The page and both services behind it."""
    with run_frontend(
        FRONTEND_TRANSFORMER_URL=wire.url, FRONTEND_INGEST_URL=wire.url, FRONTEND_PAGE_DIR=str(built)
    ) as running:
        yield running


@pytest.fixture
def client(frontend: Frontend) -> Iterator[httpx.Client]:
    """A client with a browser's headers."""
    headers = {"sec-fetch-site": "same-origin", "accept-encoding": "identity"}
    with httpx.Client(base_url=frontend.url, trust_env=False, timeout=30, headers=headers) as browser:
        yield browser
