"""Markdown: the source as written, without front matter and comments, with its headings, code and tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, chain, pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

from ingest.errors import SkippedFileError
from ingest.loaders.dates import date_metadata
from ingest.loaders.document import (
    Block,
    Heading,
    Limits,
    Notice,
    ParsedDocument,
    as_metadata,
    check_length,
    normalise,
    one_line,
    web_address,
)
from ingest.loaders.file import SourceFile

_FRONT_MATTER_LINES = 400
_FRONT_MATTER_LINE = re.compile(r"([A-Za-z_][\w.-]*)\s*[:=]\s*(.*)$")
_INLINE = MarkdownIt("commonmark")
_URL_KEYS = ("canonical_url", "canonical", "url", "permalink")
_NOT_METADATA = frozenset(("title", "date", *_URL_KEYS))


@dataclass(frozen=True, slots=True)
class Structure:
    """Headings and blocks of a Markdown text, as offsets."""

    headings: tuple[Heading, ...]
    blocks: tuple[Block, ...]
    comments: tuple[tuple[int, int], ...] = field(default=())
    """Lines [first, last) that hold only an HTML comment."""


class MarkdownLoader:
    """Markdown: the source as written."""

    suffixes = (".markdown", ".md")
    binary = False

    def sniff(self, head: bytes) -> bool:
        """Never: Markdown looks like plain text, and that is how it is read."""
        return False

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document. Its title is in the front matter, else the first top-level heading, else the file's name."""
        raw = yield from file.text(limits)
        check_length(len(raw), limits)
        values, text = split_front_matter(normalise(raw, collapse_blank_lines=False))
        structure = markdown_structure(text)
        if structure.comments:
            lines = text.split("\n")
            for first, last in reversed(structure.comments):
                del lines[first:last]
            text = normalise("\n".join(lines), collapse_blank_lines=False)
            structure = markdown_structure(text)
        if not text.strip():
            raise SkippedFileError("holds no text")
        first_heading = next((heading.title for heading in structure.headings if heading.level == 1), "")
        urls = (values[key] for key in _URL_KEYS if values.get(key, "").startswith(("http://", "https://")))
        extra = {name: value for name, value in values.items() if name not in _NOT_METADATA}
        yield ParsedDocument(
            source=file.source,
            key="",
            text=text,
            title=one_line(values.get("title", "")) or first_heading or file.stem,
            url=web_address(next(urls, None)),
            metadata=as_metadata(extra) | date_metadata(values.get("date", "")),
            headings=structure.headings,
            blocks=structure.blocks,
        )


def split_front_matter(text: str) -> tuple[dict[str, str], str]:
    """The scalars of a YAML (`---`) or TOML (`+++`) front matter, and the text below it.

    Ignores lists and nested values. Returns a text that merely begins with a thematic break as it is.
    """
    fence = text[:3]
    lines = text.split("\n", _FRONT_MATTER_LINES)
    if fence not in ("---", "+++") or lines[0] != fence:
        return {}, text
    values: dict[str, str] = {}
    for number, line in enumerate(lines[1:_FRONT_MATTER_LINES], start=1):
        if line == fence or (fence == "---" and line == "..."):
            return values, "\n".join(lines[number + 1 :]).strip("\n")
        match = _FRONT_MATTER_LINE.match(line)
        if match is not None:
            value = match[2].strip()
            if value[:1] not in ("", "[", "{", "|", ">", "&", "*"):
                values[match[1].lower()] = _unquoted(value)
        elif line.strip() and not line.startswith((" ", "\t", "-", "#", "[", "]", "}")):
            break
    return {}, text


def markdown_structure(text: str) -> Structure:
    """Headings, code and tables at the outermost level of `text`."""
    # Only headings need their inline markup parsed; the rest needs only line numbers.
    blocks_only = MarkdownIt("commonmark").enable("table").disable("inline")
    lines = text.split("\n")
    starts = [0, *accumulate(len(line) + 1 for line in lines)]
    headings: list[Heading] = []
    blocks: list[Block] = []
    comments: list[tuple[int, int]] = []
    tokens = blocks_only.parse(text)
    for token, following in pairwise(chain[Token | None](tokens, (None,))):
        if token is None or token.level != 0 or token.map is None:
            continue
        first, last = token.map
        while last > first + 1 and not lines[last - 1].strip():
            last -= 1
        start, end = starts[first], starts[last] - 1
        if token.type == "heading_open" and following is not None:
            title = one_line(_plain(following))
            if title:
                headings.append(Heading(start, end, int(token.tag[1]), title))
        elif token.type in ("fence", "code_block", "table_open"):
            blocks.append(Block(start, end))
        elif token.type == "html_block":
            content = token.content.strip()
            if content.startswith("<!--") and content.find("-->") == len(content) - 3:
                comments.append((first, last))
    return Structure(tuple(headings), tuple(blocks), tuple(comments))


def _plain(inline: Token) -> str:
    """The text of a heading, without markup."""
    parsed = _INLINE.parseInline(inline.content[:2000])
    children = parsed[0].children or [] if parsed else []
    # An attribute list (`{#anchor}`) is not part of the heading's words.
    words = "".join(
        " " if child.type in ("softbreak", "hardbreak") else "" if child.type == "html_inline" else child.content
        for child in children
    )
    return re.sub(r"\s*\{[#.:][^{}]*\}$", "", words)


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1].replace('\\"', '"').replace("''", "'")
    return value.split(" #", 1)[0].strip()


LOADER = MarkdownLoader()
