from __future__ import annotations

import importlib.util
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

if importlib.util.find_spec("ray") is None:
    collect_ignore_glob = ["test_*.py"]  # run by `make test-ray`
else:
    import psutil

    ENDS_WITHIN_S = 60.0

    @dataclass(frozen=True)
    class Cluster:
        """A running Ray cluster of this machine."""

        process: psutil.Process
        environ: dict[str, str]
        """For programs that use it."""

        def processes(self, title: str) -> list[psutil.Process]:
            """Its processes whose titles start with this prefix."""
            found = []
            for process in self.process.children(recursive=True):
                try:
                    command = process.cmdline()
                except psutil.Error:
                    continue
                if command and command[0].startswith(title):
                    found.append(process)
            return found

    @pytest.fixture(scope="session")
    def cluster() -> Iterator[Cluster]:
        """A private cluster on loopback, with its own token. It sends no usage report and leaves no files behind."""
        # Not pytest's folder: paths of Unix sockets are short.
        with tempfile.TemporaryDirectory(prefix="ray-") as folder:
            token = Path(folder, "token")
            token.touch(0o600)
            token.write_text(secrets.token_hex(32), "utf-8")
            environ = {
                **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN_PATH": str(token),
                # Ray then listens on loopback on every system; by default, on all interfaces.
                "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
                "RAY_USAGE_STATS_ENABLED": "0",
            }
            command = [sys.executable, str(Path(__file__).with_name("ray_cluster.py")), f"{folder}/ray"]
            log = Path(folder, "cluster.log")
            with log.open("wb") as stderr:
                started = subprocess.Popen(
                    command, env=environ, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
                )
            assert started.stdin is not None
            assert started.stdout is not None
            process = psutil.Process(started.pid)
            try:
                address = started.stdout.readline().strip()
                assert address.startswith("127.0.0.1:"), address or log.read_text("utf-8")
                yield Cluster(process, {**environ, "RAY_ADDRESS": address})
            finally:
                descendants = process.children(recursive=True) if started.poll() is None else []
                started.stdin.close()
                started.wait(ENDS_WITHIN_S)
                started.stdout.close()
                _, alive = psutil.wait_procs(descendants, ENDS_WITHIN_S)
                for left in alive:
                    left.kill()
            assert not alive

    @pytest.fixture(scope="session")
    def tokenizer() -> Path:
        """MiniLM's."""
        from kserve_rag.models.store import ModelStore
        from kserve_rag.settings import Settings

        return ModelStore(Settings().models).materialise("minilm", "embedder").path / "tokenizer.json"
