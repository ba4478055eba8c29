"""Cost of tracing: processor time of transformer and vectorstore in the chain of `chain.py` with instant models.

Off, 10 % and 100 % of the questions sampled, at 16 clients. Spans go to a stub collector in its own process. Processor
time depends less on other load than the rate does.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import patch

import psutil
from rich.progress import Progress

from benchmarks.chain import build_index, chain, load
from benchmarks.processes import free_port, running

CLIENTS = 16
ROUNDS = 3
SERVICES = ("transformer", "vectorstore")
CASES: dict[str, dict[str, str]] = {
    "off": {},
    "1 question in 10": {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"},
    "every question": {"OTEL_TRACES_SAMPLER": "parentbased_always_on"},
}


class DiscardingCollector(BaseHTTPRequestHandler):
    """A collector that discards spans."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._answer()

    def _answer(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def measure(prompt_format: Path, seconds: float) -> list[str]:
    """The table, as lines of Markdown."""
    spent: dict[tuple[str, str], list[float]] = {}
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        build_index(Path(folder))
        task = progress.add_task("telemetry", total=ROUNDS * len(CASES))
        with running(["-m", "benchmarks.telemetry", str(port)], url):
            for _ in range(ROUNDS):
                for case, variables in CASES.items():
                    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": url} if variables else {}
                    with (
                        patch.dict(os.environ, {**variables, **endpoint}),
                        chain("kserve-rag", Path(folder), prompt_format, (0, 0)) as (question, body),
                    ):
                        for service, ms in _processor_ms(question, body, seconds).items():
                            spent.setdefault((case, service), []).append(ms)
                    progress.advance(task)
    lines = [f"| processor ms per question | {' | '.join(CASES)} |", "|---|---|---|---|"]
    # The minimum over rounds: disturbances only add.
    table = {service: [min(spent[case, service]) for case in CASES] for service in SERVICES}
    table["both"] = [sum(column) for column in zip(*table.values(), strict=True)]
    for name, row in table.items():
        lines.append(f"| {name} | {' | '.join(f'{ms:.2f}' for ms in row)} |")
    return lines


def _processor_ms(question: str, body: bytes, seconds: float) -> dict[str, float]:
    """Processor time of each service per question."""
    processes = {
        service: process
        for process in psutil.Process().children()
        for service in SERVICES
        if process.cmdline()[-1] == service
    }
    load(question, body, CLIENTS, 1)
    before = {service: sum(process.cpu_times()[:2]) for service, process in processes.items()}
    questions = -_answered(question)
    load(question, body, CLIENTS, seconds)
    questions += _answered(question)
    return {
        service: (sum(process.cpu_times()[:2]) - before[service]) * 1000 / questions
        for service, process in processes.items()
    }


def _answered(question: str) -> float:
    with urllib.request.urlopen(question.split("/v1/")[0] + "/metrics", timeout=5) as response:
        text = response.read().decode()
    return float(re.search(r'kserve_rag_answers_total\{outcome="answered"\} (\S+)', text)[1])  # type: ignore[index]


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), DiscardingCollector).serve_forever()
