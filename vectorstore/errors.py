"""What may go wrong with an index, a filter or a store, and the status that each kind is answered with."""

from __future__ import annotations

from chassis.errors import BadUpstreamError, InternalError, InvalidRequestError, NotFoundError, NotReadyError


class NoIndexError(NotReadyError):
    """Nothing has been published under this index name yet."""

    code = "no_index"


class DamagedIndexError(NotReadyError):
    """A version is incomplete or unreadable. Publishing again, or pointing `current` back, helps; waiting does not."""

    code = "damaged_index"
    retryable = False


class UnsupportedFormatError(NotReadyError):
    """A version was written by a newer release than this one reads."""

    code = "unsupported_index_format"
    retryable = False


class EmbedderMismatchError(NotReadyError):
    """The serving embedder is not the one that made the index's vectors."""

    code = "embedder_mismatch"


class UnknownVersionError(NotFoundError):
    """No such version of the index is published."""


class UnknownCollectionError(NotFoundError):
    """A document is asked for from an index that the service does not serve."""


class InvalidCollectionError(InvalidRequestError):
    """A search names an index that the service does not serve."""


class MissingPartError(InvalidRequestError):
    """A mode, or the weights, need a part that the index version was built without."""


class UnknownDocumentError(NotFoundError):
    """No such document in this version of the index."""


class InvalidFilterError(InvalidRequestError):
    """A filter uses an operator, value or field that the index does not know."""


class InvalidContentError(InvalidRequestError):
    """A document, chunk or vector breaks a rule of the index; it cannot be stored as it is."""


class StoreFailedError(BadUpstreamError):
    """The store of vectors failed or answered nonsense."""


class BuilderClosedError(InternalError):
    """A builder was used after it had published or been abandoned."""
