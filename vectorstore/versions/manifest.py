"""The manifest of an index version."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, Field, ValidationError

from vectorstore.errors import DamagedIndexError, UnsupportedFormatError
from vectorstore.wire import Signal

FORMAT = 3
"""Format of a version's files. Readers accept no other."""


class EmbedderInfo(BaseModel):
    """The embedder that made the vectors of an index."""

    fingerprint: str
    dimension: int = Field(ge=1)


class SourceInfo(BaseModel):
    """A source and the documents read from it."""

    sha256: str
    document_ids: list[str]


class Counts(BaseModel):
    """Size of an index."""

    documents: int = Field(ge=0)
    chunks: int = Field(ge=0)


class Manifest(BaseModel):
    """Content of `manifest.json`, which is written last: a folder without it is not a version."""

    format: int = FORMAT
    version: str
    build_id: str
    """See `stores.VersionRef`."""
    name: str
    """Name of the index."""
    created_at: datetime
    embedder: EmbedderInfo
    store: str
    """Kind of store that the version was built with: a name in the registry `kserve_rag.stores`."""
    settings: dict[str, Any]
    """Settings of the chunker, and others that the builder adds."""
    sources: dict[str, SourceInfo]
    counts: Counts
    parts: list[Signal]
    """Signals that the version can be searched by."""
    trust: dict[Signal, float] = Field(default_factory=dict)
    """Signal → how reliable it is for these documents, 0 … 1 (see `versions.trust`); empty if not measured."""
    languages: dict[str, float] = Field(default_factory=dict)
    """Language (ISO 639-1) → share of the chunks, largest first; empty in versions of earlier releases."""
    metadata_fields: dict[str, list[str]]
    """Field that filters may name → types of its values (`str`, `int`, `float`, `bool`)."""
    examples: list[str]
    """Questions that the documents answer."""
    example_sources: list[str] = Field(default_factory=list)
    """File that each example was made from; empty in versions of earlier releases."""
    files: dict[str, int]
    """Path → size in bytes, without the store's files, which may change."""
    sha256: dict[str, str]
    """Path → SHA-256 in hexadecimal, of all `files`; in versions of earlier releases, of those that texts are served
    from."""


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the version in `folder`.

    Raises:
        DamagedIndexError: the manifest is missing or truncated, or belongs to another folder.
        UnsupportedFormatError: another release wrote it.
    """
    try:
        values = orjson.loads((folder / "manifest.json").read_bytes())
        written = values["format"]
    except (OSError, orjson.JSONDecodeError, TypeError, KeyError) as error:
        raise DamagedIndexError(
            f"Version {folder.name} has no readable manifest.json: copy it again completely, or publish again."
        ) from error
    if written != FORMAT:
        newer = isinstance(written, int) and written > FORMAT
        step = "upgrade, or point `current` at an older one" if newer else "build it again with `kserve-rag ingest`"
        raise UnsupportedFormatError(
            f"Version {folder.name} has format {written}, but this release reads format {FORMAT}: {step}."
        )
    try:
        manifest = Manifest.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise DamagedIndexError(
            f"manifest.json of version {folder.name} is invalid at {where}: publish again."
        ) from error
    if manifest.version != folder.name:
        raise DamagedIndexError(f"Folder {folder.name} holds version {manifest.version}: folders must not be renamed.")
    return manifest
