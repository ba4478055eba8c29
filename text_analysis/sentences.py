"""Splits text into sentences, list items, table rows and code blocks.

Libraries were tried, but they change the text, so that spans in the original are uncertain, or take longer for a
passage than checking a whole answer may take.
"""

from __future__ import annotations

import re

from text_analysis.scripts import CLAUSE_SPACED, SENTENCE_END
from text_analysis.word_lists import word_set

_MAX_CHARS = 1200
"""Longer spans, such as a paragraph without a full stop, are cut at white space."""

REFERENCE = r"\[+\d{1,3}(?:[ \t]*[,;–-][ \t]*\d{1,3})*\]+"
"""Pattern of reference numbers in brackets: `[2]`, `[1, 3]`, `[1-3]`, `[[2]]`."""

BULLET = r"[-*+•‣◦·–>][ \t]+"
"""Pattern of the mark that begins a list item or a quotation."""
NUMBERED = r"\(?\d{1,3}[.)][ \t]+"
"""Pattern of the number that begins a list item."""
HEADING = r"#{1,6}[ \t]+"

_BREAK = re.compile(rf"(?P<wide>[{SENTENCE_END}]+)|(?P<stop>[.!?…]+)|(?P<newline>\n)")
_CLAUSE_END = rf"(?<=[{CLAUSE_SPACED}\d”\")]) +(?![ฯๆຯໆ])(?=[{CLAUSE_SPACED}])"
"""A space between clauses, except before a mark of abbreviation or repetition, which belongs to the preceding word."""
_BREAK_OR_CLAUSE = re.compile(rf"{_BREAK.pattern}|(?P<clause>{_CLAUSE_END})")
_CLAUSE_SPACED = re.compile(f"[{CLAUSE_SPACED}]")
_CLAUSE_CHARS = 20
"""Minimum length of a Thai or Lao clause that a space ends: names and numbers are also surrounded by spaces.

Of the answers of XQuAD in Thai, 89 % stay in one clause, whose mean length is 49 characters."""
_AFTER = re.compile(rf"[\"'”’»)\]）」』】*_`]*(?:[ \t]*{REFERENCE})*")
"""Closing quotes, brackets and reference numbers after a full stop belong to its sentence."""

_FENCE = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1[^\n]*$\n?|\Z)", re.MULTILINE | re.DOTALL)
_CLOSING_FENCE = re.compile(r"((?:(?![ \t]*(?:```|~~~))[^\n]*\n)*[ \t]*(?:```|~~~)[ \t]*)(?:\n[ \t]*\n|\n?\Z)")
"""The rest of a code block that began before the text: its fence has no language and is followed by a blank line."""
_ITEM = re.compile(rf"[ \t]*(?:{BULLET}|{NUMBERED}|{HEADING}|\||>)")
"""Start of a line that begins a new span: list item, heading, table row, quotation."""
_OWN_LINE = re.compile(rf"[ \t]*(?:{HEADING}|\|)")
"""Start of a line that is a complete span: heading, table row."""
_SPACE = re.compile(r"\s*")
_WORD_BEFORE = re.compile(r"[^\s(\[\"'“‘«/–—-]*\Z")
_WRAPPED_FROM = 50
"""A line shorter than this that ends without punctuation ends its sentence. A longer line may be wrapped."""

_PROSE_END = re.compile(r'(?<=[.!?…])["”’)\]]*\s+(?=["“‘(\[]*[^\W_a-z])|\n\s*\n|(?<=[' + SENTENCE_END + "])")

# Abbreviations and words of English, German, French, Spanish, Italian and Portuguese.
_ALWAYS = word_set(
    "mr mrs ms mx dr prof st messrs mme mlle sr sra srta dott sig hr fr gen col capt cpt lt sgt gov sen rev hon "
    "bzw vgl ggf evtl inkl exkl bspw sog vs cf ca approx resp"
)
"""Abbreviations that end no sentence."""
_BEFORE_NUMBER = word_set(
    "no nos nr fig figs abb eq vol bd p pp pág pag s ch chap sec art abs kap tab ver "
    "jan feb mar mär apr jun jul aug sep sept oct okt nov dec dez"
)
"""Abbreviations that end no sentence if a number follows."""
_MAY_END = frozenset(("a.m", "p.m"))
"""Abbreviations with inner stops that end a sentence before a capital letter. Others, such as U.S., do not."""
_BEFORE_ORDINAL = word_set("am der den dem des die das vom zum im bis ab seit")
"""Words before a German ordinal, whose stop ends no sentence."""


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of each sentence, in order. The spans cover the whole text.

    White space belongs to the preceding sentence.
    """
    if not text:
        return []
    fences: list[tuple[int, int]] = []
    if "```" in text or "~~~" in text:
        if closing := _CLOSING_FENCE.match(text):
            fences.append(closing.span(1))
        fences += [match.span() for match in _FENCE.finditer(text, fences[0][1] if fences else 0)]
    ends: list[int] = []
    begin = 0
    for start, end in fences:
        if start > begin:
            _breaks(text, begin, start, ends)
            ends.append(start)
        ends.append(_SPACE.match(text, end).end())  # type: ignore[union-attr]
        begin = ends[-1]
    if begin < len(text):
        _breaks(text, begin, len(text), ends)
        ends.append(len(text))
    spans: list[tuple[int, int]] = []
    begin = 0
    for end in ends:
        if end <= begin:
            continue
        while end - begin > _MAX_CHARS:
            cut = _cut(text, begin, begin + _MAX_CHARS)
            spans.append((begin, cut))
            begin = cut
        spans.append((begin, end))
        begin = end
    if len(spans) > 1 and not text[: spans[0][1]].strip():
        spans[:2] = [(0, spans[1][1])]
    return spans


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without white space at its ends; an empty span if it has only white space."""
    inner = text[start:end]
    stripped = inner.lstrip()
    start += len(inner) - len(stripped)
    return start, start + len(stripped.rstrip())


def starts_line(sentence: str) -> bool:
    """Whether a sentence is a list item, a heading, a table row, a quotation or a code block."""
    return _ITEM.match(sentence) is not None or _FENCE.match(sentence) is not None


def prose_sentences(text: str) -> list[str]:
    """The sentences of plain prose. Faster and coarser than `sentence_spans`: ignores layout and abbreviations."""
    return [sentence for sentence in _PROSE_END.split(text) if sentence and not sentence.isspace()]


def _breaks(text: str, begin: int, limit: int, ends: list[int]) -> None:
    """Append the ends of sentences inside `text[begin:limit]`, before `limit`, to `ends`."""
    position = line = begin
    breaks = _BREAK_OR_CLAUSE if not text.isascii() and _CLAUSE_SPACED.search(text, begin, limit) else _BREAK
    while (match := breaks.search(text, position, limit)) is not None:
        position = match.end()
        if match.lastgroup == "clause":
            if match.start() - (ends[-1] if ends else begin) >= _CLAUSE_CHARS:
                ends.append(position)
            continue
        if match.lastgroup == "newline":
            if _ends_line(text, line, match.start(), position, limit):
                ends.append(_SPACE.match(text, position, limit).end())  # type: ignore[union-attr]
                position = ends[-1]
                line = text.rfind("\n", begin, position) + 1 or begin
            else:
                line = position
            continue
        after = _AFTER.match(text, position, limit).end()  # type: ignore[union-attr]
        gap = _SPACE.match(text, after, limit).end()  # type: ignore[union-attr]
        if gap == limit:
            return
        if match.lastgroup == "stop" and (gap == after or not _ends_sentence(text, line, match, after, gap)):
            continue
        ends.append(gap)
        position = gap
        newline = text.rfind("\n", line, gap)
        line = line if newline < 0 else newline + 1


def _ends_line(text: str, line: int, end: int, next_line: int, limit: int) -> bool:
    """Whether the newline at `end` ends a sentence."""
    following = text[next_line : min(next_line + 200, limit)]
    stripped = following.lstrip(" \t")
    if not stripped or stripped.startswith("\n") or _ITEM.match(following) or _OWN_LINE.match(text, line):
        return True
    content = text[line:end].rstrip()
    if content.endswith(":"):
        return True
    short = len(content) < _WRAPPED_FROM and not content.endswith((",", ";", "-", "–", "("))
    return short and not (stripped[0].islower() or stripped[0] in ",;.)")


def _ends_sentence(text: str, line: int, match: re.Match[str], after: int, gap: int) -> bool:
    """Whether a full stop before white space and more text ends its sentence."""
    if text[line : line + 1] == "|":
        return False
    if "\n" in text[after:gap] and _ITEM.match(text, text.rfind("\n", after, gap) + 1):
        return match.group() != "." or not text[line : match.start()].strip(" \t(").isdigit()
    following = text[gap]
    if following.islower():
        return False
    if match.group() != "." or after > match.end():
        return True
    word = _WORD_BEFORE.search(text, max(line, match.start() - 40), match.start()).group().lower()  # type: ignore[union-attr]
    if not word:
        return True
    if word in _ALWAYS or (word in _BEFORE_NUMBER and following.isdigit()):
        return False
    initial = word != "i" and text[match.start() - 1].isupper()
    if len(word) == 1 and word.isalpha() and (initial or text[gap + 1 : gap + 2] == "."):
        return False  # J. Hill; z. B.
    if "." in word:
        return word in _MAY_END or not all(len(part) <= 2 for part in word.split("."))
    if word.isdigit() and len(word) <= 3:
        before = text[line : match.start() - len(word)].rstrip()
        if not before or before[-1] in ".!?:;":
            return False  # the number of an item
        return not (len(word) <= 2 and before.rpartition(" ")[2].lower() in _BEFORE_ORDINAL)
    return True


def _cut(text: str, begin: int, end: int) -> int:
    """Where to cut a span that continues beyond `end`: after the last newline or space, else at `end`."""
    for blank in ("\n", " "):
        place = text.rfind(blank, begin + _MAX_CHARS // 2, end)
        if place >= 0:
            return place + 1
    return end
