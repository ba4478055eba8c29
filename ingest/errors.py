"""Errors that end a run, skip one file, or refuse a request to the service. A failed run publishes nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from chassis.errors import (
    ForbiddenError,
    InvalidRequestError,
    NotReadyError,
    PayloadTooLargeError,
    ServiceError,
)


class IngestError(Exception):
    """Base class of errors that end a run. The message is for the person who started it."""

    code: ClassVar[str] = "ingest_failed"
    """Stable error code for programs."""


class SourceNotFoundError(IngestError):
    """A source does not exist or cannot be listed. Nothing was read."""

    code = "source_not_found"


class ReadOnlyIndexError(IngestError):
    """The index serves a collection that another program stores. Nothing was read."""

    code = "read_only_index"


class NothingUsableError(IngestError):
    """No file gave a document: an empty folder, an unmounted volume, or only bad files. The index is unchanged."""

    code = "nothing_usable"

    def __init__(self, problem: str, skipped: Mapping[str, str] | None = None) -> None:
        """`skipped`: name of a file → reason; the message has the first three."""
        reasons = [f"{name}: {reason}" for name, reason in (skipped or {}).items()]
        more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        details = f" Skipped: {'; '.join(reasons[:3])}{more}." if reasons else ""
        super().__init__(f"{problem}; the index is unchanged.{details}")


class RemovalNotConfirmedError(IngestError):
    """A run would remove more than half of the documents. The index is unchanged."""

    code = "removal_not_confirmed"

    def __init__(self, removed: int, documents: int, sources: Collection[str]) -> None:
        """`removed` of the index's `documents`, with the names of their files."""
        names = sorted(sources)
        files = ", ".join(names[:3]) + (f" and {len(names) - 3:,} more files" if len(names) > 3 else "")
        super().__init__(
            f"This would remove {removed:,} of {documents:,} documents: {files} are not under the paths that the index "
            "follows; the index is unchanged. Confirm the removal with --yes, or with allow_removal=true of a re-index."
        )


class UnknownFoldersError(IngestError):
    """All files of an index must be read again, but its sources are unknown. The index is unchanged."""

    code = "unknown_folders"


class EmbeddingFailedError(IngestError):
    """The embedder failed after all retries. The index is unchanged; run again when the embedder is up."""

    code = "embedder_failed"


class IndexNotWrittenError(IngestError):
    """The disk is full, the folder is read-only, or the store failed. The index is unchanged."""

    code = "index_not_written"


class ParserError(IngestError):
    """The parser process cannot be started. The index is unchanged."""

    code = "parser_failed"


class StillFoundError(IngestError):
    """A version still has parts of a deleted file: a bug."""

    code = "still_found"


class SkippedFileError(Exception):
    """One file cannot be used. The message is the reason in the summary; the run continues."""


# Errors of the service.


class UnsupportedFileError(InvalidRequestError):
    """No loader reads a file with this name or content. Nothing of the request is kept."""

    code = "unsupported_file"


class TooManyFilesError(InvalidRequestError):
    """A request has too many files. Nothing of it is kept."""

    code = "too_many_files"


class FileTooLargeError(PayloadTooLargeError):
    """A file is too large. Nothing of the request is kept."""

    code = "file_too_large"


class IndexFullError(ServiceError):
    """The uploads of an index would exceed its quota."""

    status, code, grpc_status = 409, "index_full", "FAILED_PRECONDITION"


class NotUploadedError(ForbiddenError):
    """The document comes from a folder that the index follows, and must be deleted there."""

    code = "not_uploaded"


class TaskEndedError(ServiceError):
    """The task has ended and cannot be cancelled."""

    status, code, grpc_status = 409, "task_ended", "FAILED_PRECONDITION"


class NoSpaceError(NotReadyError):
    """The disk is full."""

    code = "no_space"
