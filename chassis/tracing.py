"""OpenTelemetry spans. Off until `configure` finds an endpoint.

The current span is kept only in a request's W3C headers (`traceparent`, `tracestate`): a new span is a child of the
span in the headers, and provides the headers for calls within it. Context variables would not work: several tasks
resume the generators that produce answers.

Attributes use OpenTelemetry's names where they exist; other names begin with `kserve_rag.`. Attributes hold sizes,
counts, names and versions, never the text of a question, document, prompt or answer.

Sources: https://www.w3.org/TR/trace-context/,
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and, for names,
https://opentelemetry.io/docs/specs/semconv/ (http, rpc and gen-ai)
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Literal

from chassis.errors import ServiceError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span as OtelSpan
    from typing_extensions import Self

Value = str | bool | int | float | tuple[str, ...]

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP, _GRPC = "http/protobuf", "grpc"

program_headers: ContextVar[Mapping[str, str]] = ContextVar("program_headers", default=MappingProxyType({}))
"""Trace headers for calls outside a request. A Job sets them to its `program` span."""


@dataclass(frozen=True, slots=True)
class SpanType:
    """The declaration of a kind of span, made by the package that records it."""

    name: str
    """The recorded name, with placeholders in braces."""
    kind: Literal["server", "client", "internal"]
    help: str
    attributes: tuple[str, ...] = ()
    """Attributes that it may have, in addition to `COMMON_ATTRIBUTES`."""


COMMON_ATTRIBUTES = ("error.type", "kserve_rag.cancelled")
"""Attributes that any span may have."""


class Span:
    """A span, which ends with its `with` block. Without an OpenTelemetry span, it records nothing."""

    __slots__ = ("headers", "otel")

    def __init__(self, span: OtelSpan | None, headers: Mapping[str, str]) -> None:
        self.otel = span
        self.headers = headers
        """Headers for calls within the span."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error)

    @property
    def recording(self) -> bool:
        """Whether the span is recorded."""
        return self.otel is not None

    def rename(self, name: str) -> None:
        """Sets the name, if it was unknown at the start."""
        if self.otel is not None:
            self.otel.update_name(name)

    def set(self, name: str, value: Value | None) -> None:
        """Sets an attribute that the span's type declares. None is ignored."""
        if self.otel is not None and value is not None:
            self.otel.set_attribute(name, value)

    def event(self, name: str) -> None:
        """Records an event now."""
        if self.otel is not None:
            self.otel.add_event(name)

    def failed(self, kind: str) -> None:
        """Marks the span as failed. The error's message is left out, because it may quote a question."""
        if self.otel is not None:
            from opentelemetry.trace import Status, StatusCode

            self.otel.set_attribute("error.type", kind)
            self.otel.set_status(Status(StatusCode.ERROR))

    def end(self, error: BaseException | None = None) -> None:
        """Ends the span. `error`: the exception that ended its work early."""
        if self.otel is None:
            return
        if isinstance(error, (GeneratorExit, asyncio.CancelledError)):
            self.otel.set_attribute("kserve_rag.cancelled", True)
        elif error is not None:
            self.failed(error.code if isinstance(error, ServiceError) else type(error).__name__)
        self.otel.end()


class _Tracing:
    """OpenTelemetry's SDK, which exports spans by OTLP over HTTP or gRPC."""

    def __init__(self, service: str, environ: Mapping[str, str], protocol: str) -> None:
        from opentelemetry.context import Context
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        named = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        resource = Resource.create({} if named else {"service.name": f"kserve-rag-{service}"})
        # OpenTelemetry's own variables configure sampler, limits, batches, endpoint and headers.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_exporter(protocol)))
        self._tracer = self._provider.get_tracer("kserve_rag")
        self._propagator = TraceContextTextMapPropagator()
        self._nothing, self._within = Context(), set_span_in_context
        self._kinds = {kind.name.lower(): kind for kind in SpanKind}

    def shutdown(self) -> None:
        # The exporter waits ten seconds for a collector that does not respond, and retries once.
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(_LAST_SPANS_S)

    def begin(self, kind: SpanType, headers: Mapping[str, str], name: str) -> Span:
        parent = self._propagator.extract(headers, self._nothing)
        span = self._tracer.start_span(name, parent, self._kinds[kind.kind])
        within = {header: value for header, value in headers.items() if header not in ("traceparent", "tracestate")}
        self._propagator.inject(within, self._within(span, self._nothing))
        return Span(span, within)


def _exporter(protocol: str) -> SpanExporter:
    if protocol == _GRPC:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


_tracing: _Tracing | None = None
_LAST_SPANS_S = 3.0
"""Maximum time to export the last spans when a program ends."""


def configure(service: str, environ: Mapping[str, str]) -> None:
    """Starts exporting spans if `OTEL_EXPORTER_OTLP_ENDPOINT` is set. Called once, by `__main__`.

    `service.name` is `kserve-rag-<service>`, unless `OTEL_SERVICE_NAME` sets another. Exits with a
    one-line message if a variable has an unsupported value.
    """
    global _tracing
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or not any(environ.get(name) for name in _ENDPOINTS):
        return
    exporter = environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if exporter == "none":
        return
    if exporter != "otlp":
        _end(f"OTEL_TRACES_EXPORTER is {exporter!r}: choose otlp or none.")
    named = [name for name in _PROTOCOLS if environ.get(name)]
    for name in named:
        if environ[name] not in (_HTTP, _GRPC):
            _end(f"{name} is {environ[name]!r}: choose {_HTTP} or {_GRPC}.")
    try:
        _tracing = _Tracing(service, environ, environ[named[0]] if named else _HTTP)
    except ImportError as error:
        _end(
            f"OTEL_EXPORTER_OTLP_ENDPOINT is set, but {error.name} is not installed: install kserve-rag[otel], or "
            "unset the variable."
        )


def shutdown() -> None:
    """Exports the remaining spans, for up to three seconds."""
    if _tracing is not None:
        _tracing.shutdown()


def begin(kind: SpanType, headers: Mapping[str, str], *, name: str | None = None) -> Span:
    """A child of the span in `headers` (lower-case names), or the root of a new trace.

    It records nothing while tracing is off. `name` replaces a declared name that has placeholders.
    """
    return Span(None, headers) if _tracing is None else _tracing.begin(kind, headers, name or kind.name)


@contextlib.contextmanager
def program(kind: SpanType) -> Iterator[None]:
    """A span around the whole run of a Job, the parent of its calls. It is exported at the end."""
    try:
        with begin(kind, {}) as span:
            outside = program_headers.set(span.headers)
            try:
                yield
            finally:
                program_headers.reset(outside)
    finally:
        shutdown()


def on() -> bool:
    """Whether spans are recorded."""
    return _tracing is not None


def ids(headers: Mapping[str, str]) -> tuple[str, str] | None:
    """Trace id and span id of a well-formed `traceparent`, in hexadecimal digits."""
    found = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return (found[1], found[2]) if found else None


def sampled(headers: Mapping[str, str]) -> bool:
    """Whether the trace in these headers is sampled."""
    found = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return found is not None and bool(int(found[3], 16) & 1)


def _end(message: str) -> None:
    print(message, file=sys.stderr)  # noqa: T201 - logging is not up yet
    raise SystemExit(2)
