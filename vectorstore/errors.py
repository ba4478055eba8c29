"""Errors of indexes, filters and stores. Each base class sets the HTTP status."""

from __future__ import annotations

from chassis.errors import BadUpstreamError, InternalError, InvalidRequestError, NotFoundError, NotReadyError


class NoIndexError(NotReadyError):
    """No version of the index has been published yet."""

    code = "no_index"


class DamagedIndexError(NotReadyError):
    """A version is incomplete or unreadable. Publish again, or point `current` at an older version."""

    code = "damaged_index"
    retryable = False


class DamagedAccessError(NotReadyError):
    """The rules of who may read the documents of an index cannot be read."""

    code = "damaged_access"
    retryable = False


class UnsupportedFormatError(NotReadyError):
    """A version has a file format that this release does not read."""

    code = "unsupported_index_format"
    retryable = False


class EmbedderMismatchError(NotReadyError):
    """The index was built with another embedder than the one that is serving."""

    code = "embedder_mismatch"


class UnknownVersionError(NotFoundError):
    """The index has no such version."""


class UnknownCollectionError(NotFoundError):
    """A request for a document names an index that the service does not serve."""


class InvalidCollectionError(InvalidRequestError):
    """A search names an index that the service does not serve."""


class MissingPartError(InvalidRequestError):
    """A search mode needs a signal that the index version does not have."""


class UnknownDocumentError(NotFoundError):
    """The index version has no such document."""


class InvalidFilterError(InvalidRequestError):
    """A filter has an operator, value or field that the index does not know."""


class InvalidAccessError(InvalidRequestError):
    """A rule of who may read documents is malformed."""


class InvalidContentError(InvalidRequestError):
    """A document, chunk or vector breaks a rule of the index and cannot be stored."""


class InvalidArchiveError(InvalidRequestError):
    """A file to import is no complete export of an index version that this release can read."""


class StoreFailedError(BadUpstreamError):
    """A vector store failed or sent an invalid response."""


class UnsupportedFilterError(StoreFailedError):
    """A store cannot evaluate a filter correctly. The service searches the exact vectors instead."""


class BuilderClosedError(InternalError):
    """A builder was used after it had published or was abandoned."""
