"""Markdown: the source without front matter, comments, styles, scripts and embedded images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
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
    table_header,
    web_address,
)
from ingest.loaders.file import SourceFile
from ingest.loaders.front_matter import split_front_matter

_INLINE = MarkdownIt("commonmark")
_URL_KEYS = ("canonical_url", "canonical", "url", "permalink")
_NOT_METADATA = frozenset(("title", "date", *_URL_KEYS))
_INVISIBLE = re.compile(r"`+|<!--|<(style|script)\b|data:[a-z]+/[a-z0-9.+-]+[;,]", re.IGNORECASE)
_CLOSINGS = {
    "<!--": re.compile("-->"),
    "style": re.compile(r"</style[^>]{0,99}>", re.IGNORECASE),
    "script": re.compile(r"</script[^>]{0,99}>", re.IGNORECASE),
    "data": re.compile(r"""[\s)"'>\]]|$"""),
}


@dataclass(frozen=True, slots=True)
class Structure:
    """Headings and blocks of a Markdown text, as offsets."""

    headings: tuple[Heading, ...]
    blocks: tuple[Block, ...]
    code: tuple[tuple[int, int], ...]
    """Start and end of each code block, nested ones included."""


class MarkdownLoader:
    """Markdown: the source text."""

    suffixes = (".markdown", ".md")
    binary = False

    def sniff(self, head: bytes) -> bool:
        """Always False: Markdown looks like plain text, which is read the same way."""
        return False

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """One document. Title: from the front matter, else the first heading of level 1, else the file's name."""
        yield markdown_document(file, (yield from file.text(limits)), limits)


def markdown_document(file: SourceFile, raw: str, limits: Limits, *, mdx: bool = False) -> ParsedDocument:
    """The document of a Markdown text; `mdx` as in `markdown_structure`. Raises SkippedFileError if it has no text."""
    check_length(len(raw), limits)
    values, text = split_front_matter(normalise(raw, collapse_blank_lines=False))
    structure = markdown_structure(text, mdx=mdx)
    if _INVISIBLE.search(text):
        text = normalise(_without_invisible(text, structure), collapse_blank_lines=False)
        structure = markdown_structure(text, mdx=mdx)
    if not text.strip():
        raise SkippedFileError("holds no text")
    first_heading = next((heading.title for heading in structure.headings if heading.level == 1), "")
    urls = (url for key in _URL_KEYS if (url := str(values.get(key, ""))).startswith(("http://", "https://")))
    extra = {name: value for name, value in values.items() if name not in _NOT_METADATA}
    return ParsedDocument(
        source=file.source,
        key="",
        text=text,
        title=one_line(str(values.get("title", ""))) or first_heading or file.stem,
        url=web_address(next(urls, None)),
        metadata=as_metadata(extra) | date_metadata(str(values.get("date", ""))),
        headings=structure.headings,
        blocks=structure.blocks,
    )


def markdown_structure(text: str, *, mdx: bool = False) -> Structure:
    """Headings, code and tables at the outermost level of `text`. `mdx`: without indented code and HTML blocks."""
    # Line numbers are enough, except for headings, whose inline markup is parsed separately.
    blocks_only = MarkdownIt("commonmark").enable("table").disable("inline")
    if mdx:
        blocks_only.disable(["code", "html_block"])
    lines = text.split("\n")
    starts = [0, *accumulate(len(line) + 1 for line in lines)]
    headings: list[Heading] = []
    blocks: list[Block] = []
    code: list[tuple[int, int]] = []
    tokens = blocks_only.parse(text)
    for token, following in pairwise(chain[Token | None](tokens, (None,))):
        if token is None or token.map is None:
            continue
        first, last = token.map
        while last > first + 1 and not lines[last - 1].strip():
            last -= 1
        start, end = starts[first], starts[last] - 1
        if token.type in ("fence", "code_block"):
            code.append((start, end))
        if token.level != 0:
            continue
        if token.type == "heading_open" and following is not None:
            title = one_line(_plain(following))
            if title:
                headings.append(Heading(start, end, int(token.tag[1]), title))
        elif token.type in ("fence", "code_block"):
            blocks.append(Block(start, end))
        elif token.type == "table_open":
            blocks.append(Block(start, end, table_header(lines[first])))
    return Structure(tuple(headings), tuple(blocks), tuple(code))


def _without_invisible(text: str, structure: Structure) -> str:
    """The text without comments, styles, scripts and data URLs, except in code. Takes linear time.

    A line that contains nothing else is removed.
    """
    pieces: list[str] = []
    kept = place = 0
    code = [*structure.code, (len(text), len(text))]
    block = 0
    spans = _code_spans(text)
    unclosed: set[str] = set()
    while (match := _INVISIBLE.search(text, place)) is not None:
        start, place = match.span()
        while code[block][1] < start:
            block += 1
        if code[block][0] <= start:
            place = code[block][1]
        elif match[0][0] == "`":
            place = spans.get(start, place)
        else:
            mark = (match[1] or match[0][:4]).lower()
            closing = None if mark in unclosed else _CLOSINGS[mark].search(text, place)
            if closing is None:
                unclosed.add(mark)
                continue
            place = closing.start() if mark == "data" else closing.end()
            line = max(text.rfind("\n", kept, start) + 1, kept)
            if not text[line:start].strip() and text[place : place + 1] in ("", "\n"):
                start, place = line, min(place + 1, len(text))
            pieces.append(text[kept:start])
            kept = place
    return "".join((*pieces, text[kept:]))


def _code_spans(text: str) -> dict[int, int]:
    """Start → end of each code span between backticks, within one paragraph."""
    spans: dict[int, int] = {}
    following: dict[int, int] = {}
    for run in reversed(list(re.finditer(r"`+|\n\n", text))):
        if run[0] == "\n\n":
            following.clear()
            continue
        length = len(run[0])
        if length in following:
            spans[run.start()] = following[length]
        following[length] = run.end()
    return spans


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


LOADER = MarkdownLoader()
