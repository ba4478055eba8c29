"""Requests and responses of the service. Every time is ISO 8601 in UTC."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

TaskKind = Literal["upload", "delete", "reindex"]
State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Stage = Literal["queued", "waiting", "reading", "indexing", "publishing", "checking", "done"]
Origin = Literal["upload", "folder"]

FINAL: tuple[State, ...] = ("succeeded", "failed", "cancelled")
"""States that a task does not leave."""


class UploadLimits(BaseModel):
    """Limits of one upload request."""

    max_file_bytes: int = Field(description="Bytes of one file.")
    max_files: int = Field(description="Files of one request.")
    max_request_bytes: int = Field(description="Bytes of one request, all files and what stands between them.")
    types: list[str] = Field(description="Endings of the names of files that are read, lower case, with their dot.")


class SourceListing(BaseModel):
    """A file that an index holds documents of."""

    source: str = Field(description="Its name in the index; of an upload, it begins with `uploads/`.")
    title: str = Field(description="Of its document; the file's name where it holds several, or none.")
    documents: int = Field(description="Documents made of it; 0: uploaded, and not in the index yet.")
    chunks: int
    size_bytes: int | None = Field(description="Of an uploaded file; null for a folder's.")
    sha256: str | None = Field(description="Of the bytes that were indexed; null while it is not in the index.")
    origin: Origin = Field(description="Uploaded here, or of a folder that the index follows.")
    uploaded_at: datetime | None


class SourceListings(BaseModel):
    """A page of the files of an index, by name."""

    documents: list[SourceListing]
    next: str | None = Field(description="`after` of the next page; null on the last one.")
    version: str | None = Field(description="Of the index; null where nothing was published yet.")


class Progress(BaseModel):
    """Progress of the run that a task belongs to."""

    stage: Stage = "queued"
    files_done: int = 0
    files_total: int = Field(default=0, description="New and changed files of the run.")
    chunks_done: int = Field(default=0, description="Chunks of the version that are written.")
    bytes_done: int = 0
    bytes_total: int = Field(default=0, description="Of the new and changed files.")
    chunks_per_s: float = Field(default=0.0, description="Chunks embedded per second.")
    eta_s: float | None = Field(default=None, description="Seconds left; null while that cannot be told.")
    reason: str | None = Field(default=None, description="Why it waits, while it does.")


class SkippedSource(BaseModel):
    """A file that cannot be used."""

    source: str
    reason: str


class Absence(BaseModel):
    """Remains of deleted documents in each part of the new version: 0 everywhere."""

    version: str | None = Field(description="The version that was looked through.")
    manifest: int
    documents: int = Field(description="Stored texts.")
    chunks: int = Field(description="Stored chunks.")
    metadata: int = Field(description="Metadata that filters compare.")
    dense: int = Field(description="Vectors.")
    store: int = Field(description="The same vectors in the store.")
    lexical: int = Field(description="Terms and rows of BM25.")
    sparse: int | None = Field(description="Tokens and rows of the learned sparse vectors; null: the index has none.")
    multi_vector: int | None = Field(description="Rows with a vector per token; null: the index has none.")
    kept_in: list[str] = Field(description="Earlier versions that are kept and still hold them; `purge` removes those.")


class TaskResult(BaseModel):
    """The result of a task."""

    version: str | None = Field(description="Of the index, with the task's work in it.")
    documents: int = Field(description="That the task's files became; of the whole index after a re-index.")
    chunks: int
    skipped: list[SkippedSource] = Field(description="Files of the task that could not be used, with the reason.")
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
    result: TaskResult | None = None
    error: TaskError | None = None


class TaskList(BaseModel):
    """Tasks, the newest first."""

    tasks: list[Task]


class ErrorBody(BaseModel):
    """An error response."""

    error: str = Field(description="For people: the offending value, the limit, and what to do.")
    code: str = Field(description="For programs.")
    field: str | None = Field(default=None, description="What of the request it is about.")
