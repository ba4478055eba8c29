"""Settings of a run and of the service, from `INGEST_…` environment variables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from chassis.settings import BaseUrl, EdgeSettings
from ingest.chunking import ChunkSettings
from ingest.loaders import Limits
from vectorstore.versions import DEFAULT_STORE, LANGUAGES, STORES, Bits

if TYPE_CHECKING:
    from typing_extensions import Self

_LARGEST_DEFAULT_CHUNK = 400
"""Maximum size of a chunk in tokens by default. One vector represents a longer passage badly."""

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
        "default", pattern=_INDEX_NAME, description="Name of the index, and of the folder of its versions."
    )
    embedder_url: BaseUrl = Field("http://127.0.0.1:8084", description="Base URL of the embedder.")
    embedder_model: str = Field("minilm", description="Name of the embedder's model.")
    tokenizer: Path = Field(description="tokenizer.json of the embedder's model, which measures chunks.")

    window_tokens: int = Field(
        256, ge=16, le=1_000_000, description="Window of the embedder in tokens. It truncates longer texts."
    )
    reserved_tokens: int = Field(
        8, ge=0, le=1_000, description="Tokens of the window for special tokens and the embedder's own prefix."
    )
    chunk_tokens: int | None = Field(
        None,
        ge=8,
        le=1_000_000,
        description="Maximum tokens of a chunk, including overlap. Default: four fifths of the window, at most 400.",
    )
    overlap_tokens: int | None = Field(
        None,
        ge=0,
        description="Tokens of whole sentences repeated from the previous chunk; by default 15 % of a chunk.",
    )
    min_chunk_tokens: int = Field(
        48, ge=0, description="A section with fewer tokens is joined with its neighbour under the same heading."
    )

    language: Annotated[str, AfterValidator(_language)] = Field(
        "auto",
        description="Language of the documents, for stemming in lexical search: english, german, …; none disables "
        "stemming, auto detects the language by its most common words.",
    )
    store: Annotated[str, AfterValidator(STORES.check)] = Field(
        DEFAULT_STORE, description="Store that searches the dense vectors, by name."
    )
    sparse: Choice = Field(
        "auto", description="Learned sparse vectors in the index: on, off, or auto (if the embedder's model has them)."
    )
    multi_vectors: Choice = Field(
        "auto",
        description="A vector per token in the index, for late interaction: on, off, or auto (if the embedder's model "
        "has them).",
    )
    multi_vector_bits: Bits = Field(
        2, description="Bits per number of these vectors: 1, 2, 4 or 8. The index size grows with them."
    )

    batch_size: int = Field(256, ge=1, le=4_096, description="Texts per call of the embedder.")
    concurrency: int = Field(4, ge=1, le=64, description="Concurrent calls of the embedder.")
    embed_attempts: int = Field(6, ge=1, le=100, description="Attempts per call, including the first.")
    retry_wait_s: float = Field(
        0.5, ge=0, description="Seconds before the second attempt. The wait doubles with each further attempt."
    )
    max_chunks_in_flight: int = Field(
        2_048, ge=1, description="Maximum number of chunks that are parsed but not written. Limits the memory."
    )

    max_file_bytes: int = Field(
        64 * 1024**2, ge=1, description="Maximum size of a file that is parsed as a whole, in bytes."
    )
    max_rows_file_bytes: int = Field(
        4 * 1024**3, ge=1, description="Maximum size of a CSV or JSON Lines file, in bytes."
    )
    max_text_chars: int = Field(20_000_000, ge=1, description="Maximum length of a document's text, in characters.")
    max_pages: int = Field(10_000, ge=1, description="Maximum number of pages per PDF.")
    max_unpacked_bytes: int = Field(
        512 * 1024**2,
        ge=1,
        description="Maximum size of the content of an office file, e-book or archive, unpacked, in bytes.",
    )
    parse_timeout_s: float = Field(120, gt=0, description="Maximum parsing time per document, in seconds.")
    parser_memory_bytes: int = Field(
        4 * 1024**3, ge=512 * 1024**2, description="Maximum address space of the parser process, in bytes."
    )
    keep_versions: int = Field(
        5, ge=0, description="Number of versions to keep after publishing, including the new one; 0: all."
    )

    def limits(self) -> Limits:
        """Limits of the loaders."""
        return Limits(
            self.max_file_bytes,
            self.max_rows_file_bytes,
            self.max_text_chars,
            self.max_pages,
            self.max_unpacked_bytes,
        )

    def chunks(self) -> ChunkSettings:
        """Sizes of chunks. Raises IngestError if they contradict each other."""
        window, reserved = self.window_tokens, self.reserved_tokens
        chunk = self.chunk_tokens or min(_LARGEST_DEFAULT_CHUNK, (window - reserved) * 4 // 5)
        overlap = chunk * 3 // 20 if self.overlap_tokens is None else self.overlap_tokens
        return ChunkSettings(window, reserved, chunk, overlap, self.min_chunk_tokens)


def _names(value: object) -> object:
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


class IngestServerSettings(IngestSettings, EdgeSettings):
    """Settings of the service: settings of its runs, its address, and its limits."""

    model_config = SettingsConfigDict(env_prefix="INGEST_", extra="forbid")

    http_port: int = Field(8086, ge=1, le=65535, description="Port of the REST API.")
    timeout_s: float = Field(60, gt=0, le=3600, description="Maximum pause in an upload, in seconds.")
    max_body_bytes: int = Field(128 * 1024**2, ge=1024, description="Maximum size of an upload request, in bytes.")
    embed_attempts: int = Field(
        9, ge=1, le=100, description="Attempts per call, including the first; 9 take a minute and a half."
    )
    collections: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = Field(
        (), description="Names of additional indexes to serve, separated by commas."
    )
    sources: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = Field(
        (),
        description="Files, folders, web addresses and other sources that the indexes follow, separated by commas. "
        "Default: the sources of the previous run.",
    )
    watch_s: float = Field(
        0,
        ge=0,
        description="Seconds after which the sources are read again, to publish what has changed; 0: never. Each time, "
        "all local files are read, and the current version is verified.",
    )
    state_dir: Path | None = Field(
        None, description="Folder of the tasks, on a local disk. Default: `.ingest` in the index root."
    )
    max_upload_file_bytes: int = Field(64 * 1024**2, ge=1, description="Maximum size of an uploaded file, in bytes.")
    max_upload_files: int = Field(100, ge=1, le=1_000, description="Maximum number of files per upload request.")
    max_uploads: int = Field(10_000, ge=1, description="Maximum number of uploaded files per index.")
    max_uploads_bytes: int = Field(
        8 * 1024**3, ge=1, description="Maximum total size of the uploaded files per index, in bytes."
    )
    purge_deleted: bool = Field(
        False,
        description="Whether a deletion also removes earlier versions, which still contain the deleted file. Then no "
        "rollback is possible.",
    )
    token: SecretStr | None = Field(
        None, min_length=1, description="Bearer token that every request must send. Default: none."
    )

    managers: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = Field(
        (),
        description="Who may see and change all documents if callers are identified: `user:NAME` or `group:NAME`, "
        "separated by commas.",
    )

    @model_validator(mode="after")
    def _check_token(self) -> Self:
        if self.token is not None and self.jwt_issuer:
            raise ValueError("TOKEN and JWT_ISSUER both read the Authorization header: set one of them")
        return self

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
