"""An OpenTelemetry collector for tests: keeps spans that arrive over gRPC, or over HTTP as protobuf or JSON."""

from __future__ import annotations

import base64
import gzip
import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

KINDS = {1: "internal", 2: "server", 3: "client"}


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it arrived."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty for the first of a trace."""
    attributes: dict[str, Any]
    events: tuple[str, ...]
    failed: bool
    began_ns: int
    ended_ns: int


class Collector:
    """Listens on loopback from `__enter__` to `__exit__`."""

    def __enter__(self) -> Collector:
        self._spans: list[ReceivedSpan] = []
        self._news = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector._take(
                    gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body,
                    as_json=self.headers["content-type"].startswith("application/json"),
                )
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @contextmanager
    def over_grpc(self) -> Iterator[str]:
        """Also listens for gRPC, at the URL that it gives."""
        collector = self

        class Servicer(TraceServiceServicer):
            def Export(self, request: ExportTraceServiceRequest, context: object) -> ExportTraceServiceResponse:  # noqa: N802 - gRPC's name
                collector._keep(request)
                return ExportTraceServiceResponse()

        server = grpc.server(ThreadPoolExecutor(1))
        add_TraceServiceServicer_to_server(Servicer(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.stop(None).wait()

    def spans(self) -> list[ReceivedSpan]:
        """All spans received so far."""
        with self._news:
            return list(self._spans)

    def wait_for_root(self, service: str, request_id: str, within_s: float = 30.0) -> ReceivedSpan:
        """The span of a service's request with this id."""

        def found() -> ReceivedSpan | None:
            ids = "http.request.header.x-request-id"
            return next(
                (s for s in self._spans if s.service == service and request_id in s.attributes.get(ids, ())), None
            )

        with self._news:
            span = self._news.wait_for(found, within_s)
        assert span is not None, f"did not arrive: request {request_id} of {service}"
        return span

    def trace(self, trace_id: str) -> list[ReceivedSpan]:
        """The spans received of a trace, ordered by start time."""
        with self._news:
            return sorted((s for s in self._spans if s.trace_id == trace_id), key=lambda span: span.began_ns)

    def wait_for(self, trace_id: str, names: Sequence[tuple[str, str]], within_s: float = 30.0) -> list[ReceivedSpan]:
        """The trace, once it has a span of each of these services and names."""

        def missing() -> list[tuple[str, str]]:
            there = {(span.service, span.name) for span in self.trace(trace_id)}
            return [name for name in names if name not in there]

        with self._news:
            assert self._news.wait_for(lambda: not missing(), within_s), f"did not arrive: {missing()}"
        return self.trace(trace_id)

    def _take(self, body: bytes, *, as_json: bool) -> None:
        request = ExportTraceServiceRequest()
        if as_json:
            json_format.Parse(json.dumps(_with_base64_ids(json.loads(body))), request)
        else:
            request.ParseFromString(body)
        self._keep(request)

    def _keep(self, request: ExportTraceServiceRequest) -> None:
        with self._news:
            self._spans.extend(_spans(request))
            self._news.notify_all()


def _spans(request: ExportTraceServiceRequest) -> Iterator[ReceivedSpan]:
    for resource in request.resource_spans:
        service = _attributes(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield ReceivedSpan(
                    service=service,
                    name=span.name,
                    kind=KINDS[span.kind],
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    attributes=_attributes(span.attributes),
                    events=tuple(event.name for event in span.events),
                    failed=span.status.code == span.status.STATUS_CODE_ERROR,
                    began_ns=span.start_time_unix_nano,
                    ended_ns=span.end_time_unix_nano,
                )


def _attributes(attributes: Sequence[KeyValue]) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None


def _with_base64_ids(content: Any) -> Any:
    """OTLP's JSON has ids in hexadecimal digits, where that of protobuf has base64.

    Source: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
    """
    if isinstance(content, list):
        return [_with_base64_ids(each) for each in content]
    if not isinstance(content, dict):
        return content
    return {
        name: base64.b64encode(bytes.fromhex(value)).decode()
        if name in ("traceId", "spanId", "parentSpanId")
        else _with_base64_ids(value)
        for name, value in content.items()
    }
