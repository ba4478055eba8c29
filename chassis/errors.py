"""What may go wrong at a service's edge, and the status that each kind is answered with.

Every error that leaves a room is a `ServiceError`. Its message is written for the caller: it names the offending
value, the limit and the next step, and never holds internal text.
"""

from __future__ import annotations

from typing import ClassVar


class ServiceError(Exception):
    """Base of all errors that a caller may see."""

    status: ClassVar[int] = 500
    """HTTP status."""
    code: ClassVar[str] = "internal"
    """Stable machine-readable kind."""
    grpc_status: ClassVar[str] = "INTERNAL"
    """Name of the gRPC status code."""
    retryable: ClassVar[bool] = False
    """Whether the same request may succeed later."""

    def __init__(self, message: str, *, field: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s if retry_after_s is not None else (2 if self.status == 503 else None)
        self.upstream_reason = ""
        """What a failing upstream said of itself: for logs and for the client of its room, never for callers."""


class InvalidRequestError(ServiceError):
    """The request can never succeed as it is: a missing, mistyped or out-of-range field."""

    status, code, grpc_status = 400, "invalid_request", "INVALID_ARGUMENT"


class UnauthorizedError(ServiceError):
    """An upstream asks for credentials that the caller did not send, or that expired."""

    status, code, grpc_status = 401, "unauthorized", "UNAUTHENTICATED"


class ForbiddenError(ServiceError):
    """An upstream does not let this caller in."""

    status, code, grpc_status = 403, "forbidden", "PERMISSION_DENIED"


class NotFoundError(ServiceError):
    """No such model, index or route."""

    status, code, grpc_status = 404, "not_found", "NOT_FOUND"


class PayloadTooLargeError(ServiceError):
    """The body is larger than the server reads."""

    status, code, grpc_status = 413, "payload_too_large", "INVALID_ARGUMENT"


class BusyError(ServiceError):
    """An upstream's queue is full."""

    status, code, grpc_status, retryable = 429, "busy", "RESOURCE_EXHAUSTED", True


class InternalError(ServiceError):
    """A defect of ours. The log holds the trace under the request id; the caller gets no internals."""


class BadUpstreamError(ServiceError):
    """An upstream answered something that its protocol does not allow, or failed."""

    status, code, grpc_status, retryable = 502, "bad_upstream", "UNAVAILABLE", True


class NotReadyError(ServiceError):
    """Something this service needs is not there yet, or is down. Sent with Retry-After."""

    status, code, grpc_status, retryable = 503, "not_ready", "UNAVAILABLE", True


class DeadlineExceededError(ServiceError):
    """An upstream did not answer before the request's deadline."""

    status, code, grpc_status, retryable = 504, "deadline_exceeded", "DEADLINE_EXCEEDED", True
