"""What an index version says of itself."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, Field, ValidationError

from vectorstore.errors import DamagedIndexError, UnsupportedFormatError
from vectorstore.wire import Signal

FORMAT = 2
"""Of the files of a version. A reader refuses what is greater than its own. 2: versions may have learned sparse vectors
and multi-vectors, and say which parts they have; 1 had vectors and BM25."""


class EmbedderInfo(BaseModel):
    """What made the vectors of an index."""

    fingerprint: str
    dimension: int = Field(ge=1)


class SourceInfo(BaseModel):
    """What one source became."""

    sha256: str
    document_ids: list[str]


class Counts(BaseModel):
    """Size of an index."""

    documents: int = Field(ge=0)
    chunks: int = Field(ge=0)


class Manifest(BaseModel):
    """What a version is. Written last, so a version without one is not a version."""

    format: int = FORMAT
    version: str
    name: str
    created_at: datetime
    embedder: EmbedderInfo
    settings: dict[str, Any]
    """Of the chunker and whatever else the builder wants to remember."""
    sources: dict[str, SourceInfo]
    counts: Counts
    parts: list[Signal] = ["dense", "lexical"]
    """What the version can be searched by."""
    metadata_fields: dict[str, list[str]]
    """Fields that filters may name → kinds of their values (`str`, `int`, `float`, `bool`)."""
    examples: list[str] = []
    """Questions that the documents answer, for those who do not know yet what to ask."""
    files: dict[str, int]
    """Path → size in bytes of what must be complete. Chroma's files are left out: it rewrites them on opening."""


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the version in `folder`.

    Raises:
        DamagedIndexError: it is missing, cut off, or of another folder.
        UnsupportedFormatError: a newer release wrote it.
    """
    try:
        values = orjson.loads((folder / "manifest.json").read_bytes())
        written = values["format"]
    except (OSError, orjson.JSONDecodeError, TypeError, KeyError) as error:
        raise DamagedIndexError(
            f"Version {folder.name} has no readable manifest.json: copy it again completely, or publish again."
        ) from error
    if not isinstance(written, int) or written > FORMAT:
        raise UnsupportedFormatError(
            f"Version {folder.name} has format {written}; this release reads up to {FORMAT}: upgrade it, or point "
            "`current` at an older version."
        )
    try:
        manifest = Manifest.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise DamagedIndexError(
            f"manifest.json of version {folder.name} is wrong at {where}: publish again."
        ) from error
    if manifest.version != folder.name:
        raise DamagedIndexError(f"Folder {folder.name} holds version {manifest.version}: folders are not renamed.")
    return manifest
