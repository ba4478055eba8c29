"""What one request carries through every hop: its deadline and the headers that are passed on."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from chassis.errors import DeadlineExceededError, InvalidRequestError

TIMEOUT_HEADER = "x-request-timeout-ms"
"""Milliseconds that are left for the whole answer. Set by callers, lowered at every hop."""

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
        headers = headers or {}
        sent = headers.get(TIMEOUT_HEADER)
        if sent is not None:
            if not sent.isascii() or not sent.isdigit() or int(sent) == 0:
                raise InvalidRequestError(
                    f"Header {TIMEOUT_HEADER} is {sent[:40]!r}: send a positive whole number of milliseconds.",
                    field=TIMEOUT_HEADER,
                )
            timeout_s = min(timeout_s, int(sent) / 1000)
        forwarded = {name: headers[name] for name in FORWARDED_HEADERS if name in headers}
        forwarded.setdefault("x-request-id", uuid.uuid4().hex)
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

    def outgoing_headers(self) -> dict[str, str]:
        """Headers for an upstream call: the forwarded ones and the time that is left."""
        return {**self.headers, TIMEOUT_HEADER: str(max(1, int(self.remaining_s() * 1000)))}
