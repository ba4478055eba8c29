"""Text of a PDF from the lines of its pages: joins words, sentences and paragraphs, and removes running heads."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ingest.loaders.document import Block, Heading, normalise, one_line
from ingest.loaders.pdf_layout import Line

_HYPHENATED = re.compile(r"(?<![\w-])([^\W\d_]+(?:-[^\W\d_]+)*)[-\u2010]$")
_REST_OF_WORD = re.compile(r"[^\W\d_]+")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_STARTS_ITEM = re.compile(r"\s*(?:[-•·▪◦‣*–—]\s|\(?\d{1,3}[.)]\s|\(?[a-zA-Z][.)]\s)")
_ENDS_SENTENCE = re.compile(r"[.!?:;…。！？]['\"”’)\]]*$")
_OPEN_HYPHEN = re.compile(r"\w[-\u2010]$")
_UNSPACED = re.compile("[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uff60]")
"""Chinese and Japanese, which have no spaces between words."""
_PAGE_NUMBER = re.compile(
    r"\W*(?:(?:page|p|seite|s|página|pagina|pág|pag|sida|side|strona|str|sayfa|стр|страница|第)\b\W*)?"
    r"(\d{1,5})\W*(?:(?:of|von|de|di|av|van|z|из|sur|/|\|)\W*\d{1,5})?\W*(?:页|頁|ページ)?\W*",
    re.IGNORECASE,
)
_MIN_WRAPPED_CHARS = 25
"""A shorter line does not wrap, even if it is the longest of its page, as in addresses and invoices."""
_EDGE_LINES = 2
"""Number of lines at the top and bottom of a page that may be running heads or page numbers."""
_MAX_RUNNING_CHARS = 120
_HEADING_SIZE = 1.15
"""Minimum font size of a heading, relative to the body."""
_MAX_HEADING_CHARS = 150
_MAX_LEVELS = 4


@dataclass(slots=True)
class PagesText:
    """The text of all pages."""

    text: str
    page_starts: tuple[int, ...]
    """Offset of each page; a page without text has the offset of the next one."""
    headings: tuple[Heading, ...]
    """Lines in larger letters than the body."""
    blocks: tuple[Block, ...]
    """Tables."""
    removed: list[str]
    """Removed running heads, and `page numbers`."""


@dataclass(slots=True)
class _Paragraph:
    text: str
    page: int
    last: Line
    gap: bool = False
    heading: bool = False
    table: bool = False
    pages: list[tuple[int, int]] = field(default_factory=list)
    """Pages that begin inside it, with their offsets in its text."""


def join_pages(pages: Sequence[Sequence[Line]]) -> PagesText:
    """The text of all pages, without running heads and page numbers. Joins paragraphs and hyphenated words."""
    running, removed = _running_lines(pages)
    bodies = [
        [line for number, line in enumerate(page) if (page_number, number) not in running]
        for page_number, page in enumerate(pages)
    ]
    if not any(bodies):
        bodies, removed = [list(page) for page in pages], []
    body_size = _body_size(bodies)
    paragraphs = _paragraphs(bodies, _vocabulary(bodies), body_size)
    return _assemble(paragraphs, len(pages), removed)


def _running_lines(pages: Sequence[Sequence[Line]]) -> tuple[set[tuple[int, int]], list[str]]:
    """The running heads and page numbers, as page and line numbers, and their texts.

    A line at the top or bottom of a page is one if it is only a page number, or if it is verbatim on most pages, or on
    most left or right pages. Lines that differ only in digits are content, as in invoices and forms.
    """
    # The size distinguishes a title from a running head with the same words.
    edges = {
        (page_number, number): [(cell, round(line.size)) for cell in line.cells or (line.text,)]
        for page_number, page in enumerate(pages)
        for number, line in enumerate(page)
        if (number < _EDGE_LINES or number >= len(page) - _EDGE_LINES) and not line.table
    }
    filled = [sum(1 for number, page in enumerate(pages) if page and number % 2 == parity) for parity in (0, 1)]
    seen: Counter[tuple[_Cell, int]] = Counter()
    counted: Counter[int] = Counter()
    for page_number, cell in {(place[0], cell) for place, cells in edges.items() for cell in cells}:
        seen[cell, page_number % 2] += 1
        if (number := _page_number(cell)) is not None:
            counted[number - page_number] += 1
    offset, times = max(counted.items(), key=lambda item: item[1], default=(0, 0))
    counts = times >= 2 and times * 10 >= 6 * sum(filled)

    def is_running(cell: _Cell, page_number: int) -> bool:
        number = _page_number(cell)
        if number is not None:
            return counts and number - page_number == offset
        parity = page_number % 2
        here, there = seen[cell, parity], seen[cell, 1 - parity]
        everywhere = sum(filled) >= 4 and (here + there) * 10 >= 6 * sum(filled)
        on_its_side = filled[parity] >= 3 and here * 10 >= 8 * filled[parity]
        return len(cell[0]) <= _MAX_RUNNING_CHARS and (everywhere or on_its_side)

    found = {place for place, cells in edges.items() if all(is_running(cell, place[0]) for cell in cells)}
    texts = {cell[0]: None for place in sorted(found) for cell in edges[place] if _page_number(cell) is None}
    numbers = any(_page_number(cell) is not None for place in found for cell in edges[place])
    return found, [*texts, *(["page numbers"] if numbers else [])]


_Cell = tuple[str, int]
"""Text and its size."""


def _page_number(cell: _Cell) -> int | None:
    match = _PAGE_NUMBER.fullmatch(cell[0].strip()) if len(cell[0]) <= 40 else None
    return int(match[1]) if match is not None else None


def _vocabulary(pages: Iterable[Sequence[Line]]) -> Counter[str]:
    """Frequencies of the words, without words hyphenated at a line end."""
    words: Counter[str] = Counter()
    for page in pages:
        for line in page:
            words.update(word.lower() for word in _WORD.findall(_HYPHENATED.sub("", line.text)))
    return words


def _body_size(pages: Iterable[Sequence[Line]]) -> float:
    sizes: Counter[float] = Counter()
    for page in pages:
        for line in page:
            sizes[round(line.size, 1)] += len(line.text)
    return max(sizes, key=lambda size: sizes[size], default=0.0)


def _paragraphs(pages: Sequence[Sequence[Line]], vocabulary: Counter[str], body_size: float) -> list[_Paragraph]:
    paragraphs: list[_Paragraph] = []
    for page_number, page in enumerate(pages):
        for number, line in enumerate(page):
            larger = body_size * _HEADING_SIZE < line.size and not line.table
            heading = larger and len(line.text) <= _MAX_HEADING_CHARS and any(map(str.isalpha, line.text))
            previous = paragraphs[-1] if paragraphs else None
            first = number == 0
            if previous is not None and _continues(previous, line, heading=heading, first=first):
                start = _append(previous, line.text, vocabulary)
                if first:
                    previous.pages.append((page_number, start))
                previous.last = line
            else:
                gap = first or line.gap or (previous is not None and previous.table and not line.table)
                paragraphs.append(_Paragraph(line.text, page_number, line, gap, heading, line.table))
    return paragraphs


def _continues(previous: _Paragraph, line: Line, *, heading: bool, first: bool) -> bool:
    """Whether a line continues the paragraph before it.

    It does if the previous line is full and does not end a sentence, or if it begins in lower case and the previous
    line is at least half full. On a new page it must begin in lower case.
    """
    before = previous.last
    if previous.table or line.table or before.cells or line.cells or heading != previous.heading:
        return False
    if line.gap and not first:
        return False
    if heading:
        return not first and abs(before.size - line.size) < 0.5 and len(previous.text) <= _MAX_HEADING_CHARS
    lower = line.text[:1].islower()
    if first:
        return lower and _ENDS_SENTENCE.search(previous.text[-8:]) is None
    if _ENDS_SENTENCE.search(before.text[-8:]) or _STARTS_ITEM.match(line.text):
        return False
    wrapped = len(before.text) >= _MIN_WRAPPED_CHARS or _OPEN_HYPHEN.search(before.text[-2:]) is not None
    return (wrapped and before.fill >= 0.75) or (lower and before.fill >= 0.5)


def _append(paragraph: _Paragraph, text: str, vocabulary: Counter[str]) -> int:
    """Appends text to a paragraph. Returns the offset of the text in it."""
    before = _HYPHENATED.search(paragraph.text[-100:])
    after = _REST_OF_WORD.match(text)
    if before is not None and after is not None:
        if not _keeps_hyphen(before[1], after[0], vocabulary):
            paragraph.text = paragraph.text[:-1]
    elif not (
        _OPEN_HYPHEN.search(paragraph.text[-2:]) or (_UNSPACED.match(paragraph.text[-1]) and _UNSPACED.match(text))
    ):
        paragraph.text += " "
    start = len(paragraph.text)
    paragraph.text += text
    return start


def _keeps_hyphen(before: str, after: str, vocabulary: Counter[str]) -> bool:
    """Whether the hyphen at the end of a line belongs to the word.

    It does if the document has the word more often with the hyphen than without. If it has neither, it does if the word
    has another hyphen, is in capitals, or continues with a capital letter.
    """
    # In a compound, only the last part can be hyphenated.
    last = before.rsplit("-", 1)[-1]
    with_hyphen = vocabulary[f"{before}-{after}".lower()]
    without = vocabulary[f"{last}{after}".lower()]
    if with_hyphen or without:
        return with_hyphen > without
    return "-" in before or not after[0].islower() or before.isupper()


def _assemble(paragraphs: Sequence[_Paragraph], pages: int, removed: list[str]) -> PagesText:
    parts: list[str] = []
    length = 0
    starts: dict[int, int] = {}
    headings: list[tuple[int, int, float]] = []
    blocks: list[Block] = []
    for paragraph, separator in _separated(paragraphs):
        start = length + len(separator)
        parts += (separator, paragraph.text)
        length = start + len(paragraph.text)
        starts.setdefault(paragraph.page, start)
        for page, offset in paragraph.pages:
            starts.setdefault(page, start + offset)
        if paragraph.heading:
            headings.append((start, length, round(paragraph.last.size)))
        if paragraph.table:
            if blocks and blocks[-1].end + 1 == start:
                blocks[-1] = Block(blocks[-1].start, length)
            else:
                blocks.append(Block(start, length))
    text = "".join(parts)
    page_starts = []
    following = length
    for page in reversed(range(pages)):
        following = starts.get(page, following)
        page_starts.append(following)
    sizes = sorted({size for _, _, size in headings}, reverse=True)
    return PagesText(
        text,
        tuple(reversed(page_starts)),
        tuple(
            Heading(start, end, min(sizes.index(size) + 1, _MAX_LEVELS), one_line(text[start:end]))
            for start, end, size in headings
        ),
        tuple(blocks),
        removed,
    )


def _separated(paragraphs: Sequence[_Paragraph]) -> Iterator[tuple[_Paragraph, str]]:
    """The normalised paragraphs with text, each with the separator before it."""
    begun = False
    for paragraph in paragraphs:
        clean = normalise(paragraph.text)
        if clean != paragraph.text:
            paragraph.pages = [
                (page, len(normalise(f"{paragraph.text[:offset]}|")) - 1) for page, offset in paragraph.pages
            ]
            paragraph.text = clean
        if clean.strip():
            yield paragraph, ("\n\n" if paragraph.gap else "\n") if begun else ""
            begun = True
