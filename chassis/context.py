"""What one request carries through every hop: its deadline and the headers that are passed on."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType

from chassis import tracing
from chassis.errors import DeadlineExceededError, InvalidRequestError

TIMEOUT_HEADER = "x-request-timeout-ms"
"""Milliseconds that are left for the whole answer. Set by callers, lowered at every hop."""

_MAX_TIMEOUT_DIGITS = 15

FORWARDED_HEADERS = (
    "authorization",
    "x-request-id",
    "traceparent",
    "tracestate",
    "baggage",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "b3",
)
"""Passed to upstreams as they came, for this request only."""


@dataclass(frozen=True, slots=True)
class CallContext:
    """Deadline and forwarded headers of one request. Never stored beyond it."""

    deadline: float
    """In `time.monotonic()` seconds."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Lower-case names, only those in `FORWARDED_HEADERS`. Always holds `x-request-id`."""

    @classmethod
    def start(cls, timeout_s: float, headers: Mapping[str, str] | None = None) -> CallContext:
        """A context that ends `timeout_s` seconds from now, or sooner if the caller's own header says so.

        Raises:
            InvalidRequestError: the caller's `x-request-timeout-ms` is not a positive integer.

        """
        headers = tracing.program_headers.get() if headers is None else headers
        sent = headers.get(TIMEOUT_HEADER)
        if sent is not None:
            if len(sent) > _MAX_TIMEOUT_DIGITS or not sent.isascii() or not sent.isdigit() or int(sent) == 0:
                raise InvalidRequestError(
                    f"Header {TIMEOUT_HEADER} is {sent[:40]!r}: send a positive whole number of milliseconds.",
                    field=TIMEOUT_HEADER,
                )
            timeout_s = min(timeout_s, int(sent) / 1000)
        forwarded = {name: headers[name] for name in FORWARDED_HEADERS if name in headers}
        forwarded.setdefault("x-request-id", secrets.token_hex(16))
        return cls(time.monotonic() + timeout_s, forwarded)

    @property
    def request_id(self) -> str:
        """The caller's `x-request-id`, or one made for this request."""
        return self.headers.get("x-request-id", "")

    def remaining_s(self) -> float:
        """Seconds left; negative once the deadline has passed."""
        return self.deadline - time.monotonic()

    def check(self, doing: str) -> float:
        """Seconds left.

        Raises:
            DeadlineExceededError: none are.

        """
        left = self.remaining_s()
        if left <= 0:
            raise DeadlineExceededError(f"The deadline passed before {doing}. Send a larger {TIMEOUT_HEADER}.")
        return left

    def span(self, kind: tracing.SpanType, name: str | None = None) -> CallSpan:
        """A span around a part of the work, as a context manager that knows the context within it.

        Args:
            kind: its declaration.
            name: where the declaration's has something to be filled in.
        """
        return CallSpan(self, kind, name)

    def outgoing_headers(self) -> dict[str, str]:
        """Headers for an upstream call: the forwarded ones and the time that is left."""
        return {**self.headers, TIMEOUT_HEADER: str(max(1, int(self.remaining_s() * 1000)))}


class CallSpan:
    """A part of the work on a request, recorded while tracing is on and the request belongs to a trace that is kept.

    Work that no request has caused, such as a readiness probe's, belongs to none.
    """

    __slots__ = ("_kind", "_name", "_span", "ctx")

    def __init__(self, ctx: CallContext, kind: tracing.SpanType, name: str | None) -> None:
        self.ctx = ctx
        """For what is done within the span."""
        self._kind = kind
        self._name = name
        self._span: tracing.Span | None = None

    def __enter__(self) -> CallSpan:
        # What the edge does not keep is not kept within it: so do all of OpenTelemetry's samplers decide.
        if tracing.on() and tracing.sampled(self.ctx.headers):
            self._span = tracing.begin(self._kind, self.ctx.headers, name=self._name)
            if self._span is not None:
                self.ctx = CallContext(self.ctx.deadline, self._span.headers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._span is not None:
            self._span.end(error)

    @property
    def recording(self) -> bool:
        """Whether anything becomes of what is set."""
        return self._span is not None

    def set(self, name: str, value: tracing.Value | None) -> None:
        """Sets an attribute that the span's type declares; None sets nothing. No text, only what is known of it."""
        if self._span is not None:
            self._span.set(name, value)

    def event(self, name: str) -> None:
        """Something that happened now."""
        if self._span is not None:
            self._span.event(name)
