"""Settings of a run and of the service, from arguments or from `INGEST_…` environment variables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from chassis.settings import BaseUrl, EdgeSettings
from ingest.chunking import ChunkSettings
from ingest.loaders import ParserLimits
from vectorstore.versions import DEFAULT_STORE, LANGUAGES, STORES, Bits

_LARGEST_DEFAULT_CHUNK = 400
"""Tokens. A single vector represents a longer passage badly."""


_INDEX_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"

Choice = Literal["auto", "on", "off"]


def _language(value: str) -> str:
    if value not in LANGUAGES:
        raise ValueError(f"there is no stemmer for {value!r}: use one of {', '.join(LANGUAGES)}")
    return value


class IngestSettings(BaseSettings):
    """Settings of a run."""

    model_config = SettingsConfigDict(env_prefix="INGEST_", extra="forbid")

    index_root: Path = Field(description="Folder that holds the indexes.")
    index_name: str = Field(
        default="default",
        pattern=_INDEX_NAME,
        description="Name of the index; its versions lie in a folder of this name.",
    )
    embedder_url: BaseUrl = Field(default="http://127.0.0.1:8084", description="Base URL of the embedder.")
    embedder_model: str = Field(default="minilm", description="Name of the embedder's model.")
    tokenizer: Path = Field(description="tokenizer.json of the embedder's model, to measure chunks with.")

    window_tokens: int = Field(
        default=256, ge=16, le=1_000_000, description="Tokens that the embedder reads of a text."
    )
    reserved_tokens: int = Field(
        default=8, ge=0, le=1_000, description="Tokens of the window for special tokens and the embedder's own prefix."
    )
    chunk_tokens: int | None = Field(
        default=None,
        ge=8,
        le=1_000_000,
        description="Tokens of a chunk at most, overlap included; by default four fifths of the window, at most 400.",
    )
    overlap_tokens: int | None = Field(
        default=None,
        ge=0,
        description="Tokens of whole sentences repeated from the chunk before; by default 3 in 20 of a chunk's.",
    )
    min_chunk_tokens: int = Field(
        default=48,
        ge=0,
        description="A section with fewer tokens joins its neighbour under the same heading.",
    )

    language: Annotated[str, AfterValidator(_language)] = Field(
        default="auto",
        description="Language of the documents, for stemming in lexical search: english, german, …; none disables "
        "stemming, auto detects the language by the commonest words.",
    )
    store: Annotated[str, AfterValidator(STORES.check)] = Field(
        default=DEFAULT_STORE, description="Store that searches the dense vectors, by name."
    )
    sparse: Choice = Field(
        default="auto",
        description="Whether the index holds learned sparse vectors: on, off, or auto (if the embedder's model "
        "returns them).",
    )
    multi_vectors: Choice = Field(
        default="auto",
        description="Whether the index holds a vector per token, for late interaction: on, off, or auto (if the "
        "embedder's model returns them).",
    )
    multi_vector_bits: Bits = Field(
        default=2, description="Bits that each number of these is rounded to, 1, 2, 4 or 8: the index grows with them."
    )

    batch_size: int = Field(default=256, ge=1, le=4_096, description="Texts per call of the embedder.")
    concurrency: int = Field(default=4, ge=1, le=64, description="Calls of the embedder at a time.")
    embed_timeout_s: float = Field(default=300, gt=0, description="Seconds that one call of the embedder may take.")
    embed_attempts: int = Field(default=6, ge=1, le=100, description="Attempts per call, including the first.")
    retry_wait_s: float = Field(
        default=0.5, ge=0, description="Seconds before the second attempt; doubled for each further."
    )
    max_chunks_in_flight: int = Field(
        default=2_048, ge=1, description="Chunks parsed but not yet written, before parsing waits. Bounds the memory."
    )

    max_file_bytes: int = Field(default=64 * 1024**2, ge=1, description="Bytes of a file that is parsed whole.")
    max_rows_file_bytes: int = Field(default=4 * 1024**3, ge=1, description="Bytes of a CSV or JSON Lines file.")
    max_text_chars: int = Field(default=20_000_000, ge=1, description="Characters of one document's text.")
    max_pages: int = Field(default=10_000, ge=1, description="Pages of one PDF.")
    parse_timeout_s: float = Field(default=120, gt=0, description="Seconds that a file may take per document.")
    parser_memory_bytes: int = Field(
        default=4 * 1024**3, ge=512 * 1024**2, description="Address space of the process that parses files."
    )
    keep_versions: int = Field(
        default=5, ge=0, description="Versions to keep after publishing, the new one included; 0: all."
    )

    def limits(self) -> ParserLimits:
        """Limits of the loaders."""
        return ParserLimits(
            max_file_bytes=self.max_file_bytes,
            max_rows_file_bytes=self.max_rows_file_bytes,
            max_text_chars=self.max_text_chars,
            max_pages=self.max_pages,
        )

    def chunks(self) -> ChunkSettings:
        """Sizes of chunks.

        Raises:
            IngestError: the sizes contradict each other.
        """
        chunk = self.chunk_tokens
        if chunk is None:
            chunk = min(_LARGEST_DEFAULT_CHUNK, (self.window_tokens - self.reserved_tokens) * 4 // 5)
        return ChunkSettings(
            window_tokens=self.window_tokens,
            reserved_tokens=self.reserved_tokens,
            max_tokens=chunk,
            overlap_tokens=chunk * 3 // 20 if self.overlap_tokens is None else self.overlap_tokens,
            min_tokens=self.min_chunk_tokens,
        )


def _names(value: object) -> object:
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


class IngestServerSettings(IngestSettings, EdgeSettings):
    """Settings of the service: those of a run, its address, and its limits."""

    model_config = SettingsConfigDict(env_prefix="INGEST_", extra="forbid")

    http_port: int = Field(default=8086, ge=1, le=65535, description="Port of REST.")
    timeout_s: float = Field(default=60, gt=0, le=3600, description="Longest wait for more of an upload, in seconds.")
    max_body_bytes: int = Field(
        default=128 * 1024**2, ge=1024, description="Bytes of one upload request, including the form around its files."
    )
    embed_attempts: int = Field(
        default=9,
        ge=1,
        le=100,
        description="Times that a failed call is tried in all; 9 take a minute and a half.",
    )
    collections: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = Field(
        default=(), description="Names of further indexes to serve, separated by commas."
    )
    sources: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = Field(
        default=(),
        description="Files and folders that the indexes follow, separated by commas; by default those of the last "
        "ingestion run.",
    )
    state_dir: Path | None = Field(
        default=None, description="Folder of the tasks, on a local disk; by default `.ingest` below the index root."
    )
    max_upload_file_bytes: int = Field(default=64 * 1024**2, ge=1, description="Bytes of one uploaded file.")
    max_upload_files: int = Field(default=100, ge=1, le=1_000, description="Files of one upload request.")
    max_uploads: int = Field(default=10_000, ge=1, description="Uploaded files of one index.")
    max_uploads_bytes: int = Field(default=8 * 1024**3, ge=1, description="Bytes of all uploaded files of one index.")
    purge_deleted: bool = Field(
        default=False,
        description="Whether a deletion removes the earlier versions too, which still hold the deleted file; "
        "this makes a rollback impossible.",
    )
    token: SecretStr | None = Field(
        default=None, min_length=1, description="Bearer token that every request must send; by default none."
    )

    @field_validator("collections")
    @classmethod
    def _name_folders(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not re.fullmatch(_INDEX_NAME, name):
                raise ValueError(f"{name!r} cannot name an index")
        return names

    def indexes(self) -> tuple[str, ...]:
        """Names of the served indexes."""
        return tuple(dict.fromkeys((self.index_name, *self.collections)))

    def state(self) -> Path:
        """Folder for the tasks."""
        return self.state_dir or self.index_root / ".ingest"
