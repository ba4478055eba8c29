"""JSON Lines: one record per line, read line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TextIO

from ingest.errors import SkippedFileError
from ingest.loaders.document import Limits, Notice, ParsedDocument
from ingest.loaders.file import SourceFile
from ingest.loaders.json import LOADER as JSON
from ingest.loaders.json_records import JsonRecords


class JsonLinesLoader:
    """JSON Lines: one document per line."""

    suffixes = (".jsonl", ".ndjson")
    binary = False

    def sniff(self, head: bytes) -> bool:
        """Whether the first of several lines is a JSON object."""
        first, _, more = head.partition(b"\n")
        return bool(more.strip()) and isinstance(_value(first), dict)

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document per line, read as a record of JSON. Notices report lines that are not JSON.

        A file that begins with an array is read as JSON.
        """
        if file.head().lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            yield from JSON.load(file, limits)
            return
        records = JsonRecords(file, limits)
        lines = _Lines(limits)
        with (yield from file.rows(limits, newline="\n")) as stream:
            yield from records.read_list(lines.values(stream))
        if lines.bad and lines.bad == lines.total:
            raise SkippedFileError(f"no line is a JSON object (first: line {lines.first_bad})")
        if lines.bad:
            yield Notice(f"{lines.bad} of {lines.total} lines are not JSON objects (first: line {lines.first_bad})")
        records.check()
        yield from records.notices()


class _Lines:
    """Decodes lines and counts those that are not records."""

    def __init__(self, limits: Limits) -> None:
        self._longest = limits.max_text_chars * 2
        self.total = self.bad = self.first_bad = 0

    def values(self, stream: TextIO) -> Iterator[object]:
        number = 0
        while line := stream.readline(self._longest):
            number += 1
            if len(line) == self._longest and not line.endswith("\n"):
                raise SkippedFileError(
                    f"a line is longer than {self._longest:,} characters (twice INGEST_MAX_TEXT_CHARS)"
                )
            if not line.strip():
                continue
            self.total += 1
            value = _value(line)
            if value is not None:
                yield value
            else:
                self.bad += 1
                self.first_bad = self.first_bad or number


def _value(line: str | bytes) -> dict[str, object] | str | None:
    """The record or text of a line; None if it is neither."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict | str) else None


LOADER = JsonLinesLoader()
