"""Detects that an LLM repeats itself while it generates, in any language and without a model.

A loop is a piece of text three times in a row, or a sentence or line that keeps recurring. Short pieces must recur more
often, because tables and lists repeat them too.
"""

from __future__ import annotations

import bisect
import re
from collections import deque

_GRAM_CHARS = 12
"""Length of the text that must recur before the detector looks for a loop."""
_FURTHER_TOKENS = 20
"""If a piece has fewer tokens, it is a loop only if the repetition continues for the missing number of tokens."""
_CELL_TOKENS = 60
"""Like `_FURTHER_TOKENS`, for equal cells in a table row."""
_LAYOUT_CHARS = 200
"""Minimum length of repeated layout characters, such as the line below a table's header, that counts as a loop."""
_SENTENCE_WORDS = 5
"""Minimum number of words of a recurring sentence or line that counts as a loop."""
_SENTENCE_OCCURRENCES, _LATEST_SENTENCES = 4, 7
"""A loop is this many occurrences of a sentence among the latest ones."""

_TOKEN = re.compile(r"[^\W\d_\u0370-\U0010ffff]{1,6}|\S")
"""About one token of an LLM: up to six Latin letters, or another character. Overestimates the number of tokens."""
_WORD = re.compile(r"[^\W\d_\u0e00-\u0eff\u3040-\u9fff]+|[^\W\d_]{1,3}")
"""A word; in scripts without spaces, one to three characters."""
_LAYOUT = frozenset("-=_.*|:~#+ \t\n")
_STOPS = frozenset(".!?…؟")
"""End a sentence before white space."""
_WIDE_STOPS = frozenset("。！？।\n")
_ITEM_NUMBER = re.compile(r"(^|\s)\(?\d{1,4}[.)]$")
_NUMBER_BEGINS = re.compile(r"\(?\d{1,4}")
_NUMBER = "#."
"""Replaces the number of a list item, so that items with the same text are equal."""


class LoopDetector:
    """Detects a loop in one answer."""

    def __init__(self) -> None:
        self.looping = False
        """Whether the answer repeats itself. Never becomes False again."""
        self._length = 0
        self._chars: list[str] = []
        """The text, with item numbers replaced by `_NUMBER`."""
        self._offsets: list[int] = []
        """Offset in the text of each element of `_chars`."""
        self._grams: dict[str, int] = {}
        """Text of `_GRAM_CHARS` characters → index after its last occurrence."""
        self._lag = self._run = 0
        """The last `_run` characters equal those `_lag` characters earlier. Both are 0 if nothing recurs."""
        self._sentence = 0
        """Index at which the current sentence begins."""
        self._sentences: list[str] = []
        """The distinct complete sentences, sorted."""
        self._latest: deque[str] = deque(maxlen=_LATEST_SENTENCES)
        self._repeated_from: int | None = None
        """Index from which all complete sentences have occurred before; None if the last one has not."""

    def feed(self, text: str) -> bool:
        """Adds text of the answer. Returns `looping`."""
        for char in text:
            if self.looping:
                break
            self._add(char)
        return self.looping

    @property
    def safe(self) -> int:
        """Length of the text before a possible beginning of a repetition."""
        starts = [len(self._chars)]
        if self._run >= _GRAM_CHARS:
            starts.append(len(self._chars) - self._run)
        current = self._key()
        if _NUMBER_BEGINS.fullmatch(current) or self._first_not_before(current).startswith(current):
            starts.append(self._sentence if self._repeated_from is None else self._repeated_from)
        index = min(starts)
        return self._offsets[index] if index < len(self._offsets) else self._length

    def _add(self, char: str) -> None:
        chars = self._chars
        chars.append(char)
        self._offsets.append(self._length)
        self._length += 1
        if char in ".)" and (number := _ITEM_NUMBER.search("".join(chars[-7:]))):
            self._shorten(len(number.group().lstrip()))
            return
        self._follow()
        if char in _WIDE_STOPS or (char == " " and chars[-2:-1] and chars[-2] in _STOPS):
            self._end_sentence()

    def _shorten(self, count: int) -> None:
        """Replace the last `count` characters, an item number, with `_NUMBER`."""
        begin = len(self._chars) - count
        self._chars[begin:] = _NUMBER
        self._offsets[begin:] = [self._offsets[begin]] * len(_NUMBER)
        self._lag = self._run = 0
        self._follow()

    def _follow(self) -> None:
        """Update the lag and the run for the last character."""
        chars, end = self._chars, len(self._chars)
        if self._lag and chars[-1] == chars[-1 - self._lag]:
            self._run += 1
        else:
            self._lag = self._run = 0
        gram = "".join(chars[-_GRAM_CHARS:])
        before = self._grams.get(gram) if len(gram) == _GRAM_CHARS else None
        self._grams[gram] = end
        if before is not None and (not self._lag or end - before < self._lag):
            self._lag, self._run = end - before, 0
            while self._run < end - self._lag and chars[end - 1 - self._run] == chars[end - 1 - self._run - self._lag]:
                self._run += 1
        if self._lag and self._run >= 2 * self._lag:
            self.looping = self._loops()

    def _loops(self) -> bool:
        period = "".join(self._chars[-self._lag :])
        if _LAYOUT.issuperset(period):
            return self._run >= _LAYOUT_CHARS
        further = "".join(self._chars[len(self._chars) - self._run + 2 * self._lag :])
        required = _CELL_TOKENS if "|" in period and "\n" not in period else _FURTHER_TOKENS
        return _tokens(period) + _tokens(further) >= required

    def _end_sentence(self) -> None:
        sentence = self._key()
        if not any(map(str.isalnum, sentence)):
            return
        if self._first_not_before(sentence) != sentence:
            self._repeated_from = None
            bisect.insort(self._sentences, sentence)
        elif self._repeated_from is None:
            self._repeated_from = self._sentence
        self._latest.append(sentence)
        self._sentence = len(self._chars)
        returning = self._latest.count(sentence) >= _SENTENCE_OCCURRENCES
        self.looping = returning and len(_WORD.findall(sentence)) >= _SENTENCE_WORDS

    def _first_not_before(self, text: str) -> str:
        """The first complete sentence that does not sort before `text`; empty if there is none."""
        index = bisect.bisect_left(self._sentences, text)
        return self._sentences[index] if index < len(self._sentences) else ""

    def _key(self) -> str:
        """The current sentence with normalised white space and case, without item number."""
        return " ".join("".join(self._chars[self._sentence :]).split()).removeprefix(_NUMBER).lstrip().casefold()


def _tokens(text: str) -> int:
    return len(_TOKEN.findall(text))
