"""The ingest service in its own process, and requests to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.processes import free_ports, program, until

ROOT = Path(__file__).parents[2]

Files = Mapping[str, bytes | str]
Seen = Callable[[dict[str, Any]], bool]


@dataclass
class RunningIngest:
    """A service, and a client of it."""

    http: httpx.Client
    process: subprocess.Popen[bytes]
    log: Path
    root: Path
    index: str = "default"

    @property
    def path(self) -> str:
        """URL path of the index."""
        return f"/v1/indexes/{self.index}"

    @property
    def documents(self) -> str:
        """URL path of its documents."""
        return f"{self.path}/documents"

    def post(self, files: Files) -> httpx.Response:
        contents = {
            name: content if isinstance(content, bytes) else content.encode() for name, content in files.items()
        }
        return self.http.post(self.documents, files=[("files", (name, body)) for name, body in contents.items()])

    def upload(self, files: Files) -> dict[str, Any]:
        """The task, once it has ended."""
        return self.ended(self.post(files))

    def delete(self, source: str, **parameters: str) -> dict[str, Any]:
        return self.ended(self.http.delete(f"{self.documents}/{source}", params=parameters))

    def reindex(self) -> dict[str, Any]:
        return self.ended(self.http.post(f"{self.path}/reindex"))

    def ended(self, accepted: httpx.Response) -> dict[str, Any]:
        assert accepted.status_code == 202, accepted.text
        task = self.events(accepted.json()["id"])[-1]
        until(lambda: not [name for name in self.leftovers() if task["id"] in name])
        return task

    def events(self, task_id: str, last: str | None = None, seen: Seen = lambda _: False) -> list[dict[str, Any]]:
        """The events of a task until it ends or `seen` returns true."""
        return [task for _, task in self.numbered_events(task_id, last, seen)]

    def numbered_events(
        self, task_id: str, last: str | None = None, seen: Seen = lambda _: False
    ) -> list[tuple[str, dict[str, Any]]]:
        told: list[tuple[str, dict[str, Any]]] = []
        task: dict[str, Any] = {}
        headers = {} if last is None else {"last-event-id": last}
        with self.http.stream("GET", f"/v1/tasks/{task_id}/events", headers=headers) as response:
            assert response.headers["content-type"].startswith("text/event-stream"), response.read()
            for line in response.iter_lines():
                if line.startswith("data: "):
                    task = json.loads(line.removeprefix("data: "))
                elif line.startswith("id: "):
                    told.append((line.removeprefix("id: "), task))
                    if seen(task):
                        break
        return told

    def sources(self) -> dict[str, dict[str, Any]]:
        return {listed["source"]: listed for listed in self.http.get(self.documents).json()["documents"]}

    def task(self, task_id: str) -> dict[str, Any]:
        return self.http.get(f"/v1/tasks/{task_id}").raise_for_status().json()

    def leftovers(self) -> list[str]:
        """Files of uploads on disk that do not belong to the index."""
        return sorted(path.name for path in self.root.glob(f"{self.index}/uploads/.*"))

    def memory_bytes(self) -> int:
        """Peak memory of the process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text("ascii")
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running_ingest(
    root: Path, embedder_url: str, tokenizer: Path, *, broken: bool = False, **settings: object
) -> Iterator[RunningIngest]:
    """A service until the block ends. It must then end without errors, unless the test has killed it.

    A `broken` one need not become ready and may log errors.
    """
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("INGEST_")},
        "PYTHONPATH": str(ROOT),
        "INGEST_HOST": "127.0.0.1",
        "INGEST_HTTP_PORT": str(port),
        "INGEST_GRACE_PERIOD_S": "30",
        "INGEST_INDEX_ROOT": str(root),
        "INGEST_EMBEDDER_URL": embedder_url,
        "INGEST_TOKENIZER": str(tokenizer),
        "INGEST_RETRY_WAIT_S": "0.05",
        **{f"INGEST_{name.upper()}": str(value) for name, value in settings.items()},
    }
    log = root.parent / f"ingest-{port}.log"
    command = [sys.executable, "-W", "error", "-m", "ingest.server"]
    with program(command, f"{url}/{'live' if broken else 'ready'}", environment, log=log) as process:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            yield RunningIngest(http, process, log, root)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, log.read_text("utf-8")[-4000:]
        assert broken or "Traceback" not in log.read_text("utf-8"), log.read_text("utf-8")[-4000:]
