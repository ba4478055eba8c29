"""What may go wrong at the face: asking through the Client, and setting up and running the graph on one machine.

Every message says what to do next; the command line prints it alone.
"""

from __future__ import annotations

from typing import ClassVar


class KserveRagError(Exception):
    """Base of all errors of this package."""

    exit_code: ClassVar[int] = 1
    """What the command line exits with."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


# ── Client ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class ClientError(KserveRagError):
    """Base of what `Client` and `AsyncClient` raise."""

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
        """HTTP status; None where no answer came."""
        self.code = code
        """The service's machine-readable kind, as in `chassis.errors`."""
        self.field = field
        """The request's field that is at fault, where there is one."""
        self.request_id = request_id
        """Finds this request in the services' logs."""
        self.retry_after_s = retry_after_s


class UnreachableError(ClientError):
    """Nothing listens at the URL, or the connection cannot be made. A retry helps once the service is up."""

    retryable = True


class RequestError(ClientError):
    """The request can never succeed as it is: a missing, mistyped or out-of-range field (400, 404, 413, 422)."""


class CredentialsError(ClientError):
    """The service wants other credentials (401, 403)."""


class UnavailableError(ClientError):
    """The service, or one behind it, is not ready or busy (429, 502, 503). A retry helps."""

    retryable = True


class TimedOutError(ClientError):
    """No answer within the time allowed, on this side or the service's (504). A retry may help."""

    retryable = True


class ServiceFailedError(ClientError):
    """The service failed for a reason of its own (500), or answered something that its protocol does not allow."""


class InterruptedStreamError(ClientError):
    """A streamed answer broke off. What was received is not the whole answer."""

    retryable = True


# ── One machine ───────────────────────────────────────────────────────────────────────────────────────────────────────


class UsageError(KserveRagError):
    """A name, path or combination of options that does not exist."""

    exit_code = 2


class SetupError(KserveRagError):
    """This machine cannot run the graph, or its Triton environment could not be built."""

    exit_code = 3


class FetchError(KserveRagError):
    """No source of a model's file delivered it. The message lists every source and why not."""

    exit_code = 3


class LaunchError(KserveRagError):
    """The graph could not be started, or a service of it ended."""

    exit_code = 4


class PortTakenError(LaunchError):
    """Another process listens on the transformer's port."""


class NotRunningError(LaunchError):
    """There is no running graph in this home."""
