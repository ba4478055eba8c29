"""What ends a run, what only ends one file, and what a request to the service is refused with.

A failed run publishes nothing; a skipped file is reported.
"""

from __future__ import annotations

from typing import ClassVar

from chassis.errors import (
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    NotReadyError,
    PayloadTooLargeError,
    ServiceError,
)


class IngestError(Exception):
    """Base of what ends a run. The message is written for the person who started it."""

    code: ClassVar[str] = "ingest_failed"
    """Stable machine-readable kind."""


class SourceNotFoundError(IngestError):
    """A path that was given does not exist or cannot be listed. Nothing has been read yet."""

    code = "source_not_found"


class NothingUsableError(IngestError):
    """No source gave a document: an empty folder, an unmounted volume, only bad files. The index is left as it is."""

    code = "nothing_usable"


class UnknownFoldersError(IngestError):
    """All that an index holds has to be read anew, and from where is not known. The index is left as it is."""

    code = "unknown_folders"


class EmbeddingFailedError(IngestError):
    """The embedder failed for good, or too often. The index is left as it is; run again when the embedder is up."""

    code = "embedder_failed"


class IndexNotWrittenError(IngestError):
    """The disk is full, the folder may not be written, or the store failed. The index is left as it is."""

    code = "index_not_written"


class ParserError(IngestError):
    """The parser process cannot be started or lost its footing, whatever the file. Nothing is published."""

    code = "parser_failed"


class StillFoundError(IngestError):
    """Something of a deleted source is in the version that was made without it: a defect of ours."""

    code = "still_found"


class SkippedFileError(Exception):
    """One file, or one record, cannot be used. The message is the reason in the summary; the run goes on."""


# Of the service.


class UnreadableUploadError(InvalidRequestError):
    """A request's body is no upload: not multipart/form-data, cut off, or without a file."""


class UnsupportedFileError(InvalidRequestError):
    """A file has a name or a content that no loader reads. Nothing of its request is kept."""

    code = "unsupported_file"


class TooManyFilesError(InvalidRequestError):
    """A request brings more files than are taken at a time. Nothing of it is kept."""

    code = "too_many_files"


class FileTooLargeError(PayloadTooLargeError):
    """A file is larger than is taken. Nothing of its request is kept."""

    code = "file_too_large"


class IndexFullError(ServiceError):
    """An index has as many uploads, or as many bytes of them, as it may."""

    status, code, grpc_status = 409, "index_full", "FAILED_PRECONDITION"


class UnknownIndexError(NotFoundError):
    """The service does not take documents for an index of this name."""


class UnknownSourceError(NotFoundError):
    """The index has no document of this name."""


class NotUploadedError(ForbiddenError):
    """A document comes from a folder that the index follows: whoever keeps the folder deletes it there."""

    code = "not_uploaded"


class UnknownTaskError(NotFoundError):
    """There is no task of this id, or it ended so long ago that it is forgotten."""


class TaskEndedError(ServiceError):
    """A task cannot be cancelled any more."""

    status, code, grpc_status = 409, "task_ended", "FAILED_PRECONDITION"


class WrongTokenError(ServiceError):
    """The request carries no token, or another than the service wants."""

    status, code, grpc_status = 401, "unauthorized", "UNAUTHENTICATED"


class NoSpaceError(NotReadyError):
    """The disk takes no more."""

    code = "no_space"
