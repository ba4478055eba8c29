"""Plain text and logs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ingest.errors import SkippedFileError
from ingest.loaders.document import Limits, Notice, ParsedDocument, check_length, normalise
from ingest.loaders.file import SourceFile

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
"""Colours of terminals."""


class TextLoader:
    """Plain text."""

    suffixes = ("", ".log", ".text", ".txt")
    binary = False

    def sniff(self, head: bytes) -> bool:
        """Always False: other text formats look the same."""
        return False

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document, whose title is the file's name."""
        text = normalise(ANSI.sub("", (yield from file.text(limits))))
        if not text.strip():
            raise SkippedFileError("holds no text")
        check_length(len(text), limits)
        yield ParsedDocument(source=file.source, key="", text=text, title=file.stem)


LOADER = TextLoader()
