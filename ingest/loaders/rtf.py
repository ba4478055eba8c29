"""Rich Text Format: the text, by striprtf."""

from __future__ import annotations

import re
from collections.abc import Iterator

from striprtf.striprtf import rtf_to_text

from ingest.errors import SkippedFileError
from ingest.loaders.document import Limits, Notice, ParsedDocument, check_length, normalise, one_line, real_title
from ingest.loaders.file import SourceFile

_BEGIN = b"{\\rtf"
_TITLE = re.compile(r"\{\\info\b[^{}]*(?:\{[^{}]*\}[^{}]*)*?\{\\title ([^{}]{1,1000})\}")


class RtfLoader:
    """Rich Text Format."""

    suffixes = (".rtf",)
    binary = False

    def sniff(self, head: bytes) -> bool:
        """Whether it begins as RTF does."""
        return head.startswith(_BEGIN)

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document: the text, rows of tables with bars between the cells."""
        data = file.read(limits)
        if not data.startswith(_BEGIN):
            raise SkippedFileError("not RTF: it does not begin like it")
        source = data.decode("latin-1")
        text = normalise(_text(source))
        if not text.strip():
            raise SkippedFileError("holds no text")
        check_length(len(text), limits)
        title = _TITLE.search(source[:100_000])
        own = real_title(_text(f"{{\\rtf1 {title[1]}}}")) if title else ""
        yield ParsedDocument(source=file.source, key="", text=text, title=own or file.stem)


def _text(source: str) -> str:
    try:
        return str(rtf_to_text(source, errors="replace"))  # type: ignore[no-untyped-call]
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise SkippedFileError(f"broken RTF: {one_line(str(error), 200)}") from error


LOADER = RtfLoader()
