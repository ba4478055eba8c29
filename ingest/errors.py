"""What ends a run, and what only ends one file. A failed run publishes nothing; a skipped file is reported."""

from __future__ import annotations


class IngestError(Exception):
    """Base of all errors of this room. The message is written for the person who started the run."""


class SourceNotFoundError(IngestError):
    """A path that was given does not exist or cannot be listed. Nothing has been read yet."""


class NothingUsableError(IngestError):
    """No source gave a document: an empty folder, an unmounted volume, only bad files. The index is left as it is."""


class EmbeddingFailedError(IngestError):
    """The embedder failed for good, or too often. The index is left as it is; run again when the embedder is up."""


class IndexNotWrittenError(IngestError):
    """The disk is full, the folder may not be written, or the store failed. The index is left as it is."""


class ParserError(IngestError):
    """The parser process cannot be started or lost its footing, whatever the file. Nothing is published."""


class SkippedFileError(Exception):
    """One file, or one record, cannot be used. The message is the reason in the summary; the run goes on."""
