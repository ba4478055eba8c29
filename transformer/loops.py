"""Detects an LLM that repeats itself, while it writes: in any language, without a model.

A loop is a piece of text three times in a row, or a sentence or line that keeps returning. Short pieces need more
repetitions, because they also recur in tables and lists.
"""

from __future__ import annotations

import bisect
import re
from collections import deque

_GRAM_CHARS = 12
"""A repetition is looked for once this many characters have occurred before."""
_FURTHER_TOKENS = 20
"""A repeated piece of fewer tokens must go on for the missing number of tokens after its second repetition."""
_CELL_TOKENS = 60
"""The same for equal cells in a row of a table."""
_LAYOUT_CHARS = 200
"""Least run of repeated layout, such as the line below a table's header."""
_SENTENCE_WORDS = 5
"""Least length of a sentence or line that may not return."""
_SENTENCE_OCCURRENCES, _AMONG = 4, 7
"""Number of occurrences among the latest sentences that make a loop."""

_TOKEN = re.compile(r"[^\W\d_\u0370-\U0010ffff]{1,6}|\S")
"""About one token of an LLM: a piece of a Latin word, or another character. Rather too many than too few."""
_WORD = re.compile(r"[^\W\d_\u0e00-\u0eff\u3040-\u9fff]+|[^\W\d_]{1,3}")
"""A word; of scripts without spaces, a few characters."""
_LAYOUT = frozenset("-=_.*|:~#+ \t\n")
_STOPS = frozenset(".!?…؟")
"""End a sentence before white space."""
_WIDE_STOPS = frozenset("。！？।\n")
_ITEM_NUMBER = re.compile(r"(^|\s)\(?\d{1,4}[.)]$")
_NUMBER_BEGINS = re.compile(r"\(?\d{1,4}")
_NUMBER = "#."
"""Replaces the number of a list item, so that items that differ in their number alone are equal."""


class LoopDetector:
    """Follows the text of one answer."""

    def __init__(self) -> None:
        self.looping = False
        """Whether the answer repeats itself. Final."""
        self._length = 0
        self._chars: list[str] = []
        """The text, with item numbers replaced by `_NUMBER`."""
        self._offsets: list[int] = []
        """Offset in the text of each of them."""
        self._grams: dict[str, int] = {}
        """Text of `_GRAM_CHARS` characters → index after its last occurrence."""
        self._lag = self._run = 0
        """The last `_run` characters equal those `_lag` characters before; zeros if there was no such gram."""
        self._sentence = 0
        """Index at which the current sentence begins."""
        self._sentences: list[str] = []
        """The complete sentences, sorted, each once."""
        self._latest: deque[str] = deque(maxlen=_AMONG)
        self._repeated_from: int | None = None
        """Index of the first of the latest sentences that all have occurred before."""

    def feed(self, text: str) -> bool:
        """`looping`, after more of the answer."""
        for char in text:
            if self.looping:
                break
            self._add(char)
        return self.looping

    @property
    def safe(self) -> int:
        """Length of the text up to which nothing, so far, looks like the beginning of a repetition."""
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
        least = _CELL_TOKENS if "|" in period and "\n" not in period else _FURTHER_TOKENS
        return _tokens(period) + _tokens(further) >= least

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
        """The first complete sentence that is not sorted before `text`; empty if there is none."""
        place = bisect.bisect_left(self._sentences, text)
        return self._sentences[place] if place < len(self._sentences) else ""

    def _key(self) -> str:
        """The current sentence, without differences in white space, case and item numbers."""
        return " ".join("".join(self._chars[self._sentence :]).split()).removeprefix(_NUMBER).lstrip().casefold()


def _tokens(text: str) -> int:
    return len(_TOKEN.findall(text))
