"""The context that travels with a request through every hop: its deadline and the forwarded headers."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from chassis import tracing
from chassis.errors import DeadlineExceededError, InvalidRequestError
from chassis.principal import Principal, caller

TIMEOUT_HEADER = "x-request-timeout-ms"
"""Milliseconds left for the whole response. Set by clients, lowered at every hop."""

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
"""Forwarded to upstreams unchanged, for this request only; `authorization` only to those that are set to get it."""


@dataclass(frozen=True, slots=True)
class CallContext:
    """Deadline, forwarded headers and caller of one request. Never stored longer than the request."""

    deadline: float
    """In `time.monotonic()` seconds."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Lower-case names, only those in `FORWARDED_HEADERS`. Always holds `x-request-id`."""
    principal: Principal | None = None
    """The caller; None if it is anonymous, or the service does not identify callers."""

    @classmethod
    def start(cls, timeout_s: float, headers: Mapping[str, str] | None = None) -> CallContext:
        """A context whose deadline is in `timeout_s` seconds, or sooner if `x-request-timeout-ms` is less."""
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
        if "x-request-id" not in forwarded:
            forwarded["x-request-id"] = secrets.token_hex(16)
        return cls(time.monotonic() + timeout_s, forwarded, caller.get())

    @property
    def request_id(self) -> str:
        """The client's `x-request-id`, or a generated one."""
        return self.headers.get("x-request-id", "")

    def remaining_s(self) -> float:
        """Seconds left; negative once the deadline has passed."""
        return self.deadline - time.monotonic()

    def check(self, doing: str) -> float:
        """Seconds left. If there are none, raises DeadlineExceededError: "The deadline passed before" `doing`."""
        left = self.remaining_s()
        if left <= 0:
            raise DeadlineExceededError(f"The deadline passed before {doing}. Send a larger {TIMEOUT_HEADER}.")
        return left

    def span(self, kind: tracing.SpanType, name: str | None = None) -> CallSpan:
        """A span, recorded if the request's trace is sampled. `name` replaces a declared name that has placeholders."""
        # Follows the parent's sampling decision, as OpenTelemetry's samplers do.
        if not (tracing.on() and tracing.sampled(self.headers)):
            return CallSpan(tracing.Span(None, self.headers), self)
        span = tracing.begin(kind, self.headers, name=name)
        return CallSpan(span, replace(self, headers=span.headers))

    def share(self, fraction: float = 1, at_most_s: float = math.inf) -> CallContext:
        """A context with a part of the time left, so that an upstream that hangs costs no more."""
        deadline = time.monotonic() + min(self.remaining_s() * fraction, at_most_s)
        return CallContext(deadline, self.headers, self.principal)

    def without_authorization(self) -> CallContext:
        """The same context for an upstream that must not see the caller's credentials."""
        if "authorization" not in self.headers:
            return self
        return replace(self, headers={k: v for k, v in self.headers.items() if k != "authorization"})

    def outgoing_headers(self) -> dict[str, str]:
        """Headers for an upstream call: the forwarded ones and the remaining time."""
        return {**self.headers, TIMEOUT_HEADER: str(max(1, int(self.remaining_s() * 1000)))}


class CallSpan(tracing.Span):
    """A span within a request."""

    __slots__ = ("ctx",)

    def __init__(self, span: tracing.Span, ctx: CallContext) -> None:
        super().__init__(span.otel, span.headers)
        self.ctx = ctx
        """Context for calls within the span."""
