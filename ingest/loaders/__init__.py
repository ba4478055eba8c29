"""Loaders: a file in, parsed documents out. Which loader reads a file is told by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from ingest.errors import SkippedFileError
from ingest.loaders.csv_rows import load_csv
from ingest.loaders.document import (
    Block,
    Heading,
    Limits,
    MetadataValue,
    Notice,
    ParsedDocument,
    Section,
)
from ingest.loaders.html import load_html
from ingest.loaders.jcr import load_jcr
from ingest.loaders.json_records import load_json, load_jsonl
from ingest.loaders.markdown import load_markdown
from ingest.loaders.pdf import load_pdf
from ingest.loaders.plain import load_text
from ingest.loaders.source import SourceFile

__all__ = [
    "SUFFIXES",
    "Block",
    "Heading",
    "Limits",
    "Loader",
    "MetadataValue",
    "Notice",
    "ParsedDocument",
    "Section",
    "SourceFile",
    "load",
    "suffix_of",
]

Loader = Callable[[SourceFile, Limits], Iterator[ParsedDocument | Notice]]
"""Yields documents and notices; raises `SkippedFileError` with the reason where the file cannot be used."""

_LOADERS: dict[str, Loader] = {
    ".csv": load_csv,
    ".htm": load_html,
    ".html": load_html,
    ".json": load_json,
    ".jsonl": load_jsonl,
    ".markdown": load_markdown,
    ".md": load_markdown,
    ".ndjson": load_jsonl,
    ".pdf": load_pdf,
    ".rst": load_text,
    ".text": load_text,
    ".tsv": load_csv,
    ".txt": load_text,
    ".xhtml": load_html,
    ".xml": load_jcr,
    "": load_text,
}

SUFFIXES = tuple(sorted(suffix for suffix in _LOADERS if suffix))
"""Endings of the names of files that are read, lower case. A file without an ending is read as text."""


def suffix_of(source: str) -> str:
    """The ending of a file's name that tells who reads it, lower case; empty where it has none."""
    name = PurePosixPath(source).name.lower()
    return ".xml" if name == ".content.xml" else PurePosixPath(name).suffix


def load(file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
    """The documents of one file.

    Raises:
        SkippedFileError: the file cannot be used; the message says why. Nothing else is raised for a bad file.
    """
    suffix = suffix_of(file.source)
    loader = _LOADERS.get(suffix)
    if loader is None:
        raise SkippedFileError(f"files ending in {suffix} are not read (read are {', '.join(SUFFIXES)})")
    documents = 0
    try:
        for item in loader(file, limits):
            documents += isinstance(item, ParsedDocument)
            yield item
    except OSError as error:
        raise SkippedFileError(f"cannot be read: {error.strerror or type(error).__name__}") from error
    except MemoryError as error:
        raise SkippedFileError("needs more memory than the parser may use (INGEST_PARSER_MEMORY_BYTES)") from error
    except RecursionError as error:
        raise SkippedFileError("nested too deep") from error
    if not documents:
        raise SkippedFileError("holds no text")
