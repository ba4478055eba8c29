"""Responses of the service. Times are ISO 8601 in UTC."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

TaskKind = Literal["upload", "delete", "reindex"]
State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Stage = Literal["queued", "waiting", "reading", "indexing", "publishing", "checking", "done"]
Origin = Literal["upload", "folder"]

FINAL: tuple[State, ...] = ("succeeded", "failed", "cancelled")
"""Final states of a task."""


class UploadLimits(BaseModel):
    """Limits of one upload request."""

    max_file_bytes: int = Field(description="Maximum size of a file, in bytes.")
    max_files: int = Field(description="Maximum number of files per request.")
    max_request_bytes: int = Field(description="Maximum size of a request, in bytes, form included.")
    types: list[str] = Field(description="Suffixes of supported files, lower case, with the dot.")


class SourceListing(BaseModel):
    """A file of an index."""

    source: str = Field(description="Name in the index; uploads begin with `uploads/`.")
    title: str = Field(description="Title of its document; the file's name if it has several documents or none.")
    documents: int = Field(description="Number of its documents; 0 if it is not in the index yet.")
    chunks: int
    size_bytes: int | None = Field(description="Size of an upload; null for files of a folder.")
    sha256: str | None = Field(description="SHA-256 of the indexed bytes; null if it is not in the index yet.")
    origin: Origin = Field(description="Uploaded, or from a folder that the index follows.")
    uploaded_at: datetime | None
    stale: str | None = Field(
        default=None,
        description="Why the file can no longer be read, so that its earlier documents stay; null if it can be read.",
    )


class SourceListings(BaseModel):
    """A page of the files of an index, by name."""

    documents: list[SourceListing]
    next: str | None = Field(description="`after` of the next page; null on the last page.")
    version: str | None = Field(description="Current version of the index; null if nothing is published yet.")


class Progress(BaseModel):
    """Progress of the run that a task belongs to."""

    stage: Stage = "queued"
    files_done: int = 0
    files_total: int = Field(default=0, description="New and changed files of the run.")
    chunks_done: int = Field(default=0, description="Chunks written to the new version.")
    bytes_done: int = 0
    bytes_total: int = Field(default=0, description="Size of the new and changed files.")
    chunks_per_s: float = Field(default=0.0, description="Chunks embedded per second.")
    eta_s: float | None = Field(default=None, description="Seconds left; null if unknown.")
    reason: str | None = Field(default=None, description="Why the run waits; null if it does not.")


class SkippedSource(BaseModel):
    """A file that cannot be used."""

    source: str
    reason: str
    stale: bool = Field(default=False, description="Whether its documents from an earlier run stay in the index.")


class SourceNotice(BaseModel):
    """A remark about a file that was used, for example pages without text."""

    source: str
    text: str


class SkippedSources(BaseModel):
    """A page of the files that an index cannot use, by name."""

    skipped: list[SkippedSource]
    next: str | None = Field(description="`after` of the next page; null on the last page.")


class Absence(BaseModel):
    """Proof of a deletion: number of remains in each part of the new version, always 0."""

    version: str | None = Field(description="The version that was searched.")
    manifest: int
    documents: int = Field(description="Stored texts.")
    chunks: int = Field(description="Stored chunks.")
    metadata: int = Field(description="Metadata that filters compare.")
    dense: int = Field(description="Vectors.")
    store: int = Field(description="The same vectors in the store.")
    lexical: int = Field(description="Terms and rows of BM25.")
    sparse: int | None = Field(description="Tokens and rows of the learned sparse vectors; null: the index has none.")
    multi_vector: int | None = Field(description="Rows with a vector per token; null: the index has none.")
    kept_in: list[str] = Field(description="Earlier versions that still contain the documents; `purge` removes them.")


class TaskResult(BaseModel):
    """The result of a task."""

    version: str | None = Field(description="Version of the index with the task's changes.")
    documents: int = Field(description="Documents of the task's files; of the whole index after a re-index.")
    chunks: int
    skipped: list[SkippedSource] = Field(description="Files of the task that cannot be used.")
    notices: list[SourceNotice] = Field(default=[], description="Losses and guesses in the files that were used.")
    absence: Absence | None = Field(default=None, description="After a deletion.")


class TaskError(BaseModel):
    """Why a task failed."""

    code: str
    message: str


class Task(BaseModel):
    """Work on an index."""

    id: str
    kind: TaskKind
    index: str
    state: State
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    progress: Progress = Progress()
    sources: list[str] = Field(description="Names of the task's files in the index; empty for a re-index.")
    allow_removal: bool = Field(
        default=False, description="Whether a re-index may remove more than half of the documents."
    )
    result: TaskResult | None = None
    error: TaskError | None = None


class TaskList(BaseModel):
    """Tasks, newest first."""

    tasks: list[Task]


class ErrorBody(BaseModel):
    """An error response."""

    error: str = Field(description="Message for people: the invalid value, the limit, and what to do.")
    code: str = Field(description="Error code for programs.")
    field: str | None = Field(default=None, description="Invalid part of the request.")
