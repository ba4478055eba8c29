"""Tracing of a service: how it is switched on, refused settings, and that it never delays requests."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from chassis import tracing
from chassis.context import CallContext
from chassis.http import UPSTREAM
from tests.chassis.test_server import running_echo
from tests.fakes.otlp_collector import Collector

PREDICT = "/v1/models/echo:predict"
ROOT = Path(__file__).parents[2]
ECHO = ROOT / "tests" / "fakes" / "echo_service.py"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def test_without_tracing_headers_pass_unchanged() -> None:
    sent = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "vendor=1"}
    ctx = CallContext.start(5, sent)
    with ctx.span(UPSTREAM, "POST anywhere") as span:
        span.set("peer.service", "anywhere")
        span.event("first_token")
        assert not span.recording
        assert span.ctx is ctx
    assert {name: ctx.headers[name] for name in sent} == sent


@pytest.mark.parametrize(
    ("traceparent", "ids", "sampled"),
    [
        (f"00-{'a' * 32}-{'b' * 16}-01", ("a" * 32, "b" * 16), True),
        (f"00-{'a' * 32}-{'b' * 16}-00", ("a" * 32, "b" * 16), False),
        (f"cc-{'a' * 32}-{'b' * 16}-03", ("a" * 32, "b" * 16), True),
        (f"00-{'A' * 32}-{'b' * 16}-01", None, False),
        ("00-1-2-01", None, False),
        ("", None, False),
    ],
)
def test_traceparent_follows_w3c(traceparent: str, ids: tuple[str, str] | None, sampled: bool) -> None:
    headers = {"traceparent": traceparent}
    assert (tracing.ids(headers), tracing.sampled(headers)) == (ids, sampled)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
    ],
)
def test_tracing_is_off_without_an_endpoint(variables: dict[str, str]) -> None:
    tracing.configure("echo", variables)
    assert not tracing.on()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "thrift"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
    ],
)
def test_unsupported_settings_stop_the_program_with_one_line(name: str, value: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ECHO), str(tmp_path)],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
            name: value,
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"{name} is {value!r}: ")
    assert done.stderr.count("\n") == 1


def test_a_missing_library_names_its_extra(tmp_path: Path) -> None:
    # An empty package shadows the installed exporter.
    exporter = tmp_path / "opentelemetry" / "exporter" / "otlp" / "proto" / "http"
    exporter.mkdir(parents=True)
    exporter.joinpath("__init__.py").touch()
    done = subprocess.run(
        [sys.executable, str(ECHO), str(tmp_path)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "kserve-rag[otel]" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_service_name_is_a_setting_and_tracestate_passes(collector: Collector, tmp_path: Path) -> None:
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    sent = {"traceparent": f"00-{trace_id}-{span_id}-01", "tracestate": "vendor=opaque"}
    variables = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces",
        "OTEL_SERVICE_NAME": "another-name",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with running_echo(tmp_path, **variables) as echo:
        passed_on = httpx.post(echo.url + PREDICT, json={}, headers=sent).json()["predictions"][0]["headers"]
        (span,) = collector.wait_for(trace_id, [("another-name", "POST /v1/models/{model_name}:predict")])
        httpx.post(echo.url + PREDICT, json={"do": "crash"}, headers={**sent, "x-request-id": "crashed"})
        crashed = collector.wait_for_root("another-name", "crashed")
    assert (span.parent_id, span.kind) == (span_id, "server")
    assert passed_on["traceparent"] == f"00-{trace_id}-{span.span_id}-01"
    assert passed_on["tracestate"] == sent["tracestate"]
    assert (crashed.failed, crashed.attributes["error.type"]) == (True, "500")
    assert "secret" not in str(crashed)


def test_spans_are_sent_over_grpc(tmp_path: Path) -> None:
    trace_id = secrets.token_hex(16)
    with Collector() as collector, collector.over_grpc() as url:
        # What KServe sets in a container, and our own variables, which take precedence.
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": url,
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
        }
        with running_echo(tmp_path, **variables) as echo:
            httpx.post(echo.url + PREDICT, json={}, headers={"traceparent": f"00-{trace_id}-{'b' * 16}-01"})
        assert len(collector.trace(trace_id)) == 1


def test_buffered_spans_are_sent_at_shutdown(collector: Collector, tmp_path: Path) -> None:
    trace_id = secrets.token_hex(16)
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "3600000"}
    with running_echo(tmp_path, **variables) as echo:
        httpx.post(echo.url + PREDICT, json={}, headers={"traceparent": f"00-{trace_id}-{'b' * 16}-01"})
        assert collector.trace(trace_id) == []
    assert len(collector.trace(trace_id)) == 1


def test_an_unreachable_or_silent_collector_delays_nothing(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        with running_echo(tmp_path, **variables) as echo:
            for _ in range(20):
                assert httpx.post(echo.url + PREDICT, json={}, timeout=5).status_code == 200
            echo.process.send_signal(signal.SIGTERM)
            # The exporter's own way takes twenty seconds, on a quiet machine too.
            assert echo.process.wait(timeout=15) == 0
