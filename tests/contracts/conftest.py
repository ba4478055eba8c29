"""Servers of stores, each started once per test session. A fixture gives the settings with which its store finds it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.processes import free_ports, program


@pytest.fixture(scope="session")
def chroma_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    folder = tmp_path_factory.mktemp("chroma_server")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [Path(sys.executable).with_name("chroma"), "run", "--host", "127.0.0.1", "--port", str(port)]
    with program([*command, "--path", folder / "data"], f"{url}/api/v2/heartbeat", os.environ, log=folder / "log"):
        yield {"VECTORSTORE_CHROMA_SERVER_URL": url}
