"""Compares the facts in a statement and in its evidence: numbers, dates, units, names, negations, modal verbs.

Words alone do not distinguish "A beat B" from "B beat A", or 12 months from 15. The comparison is strict about facts
and lenient otherwise, so that a paraphrase stays supported. Two comparisons complement each other:

- *By fact*, in any order. Numbers and names must occur in the evidence, and names next to the same words; a word must
  be negated, or have a modal verb of the same class, in both texts or in neither; no word may become its opposite.
- *By position*, if the statement repeats most of a sentence. Pieces that differ between two equal ones may not be
  two numbers, names, units, opposites, or classes of modal verbs, and not one negated and one affirmed.

Names are known by their capitals; in scripts without capitals, by their position, by characters that transcribe
foreign names, or by a second occurrence in the passage.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import Match, SequenceMatcher
from functools import cached_property, lru_cache
from itertools import islice, zip_longest
from typing import Literal

import regex

from text_analysis.fact_words import UNITS, FactWords, fact_words
from text_analysis.numbers import HAN_DIGITS, Number, read_number
from text_analysis.scripts import UNSPACED
from text_analysis.stems import LANGUAGES, UNSTEMMED, Stemmer, language_of, shared_stemmer
from text_analysis.word_lists import STOP_WORDS
from text_analysis.words import has_digit, normalise

FactKind = Literal["number", "date", "unit", "name", "polarity", "modality", "opposite"]


@dataclass(frozen=True, slots=True)
class Difference:
    """A fact in a statement that its evidence lacks."""

    kind: FactKind
    stated: str
    """Words of the statement."""
    found: str | None
    """Words of the evidence instead, or None."""


_ITEM = regex.compile(r"\A(?:[-*+•‣◦·–>#]+\s+|\**\(?\d{1,3}[.)]\**\s+|(?:Step|Schritt)\s+\d+[:.]\s)+")
_TOKEN = regex.compile(
    rf"(?P<number>\d+(?:[.,\u00a0\u202f]\d+)*)|(?P<char>[{UNSPACED}])|"
    r"(?P<word>\p{L}[\p{L}\p{M}\p{N}]*(?:['’]\p{L}+)?)|(?P<unit>[%‰$€£¥]|°[CF]?)|"
    r"(?P<break>[,;.!?()，。；：、！？।؟\n]|:(?!\d))",
    regex.V1,
)
_SIGNS = str.maketrans({"²": "", "³": "", "½": ".5", "¼": ".25", "¾": ".75"})
_CHAR = regex.compile(rf"[{UNSPACED}]", regex.V1)
_UNCASED = regex.compile(rf"[{UNSPACED}]|[\p{{Arabic}}\p{{Hebrew}}\p{{Devanagari}}\p{{Hangul}}&&\p{{L}}]", regex.V1)
_SCRIPTS = (
    ("chinese", regex.compile(r"\p{Han}")),
    ("russian", regex.compile(r"\p{Cyrillic}")),
    ("hindi", regex.compile(r"\p{Devanagari}")),
    ("arabic", regex.compile(r"\p{Arabic}")),
)
_TRANSCRIBING = regex.compile(
    "[·阿埃艾安奥巴贝比波伯布达德迪蒂多厄尔法菲费弗格戈古哈海赫霍基吉加卡凯科克库拉莱兰朗勒雷里利丽林卢鲁伦罗洛马玛迈曼梅"
    "米莫姆纳尼内诺帕佩皮普奇乔切萨塞森沙什史斯索塔泰坦特提托瓦维威沃西希谢辛休亚伊因约泽扎朱茨兹]"
)
"""Chinese characters that transcribe foreign names."""
_INNER = frozenset(("of", "de", "von", "van", "du", "del", "della", "al"))
"""Words inside names."""
_SHORT = 40
"""A shorter statement, such as a name, agrees with the evidence if it occurs in it."""
_NEARLY_ALL = 0.7
"""Minimum share of a statement's words in its evidence to count as a repetition and not as a summary."""
_REPEATED = 0.5
"""Like `_NEARLY_ALL`, for the comparison by position."""
_PIECE = 12
"""Maximum number of tokens in a compared piece."""
_REACH = 6
"""Maximum distance, in tokens, between a negation and a word that it covers."""


def differing_fact(
    statement: str, evidence: Sequence[str], *, nearby: Sequence[str] = (), headings: str = "", question: str = ""
) -> Difference | None:
    """The first fact that differs between a statement and its evidence; None if the facts agree.

    Args:
        statement: a sentence without source markers.
        evidence: the sentences that support it. A fact may be in any of them.
        nearby: the passages of these sentences. A pronoun in the evidence may refer to a name there.
        headings: titles and headings of the passages.
        question: names and numbers in it need not be in the evidence.
    """
    statement = _ITEM.sub("", statement.strip())
    short = len(statement) < _SHORT and statement.count(" ") < 3
    bare = statement.rstrip(" .。")
    if any(statement == text.strip() or (short and bare in text) for text in evidence):
        return None
    language = _language(nearby[0][:2000] if nearby else " ".join(evidence))
    return _Comparison(statement, evidence, nearby, (headings, question), language).difference()


@lru_cache(1024)
def _language(text: str) -> str:
    """A name for `fact_words`."""
    for language, script in _SCRIPTS:
        if len(script.findall(text)) * 4 > len(text):
            return language
    return language_of([text])


def _stemmer(language: str) -> Stemmer:
    return shared_stemmer(language if language in LANGUAGES else UNSTEMMED, accents=False)


@lru_cache(16)
def _opposites(language: str) -> dict[str, frozenset[str]]:
    """Stem → stems of its opposites."""
    stem = _stemmer(language).stem
    found: dict[str, set[str]] = {}
    for word, others in fact_words(language).opposites.items():
        found.setdefault(stem(word), set()).update(map(stem, others))
    return {word: frozenset(others - {word}) for word, others in found.items()}


@dataclass(frozen=True, slots=True)
class _Name:
    indexes: range
    keys: frozenset[str]
    text: str
    certain: bool
    """Whether its capitals show that it is a name. A capital at the start of a sentence does not."""


@dataclass(slots=True)
class _Text:
    """The tokens of a text, in parallel lists, and its facts."""

    keys: list[str] = field(default_factory=list)
    """Stems, and values of numbers, by which tokens are compared."""
    raw: list[str] = field(default_factory=list)
    clauses: list[int] = field(default_factory=list)
    content: list[bool] = field(default_factory=list)
    numbers: dict[int, Number] = field(default_factory=dict)
    """By index, like `modals`."""
    negations: list[int] = field(default_factory=list)
    modals: dict[int, str] = field(default_factory=dict)
    names: list[_Name] = field(default_factory=list)
    words: frozenset[str] = frozenset()

    def add(self, key: str, raw: str, clause: int, *, content: bool) -> None:
        self.keys.append(key)
        self.raw.append(raw)
        self.clauses.append(clause)
        self.content.append(content)

    def clause(self, index: int, step: int) -> Iterator[int]:
        """Indexes of the tokens after (step 1) or before (-1) a token, in the same clause."""
        other = index + step
        while 0 <= other < len(self.keys) and self.clauses[other] == self.clauses[index]:
            yield other
            other += step

    def next_to(self, index: int, step: int) -> str | None:
        """Key of the next or previous token in the same clause; None if there is none."""
        return next((self.keys[other] for other in self.clause(index, step)), None)

    def negated_at(self, index: int) -> str | None:
        """The content word that a negation applies to: the next one in its clause, else the previous one."""
        both = (*self.clause(index, 1), *self.clause(index, -1))
        return next((self.keys[other] for other in both if self.content[other]), None)

    def _before(self, index: int) -> Iterable[int]:
        """Indexes that a negation at the end of its clause covers."""
        return () if any(self.content[other] for other in self.clause(index, 1)) else self.clause(index, -1)

    def negated(self) -> set[str]:
        """Words that a negation may cover."""
        return {
            self.keys[other]
            for index in self.negations
            for other in (*islice(self.clause(index, 1), _REACH), *self._before(index))
        }

    def modal_words(self) -> dict[str, set[str]]:
        """Content word → classes of the modal verbs at most two tokens before it."""
        found: dict[str, set[str]] = {}
        for index, kind in self.modals.items():
            after = next((other for other in self.clause(index, 1) if self.content[other]), None)
            if after is not None and after - index <= 2 and after not in self.numbers:
                found.setdefault(self.keys[after], set()).add(kind)
        return found

    def text_at(self, indexes: range) -> str:
        raw = self.raw[indexes.start : indexes.stop]
        return "".join(raw) if any(map(_CHAR.match, raw)) else " ".join(raw)


def _modal_class(word: str, words: FactWords) -> str:
    classes = (("may", words.hedges), ("can", words.possible), ("must", words.obliged), ("should", words.advised))
    return next((name for name, members in classes if word in members), "")


@lru_cache(4096)
def _read(text: str, language: str) -> _Text:
    words = fact_words(language)
    stem = _stemmer(language).stem
    source = text if text.isascii() else normalise(text.translate(_SIGNS))
    matches = list(_TOKEN.finditer(source))
    found = _Text()
    first: set[int] = set()
    clause = read_until = 0
    begins = True
    for match, following_match in zip_longest(matches, matches[1:]):
        raw = match.group()
        if match.start() < read_until:
            continue
        if match.lastgroup == "break":
            clause += 1
            begins = begins or raw not in ",;()，；、"
            continue
        index = len(found.keys)
        if begins:
            first.add(index)
        low = raw.lower().replace("’", "'")
        if low.endswith("'s"):
            low, raw = low[:-2], raw[:-2]
        elif len(raw) > 2 and raw[-1] == "s" and raw[:-1].isupper():
            low, raw = low[:-1], raw[:-1]
        month = words.months.get(low) if low != "may" or (raw == "May" and not begins) else None
        begins = False
        if match.lastgroup == "number" or raw in HAN_DIGITS or low in words.numbers:
            number, read_until = read_number(source, match.start(), raw, words)
            found.numbers[index] = number
            found.add(f"#{min(number.values):g}", number.text, clause, content=True)
        elif month is not None:
            found.numbers[index] = Number(raw, frozenset((float(month),)), month=True)
            found.add(f"month {month}", raw, clause, content=True)
        elif match.lastgroup != "word":
            found.add(low, raw, clause, content=True)
        else:
            following = following_match.group().lower() if following_match else ""
            answers = found.keys == [] and following == ","  # "No, …" answers the question
            negates = (low in words.negations or low.endswith("n't")) and following not in words.only and not answers
            modal = _modal_class("can" if low in ("cannot", "can't") else low, words)
            if negates:
                found.negations.append(index)
            if modal:
                found.modals[index] = modal
            content = not negates and not modal and (low not in STOP_WORDS or (len(raw) > 1 and raw.isupper()))
            found.add(low if negates or modal else stem(low), raw, clause, content=content)
    found.words = frozenset(found.keys)
    found.names = list(_names(found, first, words))
    return found


def _may_be_name(text: _Text, index: int) -> bool:
    raw = text.raw[index]
    return (
        text.content[index]
        and index not in text.numbers
        and (raw[0].isupper() or (raw[0].isalpha() and has_digit(raw)))
    )


def _names(text: _Text, first: Collection[int], words: FactWords) -> Iterator[_Name]:
    """Runs of capitalised words."""
    capitals = [index for index in range(len(text.keys)) if _may_be_name(text, index)]
    # In a title in capitals, or Latin words in Chinese text, capitals mean nothing.
    title = len(capitals) > 3 and 5 * len(capitals) > 4 * sum(text.content)
    run: list[int] = []
    for index in [*capitals, -1]:
        between = range(run[-1] + 1, index) if run else range(0)
        if run and (
            index < 0
            or text.clauses[index] != text.clauses[run[0]]
            or len(between) > 1
            or any(text.keys[other] not in _INNER for other in between)
        ):
            indexes = range(run[0], run[-1] + 1)
            inner = any(char.isupper() or char.isdigit() for other in run for char in text.raw[other][1:])
            certain = not title and (inner or (not words.capitalises_nouns and (len(run) > 1 or run[0] not in first)))
            yield _Name(indexes, frozenset(text.keys[other] for other in run), text.text_at(indexes), certain)
            run = []
        run.append(index)


class _Comparison:
    """A statement compared with its evidence."""

    def __init__(
        self, statement: str, evidence: Sequence[str], nearby: Sequence[str], context: Iterable[str], language: str
    ) -> None:
        self._language = language
        self._words = fact_words(language)
        self._opposites = _opposites(language)
        self._stated = _read(statement, language)
        self._evidence = [_read(text, language) for text in evidence]
        self._context = [_read(text, language) for text in context if text]
        self._passages = nearby
        content = [key for key, is_content in zip(self._stated.keys, self._stated.content, strict=True) if is_content]
        found = sum(any(key in text.words for text in self._evidence) for key in content)
        self._coverage = found / len(content) if content else 1.0

    def difference(self) -> Difference | None:
        by_fact = (self._numbers, self._names, self._polarity, self._modality, self._opposed_words, self._by_position)
        return next((found for compare in by_fact if (found := compare()) is not None), None)

    @cached_property
    def _nearby(self) -> list[_Text]:
        return [_read(text, self._language) for text in self._passages]

    def _numbers(self) -> Difference | None:
        found = [(text, index, number) for text in self._evidence for index, number in text.numbers.items()]
        for index, number in self._stated.numbers.items():
            if not number.counts:
                continue
            kind: FactKind = "date" if number.is_date else "number"
            after = self._stated.next_to(index, 1)
            same = [(text, other) for text, other, one in found if number.equals(one)]
            if same:
                # 15 losses, where the evidence has 24 losses and 15 wins.
                counted = after is not None and number.unit is None and self._stated.content[index + 1]
                if counted and not any(text.next_to(other, 1) == after for text, other in same):
                    instead = next((one for text, other, one in found if text.next_to(other, 1) == after), None)
                    if instead is not None:
                        return Difference(kind, f"{number.text} {self._stated.raw[index + 1]}", instead.text)
                continue
            if any(number.equals(one) for text in self._context for one in text.numbers.values()):
                continue
            undated = not any(one.is_date and one.month == number.month for _, _, one in found)
            if (
                number.is_date
                and undated
                and any(number.equals(one) for text in self._nearby for one in text.numbers.values())
            ):
                continue
            before = self._stated.next_to(index, -1)
            for text, other, one in found:
                if one.month == number.month and not one.values.isdisjoint(number.values):
                    return Difference("unit", self._counted(self._stated, index), self._counted(text, other))
                alike = (
                    number.unit is not None
                    or number.month
                    or after == text.next_to(other, 1)
                    or before == text.next_to(other, -1)
                )
                if one.month == number.month and one.unit == number.unit and alike:
                    return Difference(kind, self._counted(self._stated, index), self._counted(text, other))
            return Difference(kind, self._counted(self._stated, index), None)
        return None

    @staticmethod
    def _counted(text: _Text, index: int) -> str:
        """A number with its unit, as written."""
        unit = text.numbers[index].unit is not None and index + 1 < len(text.keys)
        return text.text_at(range(index, index + 1 + unit))

    def _names(self) -> Difference | None:
        ours = self._stated
        found = [(text, name) for text in self._evidence for name in text.names]
        for name in ours.names:
            left, right = ours.next_to(name.indexes[0], -1), ours.next_to(name.indexes[-1], 1)
            same = [(text, one) for text, one in found if _found_in(name.keys, one.keys)]
            absent = not same and not any(_found_in(name.keys, text.words) for text in self._evidence)
            if any(
                self._same_position(name, left, right, self._neighbours(text, one), absent=True) for text, one in same
            ):
                continue
            for text, one in found:
                if (
                    _found_in(name.keys, one.keys)
                    or (not same and one.keys & ours.words)
                    or self._listed(text, one, same)
                ):
                    continue
                known = name.certain or self._words.capitalises_nouns or one.certain or one.indexes[0] > 0
                if known and self._same_position(name, left, right, self._neighbours(text, one), absent=absent):
                    return Difference("name", name.text, one.text)
            # "C won", where the evidence is a byline of C, and the passage says that A won.
            if right is not None and not any(right in text.words for text in self._evidence):
                near = [(text, one) for text in self._nearby for one in text.names]
                winners = [one for text, one in near if text.next_to(one.indexes[-1], 1) == right]
                if winners and not any(_found_in(name.keys, one.keys) for one in winners):
                    return Difference("name", name.text, winners[0].text)
            if absent and name.certain and not self._mentioned(name):
                return Difference("name", name.text, None)
        return None

    @staticmethod
    def _neighbours(text: _Text, name: _Name) -> tuple[str | None, str | None]:
        return text.next_to(name.indexes[0], -1), text.next_to(name.indexes[-1], 1)

    def _same_position(
        self,
        name: _Name,
        left: str | None,
        right: str | None,
        neighbours: tuple[str | None, str | None],
        *,
        absent: bool,
    ) -> bool:
        """Whether a name of the evidence with these neighbours is in the position of `name` in the statement."""
        same_left, same_right = neighbours[0] == left, neighbours[1] == right
        if same_right and right is not None and self._stated.content[name.indexes[-1] + 1]:
            return True
        if same_left and left is not None and self._stated.content[name.indexes[0] - 1]:
            return True
        return absent and same_left and same_right and (left is not None or right is not None)

    def _listed(self, text: _Text, name: _Name, others: Iterable[tuple[_Text, _Name]]) -> bool:
        """Whether a name and one of the others are in the same list: "A and B"."""
        for owner, other in others:
            if owner is text and other is not name:
                one, two = sorted((name, other), key=lambda each: each.indexes[0])
                between = range(one.indexes[-1] + 1, two.indexes[0])
                if all(
                    text.raw[index].lower() in self._words.joining or _may_be_name(text, index) for index in between
                ):
                    return True
        return False

    def _mentioned(self, name: _Name) -> bool:
        """Whether a statement may use a name that is not in its evidence."""
        if any(_found_in(name.keys, text.words) for text in self._context):
            return True
        if any(_abbreviated(name, text) for text in (self._stated, *self._evidence)):
            return True
        if not any(_found_in(name.keys, text.words) for text in self._nearby):
            return False
        replaced = any(
            one.certain and not _found_in(one.keys, self._stated.words) for text in self._evidence for one in text.names
        )
        pronouns = {raw.lower() for text in self._evidence for raw in text.raw} & self._words.pronouns
        left_out = not pronouns <= {raw.lower() for raw in self._stated.raw}
        return self._coverage < _NEARLY_ALL or not replaced or left_out

    def _polarity(self) -> Difference | None:
        """A word that is negated in one text and affirmed in the other."""
        if not self._stated.negations and not any(text.negations for text in self._evidence):
            return None
        covered = set().union(*(text.negated() for text in self._evidence))
        words = set().union(*(text.words for text in self._evidence))
        for index in self._stated.negations:
            target = self._stated.negated_at(index)
            if target in words and target not in covered:
                return Difference("polarity", f"{self._stated.raw[index]} {target}", target)
        if (
            self._coverage >= _NEARLY_ALL
            and len(self._stated.negations) % 2
            and not any(text.negations or self._denies(text) for text in self._evidence)
        ):
            index = self._stated.negations[0]
            return Difference("polarity", self._stated.text_at(range(index, index + 2)), None)
        covered = self._stated.negated()
        for text in self._evidence:
            for index in text.negations:
                target = text.negated_at(index)
                if target is None or target not in self._stated.words or target in covered:
                    continue
                negated = sum(one.negated_at(other) == target for one in self._evidence for other in one.negations)
                if sum(key == target for one in self._evidence for key in one.keys) <= negated:
                    return Difference("polarity", target, f"{text.raw[index]} {target}")
        return None

    def _denies(self, text: _Text) -> bool:
        """Whether a text has an opposite of a word of the statement, or a word with a negating prefix."""
        return any(
            self._opposites.get(word, frozenset()) & self._stated.words
            or any(word.startswith(prefix) and len(word) > 5 for prefix in self._words.negating_prefixes)
            for word in text.words
        )

    def _modality(self) -> Difference | None:
        """A word with modal verbs of different classes, or with a "may" that the statement leaves out."""
        found: dict[str, set[str]] = {}
        for text in self._evidence:
            for word, classes in text.modal_words().items():
                found.setdefault(word, set()).update(classes)
        ours = self._stated.modal_words()
        for word, classes in ours.items():
            if word in found and _merge_may(classes).isdisjoint(_merge_may(found[word])):
                return Difference("modality", f"{min(classes)} {word}", f"{min(found[word])} {word}")
        said = {kind for text in self._evidence for kind in text.modals.values()}
        for index, kind in self._stated.modals.items():
            if self._coverage >= _NEARLY_ALL and kind in ("must", "should") and said and said <= {"may", "can"}:
                return Difference("modality", self._stated.text_at(range(index, index + 2)), min(said))
        for word, classes in found.items() if self._coverage >= _NEARLY_ALL else ():
            once = sum(key == word for text in self._evidence for key in text.keys) == 1
            if once and classes == {"may"} and word in self._stated.words and word not in ours:
                return Difference("modality", word, f"may {word}")
        return None

    def _opposed_words(self) -> Difference | None:
        """A word of the statement whose opposite is in the evidence, near the same words."""
        ours = self._stated
        covered = ours.negated()
        for index, word in enumerate(ours.keys):
            others = set(self._opposites.get(word, ()))
            if ours.content[index] and len(word) > 4:
                for prefix in self._words.negating_prefixes:
                    others |= {prefix + word, word.removeprefix(prefix)}
            if not others or any(word in text.words for text in self._evidence):
                continue
            for text in self._evidence:
                for other in others & text.words - ours.words:
                    at = text.keys.index(other)
                    near = _around(ours, index) & _around(text, at) - {word, other}
                    if near and (word in covered) == (other in text.negated()):
                        return Difference("opposite", ours.raw[index], text.raw[at])
        return None

    def _by_position(self) -> Difference | None:
        """Compares the pieces between equal pieces of the statement and its most similar evidence."""
        ours = self._stated
        if len(ours.keys) < 3:
            return None
        matcher: SequenceMatcher[str] = SequenceMatcher(None, autojunk=False)
        matcher.set_seq2(ours.keys)
        best, blocks, size = self._evidence[0], list[Match](), 0
        for text in self._evidence:
            matcher.set_seq1(text.keys)
            matching = matcher.get_matching_blocks()
            if (total := sum(block.size for block in matching)) > size:
                best, blocks, size = text, matching, total
        if size < _REPEATED * len(ours.keys):
            return None
        begin = other_begin = 0
        for block in blocks:
            last = block.size == 0
            if block.size == 1 and (not ours.content[block.b] or _CHAR.match(ours.keys[block.b])):
                continue
            piece, other = range(begin, block.b), range(other_begin, block.a)
            anchored = (begin > 0 or other_begin == 0) and (not last or block.a == len(best.keys))
            begin, other_begin = block.b + block.size, block.a + block.size
            if anchored and (piece or other):
                nearly = size >= _NEARLY_ALL * len(ours.keys)
                found = self._pieces(best, piece, other, nearly=nearly)
                if found is not None:
                    return found
        return None

    def _pieces(self, text: _Text, piece: range, other: range, *, nearly: bool) -> Difference | None:
        """The difference between two pieces in the same position: of the statement and of a sentence of the evidence.

        `nearly`: whether the rest of the statement repeats the sentence.
        """
        ours, words = self._stated, self._words
        sides = ((ours, piece), (text, other))
        split = any(index and one.clauses[index[0]] != one.clauses[index[-1]] for one, index in sides)
        if split or max(len(piece), len(other)) > _PIECE:
            return None  # a clause that was moved or left out
        stated, found = ours.text_at(piece), text.text_at(other)
        if self._language == "chinese":
            texts = [_NOT_NEGATING.sub("", shown) for shown in (stated, found)]
            small = max(map(len, texts)) <= 3
            negated = [any(word in shown for word in words.negations) for shown in texts]
            kinds = [_modal_class(shown, words) for shown in texts]
            # A piece may be half of a word.
            mine, theirs = (one.text_at(range(max(0, index.start - 1), index.stop + 1)) for one, index in sides)
            opposed = any(
                word in mine and word not in theirs and any(one in theirs for one in others)
                for word, others in self._opposites.items()
            )
            comparable = small or bool(piece and other)
        else:
            small = all(sum(one.content[index] for index in indexes) <= 1 for one, indexes in sides)
            small = small and (bool(piece and other) or len(piece) + len(other) <= 3)
            negated = [sum(index in indexes for index in one.negations) % 2 == 1 for one, indexes in sides]
            kinds = [
                next((one.modals[index] for index in indexes if index in one.modals), "") for one, indexes in sides
            ]
            opposed = any(self._are_opposite(ours.keys[index], text.keys[at]) for index in piece for at in other)
            # If much else differs, a negation may have moved instead of being added.
            even = len(ours.negations) % 2 == len(text.negations) % 2 and len(text.words - ours.words) > 2
            comparable = small and not even
        if negated[0] != negated[1]:
            if comparable and not opposed:
                return Difference("polarity", stated or ours.text_at(range(piece.stop, piece.stop + 2)), found or None)
        elif opposed:
            return Difference("opposite", stated, found)
        elif (
            small
            and _merge_may(kinds[:1]) != _merge_may(kinds[1:])
            and (all(kinds) or (kinds[0] in ("must", "should") and not other) or (kinds[1] == "may" and not piece))
        ):
            return Difference("modality", stated, found or None)
        if not piece or not other:
            return None
        numbers = [[one.numbers[index] for index in indexes if index in one.numbers] for one, indexes in sides]
        rest = [] if nearly else [one for one in self._evidence if one is not text]
        expected = [*numbers[1], *(number for one in rest for number in one.numbers.values())]
        if all(numbers) and not any(number.equals(one) for number in numbers[0] for one in expected):
            return Difference("date" if numbers[0][0].is_date else "number", stated, found)
        # 15 months, 15 years. A Chinese piece may be the first half of a unit.
        after = "".join(ours.raw[piece.stop : piece.stop + 1])
        units = [UNITS.get(shown.lower()) or UNITS.get(shown + after) for shown in (stated, found)]
        if all(units) and units[0] != units[1] and piece.start - 1 in ours.numbers:
            return Difference("unit", stated, found)
        names = self._renamed(text, piece, other, nearly=nearly)
        return Difference("name", stated, found) if names and not any(names & one.words for one in rest) else None

    def _are_opposite(self, one: str, other: str) -> bool:
        prefixed = any(one == prefix + other or other == prefix + one for prefix in self._words.negating_prefixes)
        return other in self._opposites.get(one, ()) or (prefixed and min(len(one), len(other)) > 3)

    def _renamed(self, text: _Text, piece: range, other: range, *, nearly: bool) -> set[str]:
        """Names in the statement's piece that differ from the names in the other piece."""
        ours = self._stated
        stated, found = ours.text_at(piece), text.text_at(other)
        if _UNCASED.search(stated) or _UNCASED.search(found):
            passage = " ".join(self._passages)
            named = _looks_foreign(stated) or _looks_foreign(found) or (len(stated) > 2 and stated in passage)
            swapped = ours.text_at(range(len(ours.raw))).count(found) and text.text_at(range(len(text.raw))).count(
                stated
            )
            return {stated} if (named or swapped) and stated.lower() != found.lower() else set()
        new, old = (
            {
                index
                for index in indexes
                if _may_be_name(one, index) or (index in one.numbers and one.numbers[index].month)
            }
            for one, indexes in ((ours, piece), (text, other))
        )
        for one, indexes, names in ((ours, piece, new), (text, other, old)):
            if sum(one.content[index] and index not in names and index not in one.numbers for index in indexes) > 1:
                return set()
        # A capital at the start means nothing: "Deleting it …", "Removing it …".
        if 0 in old:
            name = regex.compile(rf"(?<=[\p{{L}},] ){regex.escape(text.raw[0])}\b")
            if self._words.capitalises_nouns or not any(map(name.search, self._passages)):
                old.discard(0)
        if new == {0} and 0 not in old:
            return set()
        keys, gone = {ours.keys[index] for index in new}, {text.keys[index] for index in old}
        added = {key for key in keys if not any(_same_word(key, one) for one in gone)}
        if not added or all(any(_same_word(key, one) for one in keys) for key in gone):
            return set()
        if _initials(stated) == found or _initials(found) == stated:
            return set()
        known = (text, *self._context, *self._nearby)
        if not nearly and all(any(_found_in({key}, one.words) for one in known) for key in added):
            return set()
        return added


_NOT_NEGATING = regex.compile(
    "不过|不仅|不但|不同|不断|无论|非常|非洲|除非|未来|不久|特别|分别|区别|级别|类别|性别|个别|无线|南非|北非|别的"
)
"""Chinese words with a character that negates in others."""


def _merge_may(classes: Iterable[str]) -> set[str]:
    """Classes of modal verbs, with "may" counted as "can"."""
    return {"can" if name == "may" else name for name in classes}


def _around(text: _Text, index: int) -> set[str]:
    near = range(max(0, index - 4), min(len(text.keys), index + 5))
    return {text.keys[other] for other in near if text.clauses[other] == text.clauses[index]}


def _found_in(keys: Iterable[str], words: Collection[str]) -> bool:
    """Whether the words include one of the keys or an inflected form of it."""
    return any(key in words or (len(key) > 3 and any(_same_word(key, word) for word in words)) for key in keys)


def _same_word(one: str, other: str) -> bool:
    """Whether two words are equal or may be forms of one word."""
    if one == other or one[:4] != other[:4] or has_digit(one) or has_digit(other):
        return one == other
    longest = max(len(one), len(other))
    return one[: longest - 3] == other[: longest - 3] if longest > 7 else min(len(one), len(other)) >= 4 and longest < 8


def _looks_foreign(text: str) -> bool:
    return any(char.isalpha() and char < "\u0250" for char in text) or 3 * len(_TRANSCRIBING.findall(text)) >= 2 * len(
        text
    )


def _initials(text: str) -> str:
    return "".join(word[0] for word in text.split()).upper()


def _abbreviated(name: _Name, text: _Text) -> bool:
    """Whether a text has an abbreviation of a name, or the words that the name abbreviates."""
    capitals = "".join(raw[0] for raw in text.raw if raw[0].isupper())
    letters = "".join(raw if len(raw) == 1 and raw.isupper() else " " for raw in text.raw)
    long = _initials(name.text)
    if name.text.isupper() and len(name.text) > 1 and name.text in capitals:
        return True
    return len(long) > 1 and (long in text.raw or long in letters)
