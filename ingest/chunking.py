"""Splits documents into chunks along the structure of the text. Sizes are in the embedder's tokens."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any

from embedder.tokens import TokenCounter
from ingest.errors import IngestError
from ingest.loaders.document import MetadataValue, ParsedDocument, Section
from text_analysis.sentences import sentence_spans

ALGORITHM = 3
"""Version of the algorithm. Increment it when chunks or embedded texts change, so that indexes are rebuilt."""

_PIECE_CHARS = 8_192
"""Characters per call of the tokenizer, which takes hundreds of megabytes for a whole book."""

_UNREADABLE_CHARS = 24
"""A longer token is a word that the tokenizer does not know. It counts as one token per two characters."""

_CHARS_PER_TOKEN = 32
"""A range with more characters per token has mostly characters that the tokenizer ignores. It is split."""

_LOOK_BACK_CHARS = 16
_INDENTATION_CHARS = 64

_CODE, _PARAGRAPH, _LINE, _SENTENCE, _WORD = 4, 3, 2, 1, 0
"""Boundary before a unit. A higher number is a better place to split."""

_BLANK_LINE = re.compile(r"\n[ \t]*\n+")
_ENDS_LINE = re.compile(r"[.!?:;…。！？|][\"'”’»)\]*_`]*\s*$")
_CONTINUES_LINE = re.compile(r"(?!\d{1,3}[.)]\s)[^\s\-*+•#>|~]")
_FULL_LINE_CHARS = 60
"""A shorter line is not wrapped: its line break is intended."""
_PAGE_LABEL = re.compile(r"Pages? \d+(?:–\d+)?")


@dataclass(frozen=True, slots=True)
class ChunkSettings:
    """Sizes in tokens. The defaults suit MiniLM. Raises IngestError if they contradict each other."""

    window_tokens: int = 256
    """Window of the embedder, which truncates longer texts."""
    reserved_tokens: int = 8
    """Part of the window for special tokens and the embedder's own prefix (`passage: `)."""
    max_tokens: int = 200
    """Maximum size of a chunk, including its overlap. Title and headings use the rest of the window."""
    overlap_tokens: int = 30
    """Maximum size of the overlap: whole sentences repeated from the previous chunk."""
    min_tokens: int = 48
    """A smaller section is joined with its neighbour under the same heading."""

    def __post_init__(self) -> None:
        readable = self.window_tokens - self.reserved_tokens
        if not 8 <= self.max_tokens <= readable:
            raise IngestError(
                f"Chunks of {self.max_tokens} tokens do not fit: between 8 and {readable} do in a window of "
                f"{self.window_tokens} tokens of which {self.reserved_tokens} are reserved."
            )
        if not 0 <= self.overlap_tokens <= self.max_tokens // 2:
            raise IngestError(
                f"An overlap of {self.overlap_tokens} tokens is too much for chunks of {self.max_tokens}: "
                f"at most {self.max_tokens // 2}."
            )


@dataclass(frozen=True, slots=True)
class Span:
    """A chunk as a range of its document's text."""

    start: int
    end: int
    heading_path: Sequence[str]
    """Enclosing headings, outermost first; then the pages, and the header of a continued table, if any."""
    prefix: str
    """Precedes the chunk's text in the embedded text."""


@dataclass(frozen=True, slots=True)
class ChunkedDocument:
    """A document with its chunks. `orjson.dumps` writes it as JSON."""

    id: str
    text: str
    title: str
    url: str | None
    metadata: dict[str, MetadataValue]
    spans: list[Span]

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ChunkedDocument:
        """The document with these fields, as decoded from JSON."""
        return cls(**{**fields, "spans": [Span(**span) for span in fields["spans"]]})


class EmbeddingTexts:
    """Builds the text to embed: title and headings, a blank line, and the chunk. Never exceeds the window."""

    def __init__(self, settings: ChunkSettings, tokens: TokenCounter) -> None:
        self._readable = settings.window_tokens - settings.reserved_tokens
        self._tokens = tokens
        self._prefixes = lru_cache(maxsize=256)(self._candidates)

    def prefix(self, title: str, heading_path: Sequence[str], text: str) -> str | None:
        """The longest prefix of title and headings that fits before `text`; None if the text alone does not fit."""
        for prefix, tokens in self._prefixes(title, tuple(heading_path)):
            # Count prefix and text together: the sum of their tokens may differ slightly.
            if tokens < self._readable and self._tokens.count(prefix + text) <= self._readable:
                return prefix
        return None

    def _candidates(self, title: str, heading_path: tuple[str, ...]) -> list[tuple[str, int]]:
        """Prefixes and their number of tokens, longest first; the last one is empty."""
        headings = [heading for heading in heading_path if _PAGE_LABEL.fullmatch(heading) is None]
        if headings and headings[0] == title:
            del headings[0]
        words = title.split()
        start_of_title = " ".join(words[:8]) if len(words) > 8 else title
        prefixes: dict[str, None] = {}
        for first, *others in ((title, *headings), (title, *headings[-1:]), (title,), (start_of_title,), ("",)):
            lines = "\n".join(line for line in (first, " > ".join(others)) if line)
            prefixes[f"{lines}\n\n" if lines else ""] = None
        return [(prefix, self._tokens.count(prefix) if prefix else 0) for prefix in prefixes]


class Chunker:
    """Splits documents into chunks of at most `max_tokens`, in linear time and memory.

    Every character except white space is in a chunk, and chunks have no white space at their ends. Documents are split
    at sections, then at paragraphs, lines, sentences and words. Code and tables stay whole if they fit.
    """

    def __init__(self, settings: ChunkSettings, tokens: TokenCounter) -> None:
        self._settings = settings
        self._tokens = tokens
        self._texts = EmbeddingTexts(settings, tokens)

    def spans(self, document: ParsedDocument) -> Iterator[Span]:
        """The chunks of a document, in order. Within a section they overlap by whole sentences."""
        cut = _DocumentCutter(document, self._settings, _TokenMap(document.text, self._tokens))
        covered = 0
        for start, end, sections in cut.ranges():
            for span in self._fitted(document, start, end, sections):
                # Drop a chunk that consists of overlap.
                if span.end > covered:
                    covered = span.end
                    yield span

    def _fitted(self, document: ParsedDocument, start: int, end: int, sections: Sequence[Section]) -> Iterator[Span]:
        """The range as one span; split if its text has more tokens than the count by offsets."""
        trimmed = _trim(document.text, start, end)
        if trimmed is None:
            return
        start, end = trimmed
        text = document.text[start:end]
        path = _heading_path(document, start, end, sections)
        too_long = len(text) > self._settings.max_tokens * _CHARS_PER_TOKEN
        prefix = None if too_long else self._texts.prefix(document.title, path, text)
        if prefix is None and len(text) > 1:
            middle = _middle(document.text, start, end)
            yield from self._fitted(document, start, middle, sections)
            yield from self._fitted(document, middle, end, sections)
        else:
            yield Span(start, end, path, prefix or "")


@dataclass(slots=True)
class _Unit:
    """A range that is not split. Units follow each other without gaps."""

    start: int
    end: int
    tokens: int
    boundary: int
    """One of `_CODE` … `_WORD`."""
    heading: bool = False
    """Whether it is only a heading, which must stay with the next unit."""


class _TokenMap:
    """The offsets of the tokens of a text."""

    def __init__(self, text: str, tokens: TokenCounter) -> None:
        self._starts = array("L")
        begin = 0
        while begin < len(text):
            end = _piece_end(text, begin)
            for start, stop in tokens.offsets(text[begin:end]):
                self._starts.append(begin + start)
                if stop - start > _UNREADABLE_CHARS:
                    self._starts.extend(range(begin + start + 2, begin + stop, 2))
            begin = end

    def count(self, start: int, end: int) -> int:
        """Number of tokens that begin in the range."""
        return bisect_left(self._starts, end) - bisect_left(self._starts, start)

    def after(self, start: int, tokens: int, end: int) -> int:
        """Offset after `tokens` tokens from `start`; at most `end`."""
        place = bisect_left(self._starts, start) + tokens
        return min(self._starts[place], end) if place < len(self._starts) else end

    def before(self, end: int, tokens: int, start: int) -> int:
        """Offset of the last `tokens` tokens before `end`; at least `start`."""
        place = bisect_left(self._starts, end) - tokens
        return max(self._starts[place], start) if place >= 0 else start


class _DocumentCutter:
    """Splits one document."""

    def __init__(self, document: ParsedDocument, settings: ChunkSettings, tokens: _TokenMap) -> None:
        self._document = document
        self._text = document.text
        self._settings = settings
        self._tokens = tokens
        self._block = 0
        self._block_starts = [block.start for block in document.blocks]

    def ranges(self) -> Iterator[tuple[int, int, list[Section]]]:
        """Untrimmed ranges of at most `max_tokens`, with their sections."""
        for sections in self._groups():
            units = [unit for section in sections for unit in self._section_units(section)]
            for start, end in self._pack(units, sections):
                inside = [section for section in sections if section.start < end and start < section.end]
                yield start, end, inside

    def _groups(self) -> Iterator[list[Section]]:
        """Groups of adjacent sections: headings with the text below them, and tiny siblings."""
        group: list[Section] = []
        size = 0
        only_headings = False
        for section in self._document.sections():
            tokens = self._tokens.count(section.start, section.end)
            if group:
                below = section.path[: len(group[-1].path)] == group[-1].path
                related = not group[-1].path or section.path[:1] == group[-1].path[:1]
                tiny = size < self._settings.min_tokens or tokens < self._settings.min_tokens
                if (only_headings and below) or (related and tiny and size + tokens <= self._settings.max_tokens):
                    group.append(section)
                    size += tokens
                    only_headings = only_headings and self._is_heading_only(section)
                    continue
                yield group
            group, size, only_headings = [section], tokens, self._is_heading_only(section)
        if group:
            yield group

    def _is_heading_only(self, section: Section) -> bool:
        return not self._text[section.body : section.end].strip()

    def _section_units(self, section: Section) -> Iterator[_Unit]:
        begin = section.start
        if section.body > section.start:
            # The heading, with the blank lines below it.
            begin = section.body
            while begin < section.end and self._text[begin].isspace():
                begin += 1
            begin = max(self._text.rfind("\n", section.body, begin) + 1, section.body)
            if self._tokens.count(section.start, begin) <= self._settings.max_tokens // 2:
                yield self._unit(section.start, begin, _PARAGRAPH, heading=True)
            else:
                begin = section.start
        blocks = self._document.blocks
        while self._block < len(blocks) and blocks[self._block].end <= begin:
            self._block += 1
        while self._block < len(blocks) and blocks[self._block].start < section.end:
            block = blocks[self._block]
            self._block += 1
            start, end = max(block.start, begin), min(block.end, section.end)
            yield from self._paragraphs(begin, start)
            if self._tokens.count(start, end) <= self._settings.max_tokens:
                yield self._unit(start, end, _CODE)
            else:
                yield from self._split(start, end, _CODE)
            begin = end
        yield from self._paragraphs(begin, section.end)

    def _paragraphs(self, start: int, end: int) -> Iterator[_Unit]:
        cuts = (match.end() for match in _BLANK_LINE.finditer(self._text, start, end))
        for first, last in pairwise(chain((start,), cuts, (end,))):
            if last > first:
                yield from self._split(first, last, _PARAGRAPH)

    def _split(self, start: int, end: int, boundary: int) -> Iterator[_Unit]:
        """The range as one unit if it fits together with an overlap, else split at finer boundaries."""
        if self._tokens.count(start, end) <= self._body_tokens:
            yield self._unit(start, end, boundary)
            return
        if boundary > _LINE:
            finer, cuts = _LINE, _lines(self._text, start, end, every=boundary == _CODE)
        elif boundary > _SENTENCE:
            finer, cuts = _SENTENCE, _sentences(self._text, start, end)
        else:
            finer, cuts = _WORD, self._words(start, end)
        for first, last in pairwise(chain((start,), cuts, (end,))):
            if last > first:
                units = [self._unit(first, last, _WORD)] if finer == _WORD else list(self._split(first, last, finer))
                units[0].boundary = boundary
                yield from units
                boundary = finer

    def _words(self, start: int, end: int) -> Iterator[int]:
        """Offsets to split at: white space, as late as possible, or inside a word that is too long."""
        while self._tokens.count(start, end) > self._body_tokens:
            latest = self._tokens.after(start, self._body_tokens, end)
            cut = latest
            while cut > start and not self._text[cut - 1].isspace():
                cut -= 1
            # Avoid a tiny chunk before a long word.
            if self._tokens.count(start, cut) < self._body_tokens // 2:
                cut = latest
            yield cut
            start = cut

    def _pack(self, units: Sequence[_Unit], sections: Sequence[Section]) -> Iterator[tuple[int, int]]:
        """Distributes units evenly over chunks, which end at good boundaries."""
        maximum = self._settings.max_tokens
        if not units:
            return
        first = 0
        begin = units[0].start
        size = 0
        goal = self._goal(begin, begin, units[-1].end)
        for place, unit in enumerate(units):
            if place > first and self._closes(size, unit, goal):
                last = place
                while last > first + 1 and units[last - 1].heading:
                    last -= 1
                if not units[last - 1].heading:
                    end = units[last].start
                    yield begin, end
                    begin = self._overlap(begin, units[last], sections)
                    first = last
                    size = self._tokens.count(begin, unit.start)
                    goal = self._goal(begin, end, units[-1].end)
            size += unit.tokens
            if size > maximum:
                # With the overlap or heading, a block is too large that fits alone.
                if units[first].start < unit.start and size - unit.tokens > 0 and first < place:
                    yield begin, unit.start
                begin, first, size = unit.start, place, unit.tokens
                goal = self._goal(begin, begin, units[-1].end)
        yield begin, units[-1].end

    def _goal(self, begin: int, fresh: int, end: int) -> float:
        """Target size of the chunk from `begin`, whose new text begins at `fresh`.

        Distributes the remaining text equally, so that the last chunk is not tiny.
        """
        overlap = self._tokens.count(begin, fresh)
        left = self._tokens.count(fresh, end)
        shares = max(-(-left // max(self._settings.max_tokens - overlap, 1)), 1)
        return overlap + left / shares

    def _closes(self, size: int, following: _Unit, goal: float) -> bool:
        if size + following.tokens > self._settings.max_tokens:
            return True
        if following.boundary >= _PARAGRAPH:
            return size >= 0.8 * goal and size + following.tokens > 1.1 * goal
        return following.boundary >= _SENTENCE and size + following.tokens / 2 >= goal

    def _overlap(self, begin: int, following: _Unit, sections: Sequence[Section]) -> int:
        """Start of the next chunk: whole sentences before `following`, in the same section and after any code block."""
        end = following.start
        if following.heading or following.boundary in (_CODE, _WORD) or not self._settings.overlap_tokens:
            return end
        room = min(self._settings.overlap_tokens, self._settings.max_tokens - following.tokens)
        if room <= 0:
            return end
        floor = max([begin + 1, *(section.body for section in sections if section.start < end)])
        blocks_before = bisect_left(self._block_starts, end)
        if blocks_before:
            floor = max(floor, self._document.blocks[blocks_before - 1].end)
        earliest = self._tokens.before(end, room, floor)
        # The end of the previous sentence is before `earliest`.
        look = max(earliest - _LOOK_BACK_CHARS, begin)
        starts = chain(_lines(self._text, look, end), _sentences(self._text, look, end))
        return min((start for start in starts if earliest <= start < end), default=end)

    @property
    def _body_tokens(self) -> int:
        """Size of a chunk without its overlap."""
        return self._settings.max_tokens - self._settings.overlap_tokens

    def _unit(self, start: int, end: int, boundary: int, *, heading: bool = False) -> _Unit:
        return _Unit(start, end, self._tokens.count(start, end), boundary, heading)


def _lines(text: str, start: int, end: int, *, every: bool = False) -> Iterator[int]:
    """Start of each line in the range except the first. `every`: include continuations of wrapped lines."""
    place = text.find("\n", start, end)
    while place != -1:
        if place + 1 < end and (every or not _is_wrapped(text, place)):
            yield place + 1
        place = text.find("\n", place + 1, end)


def _is_wrapped(text: str, newline: int) -> bool:
    """Whether a line break is inside a sentence because the line was full."""
    if _ENDS_LINE.search(text, max(newline - 8, 0), newline) is not None:
        return False
    if text.rfind("\n", max(newline - _FULL_LINE_CHARS, 0), newline) != -1:
        return False
    return _CONTINUES_LINE.match(text, newline + 1) is not None


def _sentences(text: str, start: int, end: int) -> Iterator[int]:
    """Start of each sentence in the range except the first."""
    return (start + begin for begin, _ in sentence_spans(text[start:end])[1:])


def _piece_end(text: str, begin: int) -> int:
    end = begin + _PIECE_CHARS
    if end >= len(text):
        return len(text)
    for mark in ("\n", " "):
        place = text.rfind(mark, begin + _PIECE_CHARS // 2, end)
        if place != -1:
            return place + 1
    return end


def _trim(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The range without outer white space, except the indentation of its first line; None if it is blank."""
    while end > start and text[end - 1].isspace():
        end -= 1
    first = start
    while first < end and text[first].isspace():
        first += 1
    if first == end:
        return None
    line = text.rfind("\n", start, first) + 1
    if (line > start or start == 0 or text[start - 1] == "\n") and first - max(line, start) <= _INDENTATION_CHARS:
        first = max(line, start)
    return first, end


def _middle(text: str, start: int, end: int) -> int:
    """Offset near the middle to split at, after white space if possible."""
    middle, reach = (start + end) // 2, (end - start) // 4
    places = chain(range(middle, middle + reach), range(middle, middle - reach, -1))
    return next((place + 1 for place in places if text[place].isspace()), max(middle, start + 1))


def _heading_path(document: ParsedDocument, start: int, end: int, sections: Sequence[Section]) -> tuple[str, ...]:
    """The headings that enclose all text of the range, then its pages, then the header of the table that it continues.

    Sections without text are ignored if others have text.
    """
    inside = [section for section in sections if section.start < end and start < section.end]
    with_text = [s for s in inside if document.text[max(s.body, start) : min(s.end, end)].strip()]
    paths = [section.path for section in with_text or inside[-1:]]
    shared: list[str] = []
    for titles in zip(*paths, strict=False):
        if len(set(titles)) > 1:
            break
        shared.append(titles[0])
    if document.page_starts:
        first = bisect_left(document.page_starts, start + 1)
        last = bisect_left(document.page_starts, end)
        shared.append(f"Page {first}" if first == last else f"Pages {first}–{last}")
    before = bisect_left(document.blocks, start, key=lambda block: block.start)
    if before and document.blocks[before - 1].header and document.blocks[before - 1].end > start:
        shared.append(document.blocks[before - 1].header)
    return tuple(shared)
