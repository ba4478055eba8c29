"""MDX: Markdown without imports, exports, comments and the tags of components. Their texts stay."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ingest.loaders.document import Limits, Notice, ParsedDocument, check_length, normalise
from ingest.loaders.file import SourceFile
from ingest.loaders.markdown import markdown_document, markdown_structure

_IMPORT = re.compile(
    r"""^import\s+(?:[\w$*{},\s]{1,2000}?\sfrom\s+)?["'][^"'\n]{1,500}["'];?[ \t]*(?:\n|$)""", re.MULTILINE
)
_EXPORT = re.compile(r"export\s+(?:async|class|const|default|function|let|var|\{|\*)")
_BRACES = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]{0,999}\}){0,999}\}){0,9999}\}"
_VALUE = rf"""(?:"[^"]{{0,9999}}"|'[^']{{0,9999}}'|{_BRACES})"""
_CODE_OR_TAG = re.compile(
    r"(?<!`)(?P<ticks>`+)(?!`)(?:(?!\n\n).)+?(?<!`)(?P=ticks)(?!`)"
    r"|\{\s*/\*.*?\*/\s*\}"
    rf"|</?(?:[A-Za-z][\w.:-]*(?P<values>(?:\s+(?:[\w:.-]+(?:\s*=\s*{_VALUE})?|{_BRACES}))*)\s*/?)?>",
    re.DOTALL,
)
_WORDS = re.compile(rf"\s(?:alt|caption|description|label|summary|title)\s*=\s*({_VALUE})")


class MdxLoader:
    """MDX."""

    suffixes = (".mdx",)
    binary = False

    def sniff(self, head: bytes) -> bool:
        """Always False: it looks like plain text."""
        return False

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document, like one of Markdown."""
        text = normalise((yield from file.text(limits)), collapse_blank_lines=False)
        check_length(len(text), limits)
        yield markdown_document(file, _markdown(text), limits, mdx=True)


def _markdown(text: str) -> str:
    """The text without modules, comments and tags, except in code."""
    pieces: list[str] = []
    place = 0
    for start, end in (*markdown_structure(text, mdx=True).code, (len(text), len(text))):
        if start >= place:
            prose = _without_exports(_IMPORT.sub("", text[place:start]))
            pieces += [_CODE_OR_TAG.sub(_words, prose), text[start:end]]
            place = end
    return "".join(pieces)


def _without_exports(text: str) -> str:
    lines = text.split("\n")
    kept: list[str] = []
    number = 0
    while number < len(lines):
        if _EXPORT.match(lines[number]):
            number = _statement_end(lines, number)
        else:
            kept.append(lines[number])
            number += 1
    return "\n".join(kept)


def _statement_end(lines: list[str], first: int) -> int:
    """The line after a statement: its brackets are closed. If they never are, the next line."""
    depth = 0
    for number in range(first, len(lines)):
        depth += sum((each in "([{") - (each in ")]}") for each in lines[number])
        if depth <= 0:
            return number + 1
    return first + 1


def _words(match: re.Match[str]) -> str:
    """Code as it is; the words in the attributes of a tag; nothing for a comment."""
    if match["ticks"]:
        return match[0]
    return " ".join(value.strip("{}\"'`") for value in _WORDS.findall(match["values"] or ""))


LOADER = MdxLoader()
