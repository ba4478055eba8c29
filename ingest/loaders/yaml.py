"""YAML: the source, with its upper keys as headings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from ingest.errors import SkippedFileError
from ingest.loaders.document import Heading, Limits, Notice, ParsedDocument, check_length, normalise, one_line
from ingest.loaders.file import SourceFile

_MOST_LEVELS = 2
"""Levels of keys that become headings: `paths` and each path of OpenAPI."""
_TITLES = (("info", "title"), ("metadata", "name"), ("title",), ("name",))
"""Keys of a title: of OpenAPI, Kubernetes and others. The first that has a value counts."""


@dataclass(slots=True)
class _Collection:
    """An open mapping or sequence."""

    is_mapping: bool
    path: tuple[str, ...]
    key: Any = None
    """The event of the key whose value comes next."""


class YamlLoader:
    """YAML, with any number of documents."""

    suffixes = (".yaml", ".yml")
    binary = False

    def sniff(self, head: bytes) -> bool:
        """Always False: it looks like plain text."""
        return False

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document: the file as written. Title: `info.title`, `metadata.name`, `title`, else the file's name."""
        text = normalise((yield from file.text(limits)), collapse_blank_lines=False)
        if not text.strip():
            raise SkippedFileError("holds no text")
        check_length(len(text), limits)
        headings: tuple[Heading, ...] = ()
        values: dict[tuple[str, ...], str] = {}
        try:
            headings, values = _upper_keys(text)
        except (yaml.YAMLError, ValueError) as error:
            mark = getattr(error, "problem_mark", None)
            yield Notice(f"read as plain text: not valid YAML{f' in line {mark.line + 1:,}' if mark else ''}")
        title = next((values[key] for key in _TITLES if key in values), "")
        yield ParsedDocument(
            source=file.source, key="", text=text, title=one_line(title) or file.stem, headings=headings
        )


def _upper_keys(text: str) -> tuple[tuple[Heading, ...], dict[tuple[str, ...], str]]:
    """The keys of the upper levels that have further values below, as headings, and the first value of each other key.

    Takes linear time: aliases are not expanded. Raises yaml.YAMLError if the text is invalid.
    """
    headings: list[Heading] = []
    values: dict[tuple[str, ...], str] = {}
    stack: list[_Collection] = []
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionEndEvent):
            stack.pop()
        if not isinstance(event, yaml.NodeEvent):
            continue
        outer = stack[-1] if stack else None
        key = outer.key if outer is not None else None
        path: tuple[str, ...] = ()
        if outer is not None and isinstance(key, yaml.ScalarEvent):
            path = (*outer.path, key.value)
        if outer is not None and outer.is_mapping:
            outer.key = event if key is None else None
        if isinstance(event, yaml.CollectionStartEvent):
            if key is not None and path and len(stack) <= _MOST_LEVELS and not event.flow_style:
                start = text.rfind("\n", 0, key.start_mark.index) + 1
                heading = Heading(start, text.find("\n", start), len(stack), one_line(path[-1]))
                if heading.title and heading.title in text[start : heading.end]:
                    headings.append(heading)
            stack.append(_Collection(isinstance(event, yaml.MappingStartEvent), path[:_MOST_LEVELS]))
        elif isinstance(event, yaml.ScalarEvent) and len(path) == len(stack) <= _MOST_LEVELS:
            values.setdefault(path, event.value)
    return tuple(headings), values


LOADER = YamlLoader()
