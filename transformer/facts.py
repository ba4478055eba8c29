"""Compares the facts of a statement with those of its evidence: numbers, dates, units, names, negations, modal verbs.

Words alone do not tell "A beat B" from "B beat A", nor 12 months from 15. The comparison is strict about facts and
lenient about everything else, so that a paraphrase stays supported:

- A *number*, with its unit converted, and a month occur in the evidence.
- A *name* occurs in the evidence. Names and numbers are not exchanged: beside the same word stands the same name.
- A word that both have is negated in both or in neither, and under the same class of modal verb.
- No word of the statement is the opposite of the word that the evidence has in its place.

In scripts without capitals, names are found by comparing: text that differs between two equal pieces, and that occurs
elsewhere in the passage or looks like a foreign name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import Match, SequenceMatcher
from functools import lru_cache
from typing import Literal

import regex

from text_analysis.fact_words import UNITS, FactWords, fact_words
from text_analysis.scripts import UNSPACED
from text_analysis.stems import LANGUAGES, Stemmer, language_of
from text_analysis.word_lists import STOP_WORDS
from text_analysis.words import normalise

FactKind = Literal["number", "date", "unit", "name", "polarity", "modality", "opposite"]


@dataclass(frozen=True, slots=True)
class Difference:
    """A fact of a statement that its evidence does not have."""

    kind: FactKind
    stated: str
    """Words of the statement."""
    found: str | None
    """Words of the evidence in their place; None if the evidence says nothing about it."""


_TOKEN = regex.compile(
    rf"(?P<number>\d+(?:[.,\u00a0\u202f]\d+)*)|(?P<char>[{UNSPACED}])|"
    r"(?P<word>\p{L}[\p{L}\p{M}\p{N}]*(?:['’]\p{L}+)?)|(?P<unit>[%‰$€£¥]|°[CF]?)|(?P<break>[,;.!?()，。；：、！？।؟\n]|:(?!\d))",
    regex.V1,
)
_ITEM = regex.compile(r"\A(?:[-*+•‣◦·–>#]+\s+|\**\(?\d{1,3}[.)]\**\s+|(?:Step|Schritt)\s+\d+[:.]\s)+")
_FRACTIONS = str.maketrans({"½": ".5", "¼": ".25", "¾": ".75"})
_ORDINAL = regex.compile(r"(?:st|nd|rd|th|er|re|e)\b")
_CASED = regex.compile(r"\p{Lu}")
_UNCASED = regex.compile(rf"[{UNSPACED}]|[\p{{Arabic}}\p{{Hebrew}}\p{{Devanagari}}\p{{Hangul}}&&\p{{L}}]", regex.V1)
_HAN = regex.compile(r"\p{Han}")
_SCRIPTS = (
    ("chinese", _HAN),
    ("russian", regex.compile(r"\p{Cyrillic}")),
    ("hindi", regex.compile(r"\p{Devanagari}")),
    ("arabic", regex.compile(r"\p{Arabic}")),
)
_HAN_DIGITS = {digit: value for value, digit in enumerate("〇一二三四五六七八九")} | {"零": 0, "两": 2}
_HAN_SCALES = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "亿": 10**8}
_HAN_NUMBER = regex.compile(r"[〇零一二两三四五六七八九十百千万亿]+")
_COUNTED = regex.compile(r"[个次名支座种年月日号位项场分届岁天周米元人世代倍条家件层度小公英平美欧]")
"""Characters after a Chinese number that counts something."""
_TRANSCRIBED = regex.compile(
    r"[·阿埃艾安奥巴贝比波伯布达德迪蒂多厄尔法菲费弗格戈古哈海赫霍基吉加卡凯科克库拉莱兰朗勒雷里利丽林卢鲁伦罗洛马玛迈曼梅米莫姆纳尼内诺帕佩皮普奇乔切萨塞森沙什史斯索塔泰坦特提托瓦维威沃西希谢辛休亚伊因约泽扎朱茨兹]"
)
"""Characters that transcribe foreign names."""
_REACH = 3
"""Words around a negation that it may cover."""
_NEARLY_ALL = 0.7
"""Share of a statement's content words in the evidence from which it repeats a sentence instead of joining several."""
_YEARS = range(1000, 2100)
_OF = frozenset(("of", "de", "von", "van", "du", "del", "della", "al"))
"""Words inside names."""
_NEAR = 12
"""Most characters or words of a piece that differs."""


@dataclass(frozen=True, slots=True)
class _Number:
    start: int
    end: int
    values: frozenset[float]
    unit: tuple[str, float] | None
    strict: bool
    """Whether it counts something, and not only a word with a number in it."""
    text: str
    month: bool = False

    def equals(self, other: _Number) -> bool:
        if self.month != other.month:
            return False
        if self.unit and other.unit:
            if self.unit[0] != other.unit[0]:
                return False
            ours = {round(value * self.unit[1], 6) for value in self.values}
            return not ours.isdisjoint(round(value * other.unit[1], 6) for value in other.values)
        return not self.values.isdisjoint(other.values)


@dataclass(frozen=True, slots=True)
class _Name:
    start: int
    end: int
    parts: frozenset[str]
    strong: bool
    """Whether its capitals make it a name."""
    text: str


@dataclass(slots=True)
class _Facts:
    """A text's tokens and the facts among them."""

    keys: list[str] = field(default_factory=list)
    """Stems; the digits of numbers."""
    raw: list[str] = field(default_factory=list)
    clauses: list[int] = field(default_factory=list)
    """Number of the clause of each token."""
    content: list[bool] = field(default_factory=list)
    numbers: list[_Number] = field(default_factory=list)
    names: list[_Name] = field(default_factory=list)
    negations: list[int] = field(default_factory=list)
    """Places of negations."""
    modals: dict[str, set[str]] = field(default_factory=dict)
    """Word → classes of the modal verbs before it."""
    words: frozenset[str] = frozenset()

    def beside(self, place: int, step: int) -> str | None:
        """The neighbour of the token at a place in the same clause; None at its edge."""
        other = place + step
        same = 0 <= other < len(self.keys) and self.clauses[other] == self.clauses[place]
        return self.keys[other] if same else None

    def covered(self, place: int, reach: int) -> list[str]:
        """The nearest content words after a negation in its clause, or else before it."""
        for step in (1, -1):
            found: list[str] = []
            other = place + step
            while len(found) < reach and 0 <= other < len(self.keys) and self.clauses[other] == self.clauses[place]:
                if self.content[other]:
                    found.append(self.keys[other])
                other += step
            if found:
                return found
        return []

    def around(self, place: int) -> set[str]:
        """Content words near a place, in its clause."""
        near = range(max(0, place - _REACH - 1), min(len(self.keys), place + _REACH + 2))
        return {self.keys[other] for other in near if self.clauses[other] == self.clauses[place]}


def differing_fact(
    statement: str,
    evidence: Sequence[str],
    *,
    nearby: Sequence[str] = (),
    headings: str = "",
    question: str = "",
) -> Difference | None:
    """A fact that differs between a statement and its evidence, the first one found; None if the facts agree.

    Args:
        statement: without source numbers.
        evidence: the sentences that support it; a fact may stand in any of them.
        nearby: whole passages of these sentences. A pronoun in the evidence may stand for a name there.
        headings: titles and headings of the passages.
        question: what it names, the evidence need not repeat.
    """
    if not evidence:
        return None
    statement = _ITEM.sub("", statement.strip())
    short = len(statement) < 40 and statement.count(" ") < 3
    if any(statement == text.strip() or (short and statement.rstrip(" .。") in text) for text in evidence):
        return None
    language = _language(nearby[0][:2000] if nearby else " ".join(evidence))
    ours = _facts(statement, language)
    theirs = [_facts(text, language) for text in evidence]
    words = fact_words(language)
    around = [_facts(text, language) for text in (headings, question) if text]
    said = [key for key, content in zip(ours.keys, ours.content, strict=True) if content]
    covered = sum(any(key in facts.words for facts in theirs) for key in said) / max(1, len(said))
    return (
        _number(ours, theirs, around, nearby, language)
        or _name(ours, theirs, around, nearby, language, words, covered)
        or _polarity(ours, theirs)
        or _modality(ours, theirs, covered)
        or _opposite(ours, theirs, words, language)
        or _aligned(ours, theirs, around, nearby, words, language)
    )


@lru_cache(1024)
def _language(text: str) -> str:
    """A name for `fact_words`."""
    for language, script in _SCRIPTS:
        if len(script.findall(text)) * 4 > len(text):
            return language
    return language_of([text])


@lru_cache(16)
def _stemmer(language: str) -> Stemmer:
    return Stemmer(language if language in LANGUAGES else "none", accents=False)


@lru_cache(4096)
def _facts(text: str, language: str) -> _Facts:
    words = fact_words(language)
    stem = _stemmer(language).stem
    facts = _Facts()
    clause = 0
    modal: tuple[str, int, int] | None = None
    initial = True
    run: list[int] = []
    strong_run = False
    source = normalise(text.translate(_FRACTIONS)) if not text.isascii() else text
    matches = list(_TOKEN.finditer(source))
    titles = sum(match.lastgroup == "word" and match.group()[0].isupper() for match in matches)
    title_case = titles > 3 and titles * 5 > 4 * sum(match.lastgroup == "word" for match in matches)

    def close() -> None:
        nonlocal strong_run
        if run:
            parts = frozenset(facts.keys[place] for place in run)
            shown = " ".join(facts.raw[place] for place in run)
            facts.names.append(_Name(run[0], run[-1] + 1, parts, strong_run, shown))
            run.clear()
        strong_run = False

    skip = 0
    for index, match in enumerate(matches):
        if match.start() < skip:
            continue
        kind, raw = match.lastgroup, match.group()
        place = len(facts.keys)
        if kind == "break":
            close()
            clause += 1
            initial = initial or raw in ".!?:\n。！？"
            continue
        low = raw.lower().replace("’", "'")
        if kind == "number" or (kind == "char" and raw in _HAN_DIGITS) or (kind == "char" and raw == "十"):
            close()
            number, skip = _read_number(source, match, place, words, facts)
            facts.numbers.append(number)
            _add(facts, f"#{min(number.values):g}", number.text, clause, True)
            initial = False
            modal = None
            continue
        if kind == "char":
            close()
            _add(facts, raw, raw, clause, True)
            continue
        if kind == "unit":
            _add(facts, low, raw, clause, True)
            continue
        if low.endswith("'s"):
            low, raw = low[:-2], raw[:-2]
        elif len(raw) > 2 and raw[-1] == "s" and raw[:-1].isupper():
            low, raw = low[:-1], raw[:-1]
        month = words.months.get(low)
        if month is not None and (low != "may" or (raw == "May" and not initial)):
            close()
            facts.numbers.append(_Number(place, place + 1, frozenset((float(month),)), None, True, raw, month=True))
            _add(facts, f"month {month}", raw, clause, True)
            initial = False
            continue
        if low in words.numbers:
            close()
            number, skip = _read_number(source, match, place, words, facts)
            facts.numbers.append(number)
            _add(facts, f"#{min(number.values):g}", number.text, clause, True)
            initial = False
            continue
        if low in words.negations or low.endswith("n't"):
            following = matches[index + 1].group().lower() if index + 1 < len(matches) else ""
            if following not in words.only:
                facts.negations.append(place)
            if low not in ("cannot", "can't"):
                close()
                _add(facts, low, raw, clause, False)
                initial = False
                continue
        kinds = _modal(low, words)
        if kinds:
            close()
            modal = kinds, clause, place
            _add(facts, low, raw, clause, False)
            initial = False
            continue
        is_content = low not in STOP_WORDS or (len(raw) > 1 and raw.isupper() and not title_case)
        key = stem(low)
        _add(facts, key, raw, clause, is_content)
        if modal is not None and is_content:
            if modal[1] == clause and place - modal[2] <= 2:
                facts.modals.setdefault(key, set()).add(modal[0])
                if place - modal[2] > 1 and modal[0] == "may":
                    facts.modals[key].add("can")
            modal = None
        if low in _OF and run and index + 1 < len(matches) and matches[index + 1].group()[0].isupper():
            continue
        if raw[0].isupper() and low not in STOP_WORDS and low != "i":
            inner = any(char.isupper() or char.isdigit() for char in raw[1:])
            if not title_case and (
                inner or (run and not words.capitalises_nouns) or (not initial and not words.capitalises_nouns)
            ):
                strong_run = True
            run.append(place)
        else:
            close()
        initial = False
    close()
    facts.words = frozenset(facts.keys)
    return facts


def _add(facts: _Facts, key: str, raw: str, clause: int, content: bool) -> None:
    facts.keys.append(key)
    facts.raw.append(raw)
    facts.clauses.append(clause)
    facts.content.append(content)


def _modal(low: str, words: FactWords) -> str:
    for name, members in (
        ("may", words.hedges),
        ("can", words.possible),
        ("must", words.obliged),
        ("should", words.advised),
    ):
        if low in members:
            return name
    return ""


def _read_number(
    text: str, match: regex.Match[str], place: int, words: FactWords, facts: _Facts
) -> tuple[_Number, int]:
    """The number that begins at a match, and where it ends in the text, without its unit."""
    end = match.end()
    written = match.lastgroup == "word"
    strict = True
    if match.lastgroup == "number":
        values = _values(match.group())
        if ordinal := _ORDINAL.match(text, end):
            end = ordinal.end()
    elif match.lastgroup == "char":
        digits = _HAN_NUMBER.match(text, match.start())[0]  # type: ignore[index]
        end = match.start() + len(digits)
        values = {_han_value(digits)}
        before = text[match.start() - 1 : match.start()]
        strict = len(digits) > 1 or before == "第" or (_COUNTED.match(text, end) is not None and values != {1.0})
    else:
        values = {float(words.numbers[match.group().lower()])}
    # "twenty-five", "2.5 million", "3万"
    while (following := regex.compile(r"[ \u00a0-]?(\p{L}[\p{L}\p{M}]*|[万亿千百])").match(text, end)) is not None:
        word = following.group(1).lower()
        word = word if word in words.scales or word in words.numbers else word[:1] if word[:1] in _HAN_SCALES else word
        size = words.scales.get(word) or _HAN_SCALES.get(word)
        if size:
            values = {value * size for value in values}
        elif written and word in words.numbers and max(values) >= 20 and words.numbers[word] < 10:
            values = {value + words.numbers[word] for value in values}
        else:
            break
        end = following.start(1) + len(word)
    shown = text[match.start() : end]
    return _Number(place, place + 1, frozenset(values), _unit(text, match.start(), end), strict, shown), end


_UNIT_AFTER = regex.compile(r"[ \u00a0-]?(°[CF]|[%‰€$£¥]|\p{Latin}[\p{L}\p{M}]*|[^\W\d_]+)", regex.V1)
_UNIT_BEFORE = regex.compile(r"([$€£¥])\s?$")
_PER_CENT = regex.compile(r"百分之$")


def _unit(text: str, start: int, end: int) -> tuple[str, float] | None:
    before = text[max(0, start - 3) : start]
    if found := _UNIT_BEFORE.search(before):
        return UNITS[found.group(1)]
    if _PER_CENT.search(before):
        return UNITS["%"]
    after = _UNIT_AFTER.match(text, end)
    if after is None:
        return None
    word = after.group(1)
    if _HAN.match(word):
        return next((UNITS[word[:size]] for size in (4, 3, 2, 1) if word[:size] in UNITS), None)
    return UNITS.get(word.lower())


def _values(digits: str) -> set[float]:
    """The values that a number with separators may have: `1.234` is 1234 or 1.234."""
    digits = digits.replace("\u00a0", "").replace("\u202f", "")
    parts = regex.split("[.,]", digits)
    if len(parts) == 1:
        return {float(digits)}
    if len(parts) > 2 and not all(len(part) == 3 for part in parts[1:]):
        return {float(hash(tuple(part.lstrip("0") for part in parts)))}
    whole = float("".join(parts))
    if len(parts) > 2:
        return {whole}
    fraction = float(".".join(parts))
    return {whole} if parts[1] == "000" else {whole, fraction} if len(parts[1]) == 3 else {fraction}


def _han_value(digits: str) -> float:
    if not any(char in _HAN_SCALES for char in digits):
        return float("".join(str(_HAN_DIGITS[char]) for char in digits))
    total = section = digit = 0
    for char in digits:
        if char in _HAN_DIGITS:
            digit = _HAN_DIGITS[char]
        elif (size := _HAN_SCALES[char]) >= 10**4:
            total, section, digit = (total + section + digit) * size or size, 0, 0
        else:
            section, digit = section + (digit or 1) * size, 0
    return float(total + section + digit)


def _number(
    ours: _Facts, theirs: list[_Facts], around: list[_Facts], nearby: Sequence[str], language: str
) -> Difference | None:
    for number in ours.numbers:
        if not number.strict:
            continue
        kind: FactKind = "date" if number.month or not _no_year(number) else "number"
        held = [(facts, other) for facts in theirs for other in facts.numbers]
        same = [(facts, other) for facts, other in held if number.equals(other)]
        if same:
            # 15 losses and 24 wins, where the evidence has 24 losses and 15 wins
            beside = ours.beside(number.end - 1, 1)
            if beside is None or number.unit or not ours.content[number.end]:
                continue
            if any(facts.beside(other.end - 1, 1) == beside for facts, other in same):
                continue
            for facts, other in held:
                if facts.beside(other.end - 1, 1) == beside:
                    return Difference(kind, f"{number.text} {ours.raw[number.end]}", other.text)
            continue
        if any(number.equals(other) for facts in around for other in facts.numbers):
            continue
        undated = not any(_kind_of(other) == kind and other.month == number.month for _, other in held)
        if (
            kind == "date"
            and undated
            and any(number.equals(one) for text in nearby for one in _facts(text, language).numbers)
        ):
            continue
        unit = next(
            (other for _, other in held if not number.values.isdisjoint(other.values) and other.month == number.month),
            None,
        )
        if unit is not None:
            return Difference("unit", _with_unit(ours, number), _with_unit(_owner(unit, theirs), unit))
        instead = next((other for facts, other in held if _same_place(ours, number, facts, other)), None)
        return Difference(kind, _with_unit(ours, number), None if instead is None else instead.text)
    return None


def _no_year(number: _Number) -> bool:
    return not any(value in _YEARS for value in number.values) or number.unit is not None


def _kind_of(number: _Number) -> FactKind:
    return "date" if number.month or not _no_year(number) else "number"


def _owner(number: _Number, theirs: list[_Facts]) -> _Facts:
    return next(facts for facts in theirs if any(one is number for one in facts.numbers))


def _with_unit(facts: _Facts, number: _Number) -> str:
    after = facts.raw[number.end] if number.unit and number.end < len(facts.raw) else ""
    return f"{number.text} {after}".strip()


def _same_place(ours: _Facts, number: _Number, facts: _Facts, other: _Number) -> bool:
    return (
        number.unit == other.unit
        and number.month == other.month
        and (
            (number.unit is not None)
            or number.month
            or ((after := ours.beside(number.end - 1, 1)) is not None and after == facts.beside(other.end - 1, 1))
            or ((before := ours.beside(number.start, -1)) is not None and before == facts.beside(other.start, -1))
        )
    )


def _name(
    ours: _Facts,
    theirs: list[_Facts],
    around: list[_Facts],
    nearby: Sequence[str],
    language: str,
    words: FactWords,
    covered: float,
) -> Difference | None:
    if not ours.names:
        return None
    held = [(facts, name) for facts in theirs for name in facts.names]
    known = [name for _, name in held if name.strong or name.start > 0]
    for name in ours.names:
        slot = ours.beside(name.start, -1), ours.beside(name.end - 1, 1)
        content = name.end < len(ours.keys) and ours.content[name.end], name.start > 0 and ours.content[name.start - 1]
        in_evidence = [(facts, other) for facts, other in held if _shares(name.parts, other.parts)]
        absent = not in_evidence and not any(_has(facts.words, name.parts) for facts in theirs)
        if any(_matches(slot, facts, other) for facts, other in in_evidence):
            continue
        for facts, other in held:
            if _shares(name.parts, other.parts) or (other.parts & ours.words and not in_evidence):
                continue
            left, right = facts.beside(other.start, -1), facts.beside(other.end - 1, 1)
            same_left = slot[0] == left
            same_right = slot[1] == right
            telling = (same_right and slot[1] is not None and content[0]) or (
                same_left and slot[0] is not None and content[1]
            )
            both = same_left and same_right and (slot[0] is not None or slot[1] is not None)
            if not (telling or (both and absent)):
                continue
            if not name.strong and not words.capitalises_nouns and other not in known:
                continue
            if _in_list(facts, other, in_evidence, words):
                continue
            return Difference("name", name.text, other.text)
        if not absent or not name.strong:
            continue
        if any(_has(facts.words, name.parts) for facts in around) or _stands_for(name, [ours, *theirs]):
            continue
        if any(_has(_facts(text, language).words, name.parts) for text in nearby):
            unmatched = any(not _has(ours.words, other.parts) for _, other in held if other.strong)
            pronouns = {raw.lower() for facts in theirs for raw in facts.raw} & words.pronouns
            if covered < _NEARLY_ALL or not unmatched or not pronouns <= {raw.lower() for raw in ours.raw}:
                continue
        return Difference("name", name.text, None)
    return None


def _shares(one: frozenset[str], other: frozenset[str]) -> bool:
    return not one.isdisjoint(other) or _has(other, one)


def _has(words: Iterable[str], parts: frozenset[str]) -> bool:
    """Whether one of the parts, or an inflected form of it, is among the words."""
    known = words if isinstance(words, frozenset) else frozenset(words)
    if not known.isdisjoint(parts):
        return True
    return any(len(part) > 3 and any(word[:4] == part[:4] and _alike(word, part) for word in known) for part in parts)


def _alike(one: str, other: str) -> bool:
    shared = next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    return shared >= max(4, max(len(one), len(other)) - 3)


def _matches(slot: tuple[str | None, str | None], facts: _Facts, other: _Name) -> bool:
    left, right = facts.beside(other.start, -1), facts.beside(other.end - 1, 1)
    return (slot[0] is not None and slot[0] == left) or (slot[1] is not None and slot[1] == right)


def _in_list(facts: _Facts, name: _Name, others: list[tuple[_Facts, _Name]], words: FactWords) -> bool:
    """Whether a name and one of the others are members of one list: "A and B"."""
    for owner, other in others:
        if owner is not facts or other is name:
            continue
        first, second = sorted((name, other), key=lambda one: one.start)
        between = facts.raw[first.end : second.start]
        if all(word.lower() in words.joining or word[0].isupper() for word in between):
            return True
    return False


def _stands_for(name: _Name, texts: Iterable[_Facts]) -> bool:
    """Whether a name abbreviates neighbouring words, or neighbouring words are its abbreviation."""
    long = "".join(word[0] for word in name.text.split()).upper()
    for facts in texts:
        initials = "".join(raw[0] for raw in facts.raw if raw[0].isupper())
        if name.text.isupper() and len(name.text) > 1 and name.text in initials:
            return True
        letters = "".join(raw if len(raw) == 1 and raw.isupper() else " " for raw in facts.raw)
        if len(long) > 1 and (long in facts.raw or long in letters):
            return True
    return False


def _polarity(ours: _Facts, theirs: list[_Facts]) -> Difference | None:
    if not ours.negations and not any(facts.negations for facts in theirs):
        return None
    for here, there, first in ((ours, theirs, True), *((facts, [ours], False) for facts in theirs)):
        for place in here.negations:
            target = here.covered(place, 1)
            if not target or not any(target[0] in facts.words for facts in there):
                continue
            if any(target[0] in _loosely(facts) for facts in there if facts.negations):
                continue
            if not first and any(target[0] in _loosely(facts) for facts in [ours] if facts.negations):
                continue
            if not first and _affirmed(target[0], theirs):
                continue
            text = f"{here.raw[place]} {target[0]}"
            return Difference("polarity", text, target[0]) if first else Difference("polarity", target[0], text)
    return None


def _loosely(facts: _Facts) -> set[str]:
    """Words that a negation may cover."""
    found: set[str] = set()
    for place in facts.negations:
        near = range(max(0, place - _REACH - 2), min(len(facts.keys), place + 2 * _REACH + 1))
        found.update(facts.keys[other] for other in near if facts.clauses[other] == facts.clauses[place])
    return found


def _affirmed(word: str, theirs: list[_Facts]) -> bool:
    """Whether the evidence also has the word without a negation."""
    return any(
        sum(key == word for key in facts.keys) > sum(facts.covered(place, 1) == [word] for place in facts.negations)
        for facts in theirs
        if word in facts.words
    )


def _modality(ours: _Facts, theirs: list[_Facts], covered: float) -> Difference | None:
    for word, classes in ours.modals.items():
        held = set().union(*(facts.modals.get(word, set()) for facts in theirs))
        strict = {"can" if name == "may" else name for name in classes}
        if held and strict.isdisjoint("can" if name == "may" else name for name in held):
            return Difference("modality", f"{min(classes)} {word}", f"{min(held)} {word}")
    for facts in theirs if covered >= _NEARLY_ALL else ():
        for word, classes in facts.modals.items():
            once = sum(key == word for one in theirs for key in one.keys) == 1
            if once and classes == {"may"} and word in ours.words and word not in ours.modals:
                return Difference("modality", word, f"may {word}")
    return None


@lru_cache(16)
def _opposites(language: str) -> dict[str, frozenset[str]]:
    stem = _stemmer(language).stem
    found: dict[str, set[str]] = {}
    for word, others in fact_words(language).opposites.items():
        found.setdefault(stem(word), set()).update(map(stem, others))
    return {word: frozenset(others - {word}) for word, others in found.items()}


def _opposite(ours: _Facts, theirs: list[_Facts], words: FactWords, language: str) -> Difference | None:
    opposites = _opposites(language)
    for place, word in enumerate(ours.keys):
        if any(word in facts.words for facts in theirs):
            continue
        others = set(opposites.get(word, ()))
        if len(word) > 4 and ours.content[place]:
            for prefix in words.negating_prefixes:
                others.add(prefix + word)
                if word.startswith(prefix) and len(word) > len(prefix) + 3:
                    others.add(word[len(prefix) :])
        if not others:
            continue
        for facts in theirs:
            for other in others & facts.words - ours.words:
                at = facts.keys.index(other)
                if not (ours.around(place) & facts.around(at) - {word, other}):
                    continue
                negated = word in _loosely(ours), other in _loosely(facts)
                if negated[0] == negated[1]:
                    return Difference("opposite", ours.raw[place], facts.raw[at])
    return None


def _aligned(
    ours: _Facts, theirs: list[_Facts], around: list[_Facts], nearby: Sequence[str], words: FactWords, language: str
) -> Difference | None:
    """Compares pieces that differ between equal ones, where the statement repeats most of a piece of evidence."""
    if len(ours.keys) < 3:
        return None
    best: _Facts | None = None
    blocks: list[Match] = []
    matcher = SequenceMatcher(None, autojunk=False)
    matcher.set_seq2(ours.keys)
    for facts in theirs:
        matcher.set_seq1(facts.keys)
        matched = matcher.get_matching_blocks()
        if best is None or sum(block.size for block in matched) > sum(block.size for block in blocks):
            best, blocks = facts, matched
    others = [facts for facts in theirs if facts is not best]
    if best is None or 2 * sum(block.size for block in blocks) < len(ours.keys):
        return None
    nearly = sum(block.size for block in blocks) >= _NEARLY_ALL * len(ours.keys)
    opposites = _opposites(language)
    begin = from_ = 0
    for block in blocks:
        until, to = block.a, block.b
        last = block.size == 0
        if not last and block.size == 1 and (not ours.content[to] or _CHAR.match(ours.keys[to])):
            continue
        mine, found = range(from_, to), range(begin, until)
        anchored = (from_ > 0 or begin == 0) and (not last or until == len(best.keys))
        begin, from_ = until + block.size, to + block.size
        if (mine or found) and anchored:
            difference = _compare(ours, mine, best, others, found, around, nearby, words, opposites, language, nearly)
            if difference is not None:
                return difference
    return None


_CHAR = regex.compile(rf"[{UNSPACED}]$", regex.V1)


def _compare(
    ours: _Facts,
    mine: range,
    theirs: _Facts,
    others: list[_Facts],
    found: range,
    around: list[_Facts],
    nearby: Sequence[str],
    words: FactWords,
    opposites: dict[str, frozenset[str]],
    language: str,
    nearly: bool,
) -> Difference | None:
    """The difference between two pieces that stand between equal ones."""
    a, b = [ours.keys[place] for place in mine], [theirs.keys[place] for place in found]
    mine_text, found_text = _shown(ours, mine), _shown(theirs, found)
    han = language == "chinese"
    uneven = han or len(ours.negations) % 2 != len(theirs.negations) % 2 or len(theirs.words - ours.words) < 3
    split = (mine and ours.clauses[mine[0]] != ours.clauses[mine[-1]]) or (
        found and theirs.clauses[found[0]] != theirs.clauses[found[-1]]
    )
    # A clause that was moved or left out.
    if split or max(len(a), len(b)) > _NEAR:
        return None
    small = sum(ours.content[place] for place in mine) <= 1 and sum(theirs.content[place] for place in found) <= 1
    if han:
        texts = [_LEXICAL.sub("", "".join(keys)) for keys in (a, b)]
        small = max(map(len, texts)) <= 3
        negated = [int(any(one in text for one in words.negations)) for text in texts]
        kinds = [_modal(text, words) for text in texts]
    else:
        negated = [
            sum(place in facts.negations for place in piece) % 2 for facts, piece in ((ours, mine), (theirs, found))
        ]
        kinds = [next(filter(None, (_modal(key, words) for key in keys)), "") for keys in (a, b)]
    opposed = _opposed(a, b, opposites, words, han)
    small = small and (min(len(a), len(b)) > 0 or len(a) + len(b) <= 3)
    if negated[0] != negated[1] and uneven and (small or (a and b and han)) and not opposed:
        shown = mine_text or _shown(ours, range(mine.stop, mine.stop + 2))
        return Difference("polarity", shown, found_text or None)
    one, other = ("can" if kind == "may" else kind for kind in kinds)
    changed = (one and other) or (one in ("must", "should") and not b) or (kinds[1] == "may" and not a)
    if small and one != other and changed and negated[0] == negated[1]:
        return Difference("modality", mine_text, found_text or None)
    if not a or not b:
        return None
    if negated[0] == negated[1] and opposed:
        return Difference("opposite", mine_text, found_text)
    numbers = [[n for n in facts.numbers if n.start in piece] for facts, piece in ((ours, mine), (theirs, found))]
    if (
        numbers[0]
        and numbers[1]
        and not any(
            n.equals(m) for n in numbers[0] for m in [*numbers[1], *(one for facts in others for one in facts.numbers)]
        )
    ):
        return Difference(_kind_of(numbers[0][0]), mine_text, found_text)
    # A unit: 15 months, 15 years; of Chinese, with the character after it.
    units = [UNITS.get(text) for text in (mine_text.lower(), found_text.lower())]
    if han and ours.keys[mine.stop : mine.stop + 1] == theirs.keys[found.stop : found.stop + 1]:
        after = "".join(ours.keys[mine.stop : mine.stop + 1])
        units = [unit or UNITS.get(text + after) for unit, text in zip(units, (mine_text, found_text), strict=True)]
    if units[0] and units[1] and units[0] != units[1] and mine.start and ours.keys[mine.start - 1].startswith("#"):
        return Difference("unit", mine_text, found_text)
    difference = _renamed(ours, mine, theirs, found, around, nearby, words, language, nearly)
    elsewhere = any({ours.keys[place] for place in mine if _nameable(ours, place)} & facts.words for facts in others)
    return None if elsewhere else difference


def _renamed(
    ours: _Facts,
    mine: range,
    theirs: _Facts,
    found: range,
    around: list[_Facts],
    nearby: Sequence[str],
    words: FactWords,
    language: str,
    nearly: bool,
) -> Difference | None:
    known = [theirs, *around, *(_facts(text, language) for text in nearby)]
    a = {place: ours.keys[place] for place in mine if _nameable(ours, place)}
    b = {place: theirs.keys[place] for place in found if _nameable(theirs, place)}
    text, other = _shown(ours, mine), _shown(theirs, found)
    if _UNCASED.search(text) or _UNCASED.search(other):
        passage = " ".join(nearby)
        if text.lower() == other.lower() or not (_named(text, passage) or _named(other, "")):
            return None
        return Difference("name", text, other)
    if any(
        sum(facts.content[place] and place not in names and not facts.raw[place].isdigit() for place in piece) > 1
        for facts, piece, names in ((ours, mine, a), (theirs, found, b))
    ):
        return None
    new = [key for key in a.values() if not any(_same(key, held) for held in b.values())]
    gone = [key for key in b.values() if not any(_same(key, held) for held in a.values())]
    if not new or not gone or _abbreviates(text, other) or _abbreviates(other, text):
        return None
    if not nearly and all(any(_has(facts.words, frozenset((key,))) for facts in known) for key in new):
        return None
    # A capital at the start tells nothing: "Deleting it …", "Removing it …".
    if set(a) == {0}:
        if set(b) != {0}:
            return None
        mentioned = regex.compile(rf"(?<=[\p{{L}},] ){regex.escape(theirs.raw[0])}\b")
        if words.capitalises_nouns or not any(mentioned.search(passage) for passage in nearby):
            return None
    return Difference("name", text, other)


def _named(text: str, passage: str) -> bool:
    """Whether text in a script without capitals is written like a name, or occurs elsewhere in the passage."""
    return (
        (len(text) > 2 and text in passage)
        or bool(_CASED.search(text))
        or len(_TRANSCRIBED.findall(text)) * 3 >= 2 * len(text)
    )


def _nameable(facts: _Facts, place: int) -> bool:
    raw = facts.raw[place]
    return facts.content[place] and (raw[0].isupper() or (raw[0].isalpha() and any(map(str.isdigit, raw))))


def _same(one: str, other: str) -> bool:
    return one == other or (not any(map(str.isdigit, one + other)) and _alike(one, other))


def _abbreviates(short: str, long: str) -> bool:
    return len(short) > 1 and short.isupper() and short == "".join(word[0].upper() for word in long.split())


def _shown(facts: _Facts, places: range) -> str:
    raws = facts.raw[places.start : places.stop]
    return "".join(raws) if any(_CHAR.match(raw) for raw in raws) else " ".join(raws)


def _opposed(
    a: Sequence[str], b: Sequence[str], opposites: dict[str, frozenset[str]], words: FactWords, han: bool
) -> bool:
    if han:
        one, other = "".join(a), "".join(b)
        return any(word in one and any(held in other for held in held_by) for word, held_by in opposites.items())
    for word in a:
        others = opposites.get(word, frozenset())
        for held in b:
            if held in others:
                return True
            for prefix in words.negating_prefixes:
                if (word == prefix + held or held == prefix + word) and min(len(word), len(held)) > 3:
                    return True
    return False


_LEXICAL = regex.compile(
    "不过|不仅|不但|不同|不断|无论|非常|非洲|除非|未来|不久|特别|分别|区别|级别|类别|性别|个别|无线|南非|北非|別的"
)
"""Chinese words with a character that negates elsewhere."""
