"""The errors of a service's API, with their HTTP and gRPC status.

Every error that a service sends is a `ServiceError`. Its message is written for the client: it names the offending
value, the limit and the next step, and reveals no internals.
"""

from __future__ import annotations

from typing import ClassVar


class ServiceError(Exception):
    """Base of all errors that a client may see."""

    status: ClassVar[int] = 500
    """HTTP status."""
    code: ClassVar[str] = "internal"
    """Stable identifier of the kind of error."""
    grpc_status: ClassVar[str] = "INTERNAL"
    """Name of the gRPC status code."""
    retryable: ClassVar[bool] = False
    """Whether the same request may succeed later."""

    def __init__(self, message: str, *, field: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s if retry_after_s is not None else (2 if self.status == 503 else None)
        self.headers: dict[str, str] = {}
        """Further headers of the response."""
        self.upstream_reason = ""
        """The upstream's own message, for logs and for the service's `client`; never sent to callers."""


class InvalidRequestError(ServiceError):
    """The request cannot succeed: a field is missing, mistyped or out of range."""

    status, code, grpc_status = 400, "invalid_request", "INVALID_ARGUMENT"


class UnauthorizedError(ServiceError):
    """An upstream needs credentials that the client did not send, or that expired."""

    status, code, grpc_status = 401, "unauthorized", "UNAUTHENTICATED"


class ForbiddenError(ServiceError):
    """An upstream rejected this client's credentials."""

    status, code, grpc_status = 403, "forbidden", "PERMISSION_DENIED"


class NotFoundError(ServiceError):
    """The model, index, document or route does not exist."""

    status, code, grpc_status = 404, "not_found", "NOT_FOUND"


class MethodNotAllowedError(ServiceError):
    """The route has other methods. Sent with Allow."""

    status, code, grpc_status = 405, "method_not_allowed", "UNIMPLEMENTED"


class PayloadTooLargeError(ServiceError):
    """The body is larger than the limit."""

    status, code, grpc_status = 413, "payload_too_large", "INVALID_ARGUMENT"


class UnsupportedMediaTypeError(ServiceError):
    """The body has a content type or content coding that this service does not read."""

    status, code, grpc_status = 415, "unsupported_media_type", "INVALID_ARGUMENT"


class BusyError(ServiceError):
    """An upstream's queue is full."""

    status, code, grpc_status, retryable = 429, "busy", "RESOURCE_EXHAUSTED", True


class InternalError(ServiceError):
    """A bug. The log has the traceback under the request id; the client gets no internals."""


class BadUpstreamError(ServiceError):
    """An upstream failed, or violated its protocol."""

    status, code, grpc_status, retryable = 502, "bad_upstream", "UNAVAILABLE", True


class NotReadyError(ServiceError):
    """Something that this service needs is not ready or is down. Sent with Retry-After."""

    status, code, grpc_status, retryable = 503, "not_ready", "UNAVAILABLE", True


class DeadlineExceededError(ServiceError):
    """An upstream did not respond before the deadline."""

    status, code, grpc_status, retryable = 504, "deadline_exceeded", "DEADLINE_EXCEEDED", True
