"""Reads numbers and their units in a text: `1,000`, `2.5 million`, `twenty-five`, `三百`, `12 months`."""

from __future__ import annotations

from dataclasses import dataclass

import regex

from text_analysis.fact_words import UNITS, FactWords

HAN_DIGITS = {digit: value for value, digit in enumerate("〇一二三四五六七八九")} | {"零": 0, "两": 2, "十": 10}
"""Chinese characters that begin a number, and their values."""
_HAN_SCALES = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "亿": 10**8}
_HAN_NUMBER = regex.compile(r"[〇零一二两三四五六七八九十百千万亿]+")
_HAN_COUNTED = regex.compile(r"[个次名支座种年月日号位项场分届岁天周米元人世代倍条家件层度小公英平美欧]")
"""Characters that show that the preceding Chinese number counts something."""
_NEXT_PART = regex.compile(r"[ \u00a0-]?(\p{L}[\p{L}\p{M}]*)")
_ORDINAL = regex.compile(r"(?:st|nd|rd|th)\b")
_UNIT_AFTER = regex.compile(r"[ \u00a0-]?(°[CF]|[%‰€$£¥]|\p{Han}{1,4}|\p{L}[\p{L}\p{M}]*)")
_UNIT_BEFORE = regex.compile(r"([$€£¥]|百分之)\s?$")
_YEARS = range(1000, 2100)


@dataclass(frozen=True, slots=True)
class Number:
    """A number in a text."""

    text: str
    """The number as written, without its unit."""
    values: frozenset[float]
    """Several if the separators are ambiguous, as in `1.234`."""
    unit: tuple[str, float] | None = None
    """As in `fact_words.UNITS`."""
    counts: bool = True
    """Whether it counts something; the 一 of 一些 (some) does not."""
    month: bool = False
    """Whether it is the name of a month."""

    @property
    def is_date(self) -> bool:
        """Whether it is a month or may be a year."""
        return self.month or (self.unit is None and any(value in _YEARS for value in self.values))

    def equals(self, other: Number) -> bool:
        """Whether both may be the same amount, after conversion of units. A missing unit matches any unit."""
        if self.month != other.month:
            return False
        if self.unit is None or other.unit is None:
            return not self.values.isdisjoint(other.values)
        (dimension, size), (other_dimension, other_size) = self.unit, other.unit
        amounts = {round(value * size, 6) for value in self.values}
        return dimension == other_dimension and any(round(value * other_size, 6) in amounts for value in other.values)


def read_number(text: str, start: int, token: str, words: FactWords) -> tuple[Number, int]:
    """The number that begins at a token, and its end in the text.

    Args:
        text: normalised text.
        start: offset of the token.
        token: digits with separators, a word in `words.numbers`, or a character in `HAN_DIGITS`.
        words: words of the text's language.
    """
    end = start + len(token)
    written = words.numbers.get(token.lower())
    counts = True
    if written is not None:
        values = {float(written)}
    elif token in HAN_DIGITS:
        digits = _HAN_NUMBER.match(text, start)[0]  # type: ignore[index]
        end = start + len(digits)
        values = {_han_value(digits)}
        counts = len(digits) > 1 or text[start - 1 : start] == "第" or (_HAN_COUNTED.match(text, end) is not None)
        counts = counts and digits != "一"
    else:
        values = _values(token)
        if ordinal := _ORDINAL.match(text, end):
            end = ordinal.end()
    while (part := _NEXT_PART.match(text, end)) is not None:
        word = part[1].lower()
        word = word[0] if word[0] in _HAN_SCALES else word
        added = 1 if word in words.ones else words.numbers.get(word, 0)
        if size := words.scales.get(word) or _HAN_SCALES.get(word):
            values = {value * size for value in values}
        elif written is not None and 0 < added < 10 and max(values) >= 20:
            values = {value + added for value in values}
        else:
            break
        end = part.start(1) + len(word)
    return Number(text[start:end], frozenset(values), _unit(text, start, end), counts), end


def _unit(text: str, start: int, end: int) -> tuple[str, float] | None:
    if before := _UNIT_BEFORE.search(text, max(0, start - 4), start):
        return UNITS.get(before[1], UNITS["%"])
    after = _UNIT_AFTER.match(text, end)
    word = after[1].lower() if after else ""
    # Chinese has no spaces, so look for the longest unit.
    return next((UNITS[word[:size]] for size in (len(word), 3, 2, 1) if word[:size] in UNITS and (
        size == len(word) or word[0] > "\u2e80")), None)  # fmt: skip


def _values(digits: str) -> set[float]:
    parts = regex.split("[.,]", digits.replace("\u00a0", "").replace("\u202f", ""))
    if len(parts) == 1:
        return {float(parts[0])}
    thousands = float("".join(parts))
    if len(parts) > 2:
        # Several separators: thousands, or a version, which is compared digit by digit.
        return {thousands}
    fraction = float(".".join(parts))
    if parts[1] == "000":
        return {thousands}
    return {thousands, fraction} if len(parts[1]) == 3 else {fraction}


def _han_value(digits: str) -> float:
    if not any(digit in _HAN_SCALES for digit in digits):
        return float("".join(str(HAN_DIGITS[digit]) for digit in digits))
    total = section = last = 0
    for digit in digits:
        size = _HAN_SCALES.get(digit)
        if size is None:
            last = HAN_DIGITS[digit]
        elif size >= 10**4:
            total, section, last = (total + section + last or 1) * size, 0, 0
        else:
            section, last = section + (last or 1) * size, 0
    return float(total + section + last)
