"""Plain text: the file as it is."""

from __future__ import annotations

from collections.abc import Iterator

from ingest.errors import SkippedFileError
from ingest.loaders.document import Limits, Notice, ParsedDocument, check_length, normalise
from ingest.loaders.source import SourceFile, decode


def load_text(file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
    """One document: the text, titled by the file's name."""
    decoded = decode(file.read(limits))
    if decoded.notice is not None:
        yield decoded.notice
    text = normalise(decoded.text)
    if not text.strip():
        raise SkippedFileError("holds no text")
    check_length(len(text), limits)
    yield ParsedDocument(source=file.source, key="", text=text, title=file.stem)
