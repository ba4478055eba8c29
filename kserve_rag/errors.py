"""Errors of the client, the command line and the local graph.

Each message says what to do next. The command line prints the message and exits with `exit_code`.
"""

from __future__ import annotations

from typing import ClassVar


class KserveRagError(Exception):
    """Base of all errors of this package."""

    exit_code: ClassVar[int] = 1
    """Exit status of the command line."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ClientError(KserveRagError):
    """Base of the errors of `Client` and `AsyncClient`."""

    exit_code = 5
    retryable: ClassVar[bool] = False
    """Whether the same request may succeed later."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        field: str | None = None,
        request_id: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status, or None if there was no response."""
        self.code = code
        """Machine-readable code of the service, as in `chassis.errors`."""
        self.field = field
        """Invalid field of the request, if the service names one."""
        self.request_id = request_id
        """Id of this request in the services' logs."""
        self.retry_after_s = retry_after_s


class UnreachableError(ClientError):
    """The host refuses connections or its name cannot be resolved. Retry when the service is up."""

    retryable = True


class RequestError(ClientError):
    """The request is invalid, too large, or names something that does not exist (400, 404, 413, 422)."""


class CredentialsError(ClientError):
    """The service rejects the credentials (401, 403)."""


class UnavailableError(ClientError):
    """The service or one of its upstreams is busy or not ready (429, 502, 503). A retry helps."""

    retryable = True


class TimedOutError(ClientError):
    """The client's timeout or the service's deadline expired (504). A retry may help."""

    retryable = True


class ServiceFailedError(ClientError):
    """The service failed (500), or its response is invalid."""


class InterruptedStreamError(ClientError):
    """A stream ended early: the answer is incomplete. A retry may help."""

    retryable = True


class UsageError(KserveRagError):
    """An option is invalid, or names something that does not exist."""

    exit_code = 2


class SetupError(KserveRagError):
    """This machine cannot run the graph, a package is missing, or the Triton environment could not be built."""

    exit_code = 3


class FetchError(KserveRagError):
    """No source delivered a model's file. The message lists the failure of each source."""

    exit_code = 3


class LaunchError(KserveRagError):
    """The graph could not start, or one of its services exited."""

    exit_code = 4


class PortTakenError(LaunchError):
    """Another process listens on the port."""


class NotRunningError(LaunchError):
    """No graph is running in this home folder."""
