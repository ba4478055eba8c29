"""JSON Lines: one record per line, read line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TextIO

from ingest.errors import SkippedFileError
from ingest.loaders.document import Limits, Notice, ParsedDocument
from ingest.loaders.file import SourceFile
from ingest.loaders.records import Records


class JsonLinesLoader:
    """JSON Lines: one document per line."""

    suffixes = (".jsonl", ".ndjson")
    binary = False

    def sniff(self, head: bytes) -> bool:
        """Whether the first of several lines is a JSON object."""
        first, _, more = head.partition(b"\n")
        return bool(more.strip()) and _record(first) is not None

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document per line, each a record as in JSON. Notices report lines that are not records."""
        records = Records(file, limits)
        total = 0
        bad: list[int] = []
        with (yield from file.rows(limits, newline="\n")) as stream:
            for number, line in enumerate(_lines(stream, limits), start=1):
                if not line.strip():
                    continue
                total += 1
                record = _record(line)
                if record is None:
                    bad.append(number)
                else:
                    yield from records.document(number, record)
        if bad and len(bad) == total:
            raise SkippedFileError(f"no line is a JSON object (first: line {bad[0]})")
        if bad:
            yield Notice(f"{len(bad)} of {total} lines are not JSON objects (first: line {bad[0]})")
        yield from records.blank_notice(total)


def _record(line: str | bytes) -> dict[str, object] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _lines(stream: TextIO, limits: Limits) -> Iterator[str]:
    longest = limits.max_text_chars * 2
    while line := stream.readline(longest):
        if len(line) == longest and not line.endswith("\n"):
            raise SkippedFileError(f"a line is longer than {longest:,} characters (twice INGEST_MAX_TEXT_CHARS)")
        yield line


LOADER = JsonLinesLoader()
