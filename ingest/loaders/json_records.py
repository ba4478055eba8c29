"""Finds records in JSON values: objects with text, at any depth; arrays of strings; conversations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from ingest.errors import SkippedFileError
from ingest.loaders.builder import TextBuilder
from ingest.loaders.document import Limits, Notice, ParsedDocument
from ingest.loaders.file import SourceFile
from ingest.loaders.records import EVALUATION, choose_fields, is_prose, plain_name, rows_as_text, text_of

_LISTS = frozenset(("documents", "records", "hits", "items", "pages", "docs", "data", "results"))
_KEY = ("_id", "id", "objectID", "doc_id")
_SPEAKER = ("role", "from", "sender", "speaker")
_UTTERANCE = ("content", "text", "value", "message")
_NOT_SPOKEN = frozenset(("title", "url", "subject"))
_SAMPLED_RECORDS = 50
_SHOWN_NAMES = 12


class JsonRecords:
    """Turns the JSON values of one file into documents.

    A record's key is its id, so that a moved record remains the same document; without an id, its name or number.
    """

    def __init__(self, file: SourceFile, limits: Limits) -> None:
        self._file = file
        self._limits = limits
        self._keys: set[str] = set()
        self._names: dict[str, None] = {}
        self._total = 0
        self._blank = 0
        self._has_records: dict[int, bool] = {}
        """`id` of an object or array of the current value → whether it contains records."""

    def read(self, value: Any) -> Iterator[ParsedDocument]:
        """The documents in a value."""
        self._has_records.clear()
        yield from self._walk(value, "", "")

    def read_list(self, values: Iterable[Any]) -> Iterator[ParsedDocument]:
        """The documents in the values of an array. Objects without prose are rows of a table."""
        yield from self._walk_list(values, "", "")

    def counted(self, document: ParsedDocument | None, records: int = 1) -> Iterator[ParsedDocument]:
        """Counts records and yields their document; None means that they have no text."""
        self._total += records
        if document is None:
            self._blank += records
        else:
            yield document

    def check(self) -> None:
        """Raises SkippedFileError if no record so far had text."""
        if self._blank and self._blank == self._total:
            names = ", ".join(map(repr, list(self._names)[:_SHOWN_NAMES])) or "none"
            raise SkippedFileError(f"holds no text in its fields ({names}): name one of them 'text' or 'content'")

    def notices(self) -> Iterator[Notice]:
        """A notice if some records have no text."""
        if self._blank:
            yield Notice(f"{self._blank} of {self._total} records hold no text")

    def _walk(self, value: Any, key: str, title: str, *, with_rows: bool = True) -> Iterator[ParsedDocument]:
        """The documents in a value at `key`. `title`: for records without a title."""
        if isinstance(value, dict):
            yield from self._record(value, key, title)
        elif isinstance(value, list):
            yield from self._walk_list(value, key, title, with_rows=with_rows)
        else:
            yield from self.counted(self._text(value, key, title))

    def _walk_list(
        self, values: Iterable[Any], key: str, title: str, *, with_rows: bool = True
    ) -> Iterator[ParsedDocument]:
        values = iter(values)
        sample = list(islice(values, _SAMPLED_RECORDS))
        if _is_conversation(sample):
            yield from self._conversation(key, chain(sample, values), title)
        elif with_rows and len(sample) > 1 and all(_is_row(value) for value in sample):
            rows = (row for row in chain(sample, values) if isinstance(row, dict))
            yield from rows_as_text(self._file, rows, self._limits, key=key, title=title)
        else:
            for number, value in enumerate(chain(sample, values), start=1):
                if not key:
                    self._has_records.clear()
                yield from self._walk(value, f"{key}#{number}", title)

    def _record(self, record: Mapping[str, Any], key: str, title: str) -> Iterator[ParsedDocument]:
        fields = choose_fields([record])
        inner = {
            name: child
            for name, child in record.items()
            if plain_name(name) not in EVALUATION
            and name != "metadata"
            and not (name in fields.text and text_of(child))
            and self._contains_records(child)
        }
        own = next((str(record[name]) for name in _KEY if isinstance(record.get(name), str | int)), key)
        if fields.text or not inner:
            self._names |= dict.fromkeys(record)
            values = {name: child for name, child in record.items() if name not in inner}
            if isinstance(nested := values.pop("metadata", None), dict):
                values = nested | values
            values = {name: child for name, child in values.items() if fields.keeps(name)}
            document = fields.document(self._file, self._unique(own, key), values, self._limits, title=title)
            yield from self.counted(document if fields.text else None)
        title = text_of(record.get(fields.title or "")) or title
        is_map = len(inner) > 1 and len(inner) == len(record)
        for name, child in inner.items():
            place = own if not own and plain_name(name) in _LISTS else f"{own}/{name}".lstrip("/")
            inherited = name if is_map and isinstance(child, dict) and not title else title
            yield from self._walk(child, place, inherited, with_rows=not fields.text)

    def _contains_records(self, value: object) -> bool:
        """Whether a value contains text at any depth, or rows. Checks each value once."""
        if isinstance(value, str):
            return False
        if id(value) not in self._has_records:
            children: Iterable[object] = ()
            if isinstance(value, dict):
                children = (child for name, child in value.items() if plain_name(name) not in EVALUATION)
            elif isinstance(value, list):
                children = value
            self._has_records[id(value)] = (
                (isinstance(value, dict) and bool(choose_fields([value]).text))
                or (isinstance(value, list) and any(isinstance(item, str) and is_prose(item) for item in value))
                or (isinstance(value, list) and len(value) > 1 and all(map(_is_row, value)))
                or any(self._contains_records(child) for child in children)
            )
        return self._has_records[id(value)]

    def _text(self, text: object, key: str, title: str) -> ParsedDocument | None:
        builder = TextBuilder(self._limits)
        if isinstance(text, str) and any(character.isalpha() for character in text):
            builder.paragraph(text)
        key = self._unique(key, key)
        return builder.document(self._file.source, key, title, url=None, values={}, date="")

    def _conversation(self, key: str, turns: Iterable[Mapping[str, Any]], title: str) -> Iterator[ParsedDocument]:
        lines = (f"{_first(turn, _SPEAKER)}: {_first(turn, _UTTERANCE)}" for turn in turns if _first(turn, _UTTERANCE))
        yield from self.counted(self._text("\n\n".join(lines), key or "#1", title))

    def _unique(self, key: str, position: str) -> str:
        key = key or "#1"
        if key in self._keys:
            key = position
        while key in self._keys:
            key += "'"
        self._keys.add(key)
        return key


def _is_row(value: object) -> bool:
    """Whether a value is an object with only short values."""
    if not isinstance(value, dict) or not value or any(isinstance(each, dict | list) for each in value.values()):
        return False
    return not choose_fields([value]).text


def _is_conversation(values: list[Any]) -> bool:
    return bool(values) and all(
        isinstance(turn, dict)
        and bool(_first(turn, _SPEAKER) and _first(turn, _UTTERANCE))
        and _NOT_SPOKEN.isdisjoint(turn)
        for turn in values
    )


def _first(record: Mapping[str, Any], names: Iterable[str]) -> str:
    return next((text for name in names if (text := text_of(record.get(name)).strip())), "")
