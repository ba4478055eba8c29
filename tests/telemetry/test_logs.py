"""Lines of the services' logs: one JSON object each, with the ids of the request that they belong to."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from kserve_rag.local.graph import log_file
from tests.processes import until

if TYPE_CHECKING:
    from tests.conftest import RunningGraph

ASK_BY_GRPC = Path(__file__).with_name("grpc_question.py")


def lines(run_dir: Path, service: str, request_id: str) -> list[dict[str, Any]]:
    """The log lines of a service about a request. Every line of the log must be JSON."""
    every = [json.loads(line) for line in log_file(run_dir, service).read_text().splitlines()]
    return [line for line in every if line.get("request_id") == request_id]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_question_has_one_id_and_one_trace_in_every_log(graph: RunningGraph, protocol: str) -> None:
    trace_id, request_id = secrets.token_hex(16), f"asked-{secrets.token_hex(4)}"
    headers = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01", "x-request-id": request_id}
    if protocol == "http":
        httpx.post(
            f"{graph.transformer}/v2/models/rag/generate",
            json={"text_input": "How long is the warranty?", "max_tokens": 2},
            headers=headers,
            timeout=60,
        ).raise_for_status()
    else:
        command = [sys.executable, ASK_BY_GRPC, graph.transformer_grpc, request_id, headers["traceparent"]]
        assert subprocess.run(command, capture_output=True, text=True).stdout == "OK\n"
    run = graph.settings.run
    method = "POST" if protocol == "http" else "gRPC"

    def access() -> list[dict[str, Any]]:
        return [line for line in lines(run, "transformer", request_id) if line["message"].startswith(method)]

    # Which is the last line of a request, written after its answer was sent.
    until(lambda: bool(access() and lines(run, "vectorstore", request_id)))
    span_ids = set()
    for service in ("transformer", "vectorstore"):
        for line in lines(run, service, request_id):
            assert line["trace_id"] == trace_id
            span_ids.add(line["span_id"])
            assert {"time", "level", "service", "logger", "message"} <= line.keys()
            assert line["service"] == service
            assert datetime.fromisoformat(line["time"]).tzinfo == timezone.utc
            assert "warranty" not in json.dumps(line)
    (line,) = access()
    assert (line["status"], line["ms"] > 0) == (200, True)
    # The span that the log names is the one that was sent.
    root = graph.collector.wait_for_root("kserve-rag-transformer", request_id)
    assert (root.trace_id, root.span_id) == (trace_id, line["span_id"])
    assert root.span_id in span_ids
