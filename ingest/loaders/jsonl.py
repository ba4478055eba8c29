"""JSON Lines: one record per line, read line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ingest.errors import SkippedFileError
from ingest.loaders.document import Notice, ParsedDocument, ParserLimits
from ingest.loaders.file import SourceFile, rows_encoding
from ingest.loaders.records import RecordKeys, document_of


class JsonLinesLoader:
    """JSON Lines: one document per line."""

    suffixes = (".jsonl", ".ndjson")
    binary = False

    def sniff(self, head: bytes) -> bool:
        """Whether the first of several lines is a JSON object."""
        first, _, more = head.partition(b"\n")
        try:
            return bool(more.strip()) and isinstance(json.loads(first), dict)
        except (ValueError, RecursionError):
            return False

    def load(self, file: SourceFile, limits: ParserLimits) -> Iterator[ParsedDocument | Notice]:
        """One document per line, each a record as in JSON. Notices report lines that are not records."""
        file.check_rows_file(limits)
        encoding, notice = rows_encoding(file)
        if notice is not None:
            yield notice
        keys = RecordKeys()
        blank = bad = total = 0
        first_bad = 0
        with file.path.open(encoding=encoding, errors="replace", newline="\n") as stream:
            for number, line in enumerate(_lines(stream, limits), start=1):
                if not line.strip():
                    continue
                total += 1
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    record = None
                if not isinstance(record, dict):
                    bad += 1
                    first_bad = first_bad or number
                    continue
                document = document_of(file, keys.take(record, number), record, limits)
                if document is not None:
                    yield document
                else:
                    blank += 1
        if bad and bad == total:
            raise SkippedFileError(f"no line is a JSON object (line {first_bad} first)")
        if bad:
            yield Notice(f"{bad} of {total} lines are no JSON object (line {first_bad} first)")
        if blank:
            yield Notice(f"{blank} of {total} records hold no text")


def _lines(stream: Any, limits: ParserLimits) -> Iterator[str]:
    longest = limits.max_text_chars * 2
    while line := stream.readline(longest):
        if len(line) == longest and not line.endswith("\n"):
            raise SkippedFileError(f"a line is longer than {longest:,} characters (twice INGEST_MAX_TEXT_CHARS)")
        yield line


LOADER = JsonLinesLoader()
