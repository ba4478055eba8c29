"""Generates example questions that an index can answer, from its documents and without a model.

In order of preference: questions in headings, titles and lines of the documents; headings about doing something, and
headings with a term that the text below defines, both rephrased as questions. Headings that would not become natural
questions are skipped: no example is better than an odd one.
"""

from __future__ import annotations

import hashlib
import heapq
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import regex

from text_analysis.words import COMPOUND
from vectorstore.versions.content import Chunk, Document

MAX_EXAMPLES = 8
MAX_CHARS = 120

_POOL = 64
"""Number of candidates kept while documents are added. Some are dropped later, because they find other documents."""
_PER_DOCUMENT = 3

QuestionOrigin = Literal["asked", "line", "how", "term"]
"""A question in a heading; a question in a line; a heading about doing something; a heading with a defined term."""
_PREFERENCE: dict[QuestionOrigin, int] = {"asked": 0, "line": 1, "how": 1, "term": 2}

_ENGLISH = (
    "how what when where which who whom whose why can could do does did is are was were should will would may must has "
    "have"
)
_OTHERS = (
    "wie was wann wo welche welcher welches wer warum wieso kann können darf muss ist sind gibt "
    "comment que quel quelle quels quelles quand où qui pourquoi combien peut puis dois "
    "como cómo qué cuál cuáles cuándo dónde quién cuánto puedo qual quais quando onde quem posso "
    "come cosa dove quale chi perché quanto hoe wat wanneer waar welke waarom"
)
_OPENERS = frozenset(f"{_ENGLISH} {_OTHERS}".split())
"""First words of questions in languages with Latin letters. In other scripts, a question mark is enough."""
_POINTERS = re.compile(
    r"\b(its?|this|that|these|those|they|them|their|he|she|his|her|him|here|there|above|below|following|we|us|our|else|"
    r"next|so|something)\b",
    re.IGNORECASE,
)
"""Words that refer to the context, without which the question is unclear."""
_HOW_YOU = re.compile(r"(?:how|where|when) (?:do|can|should) you ", re.IGNORECASE)
_YOU = re.compile(r"\byou\b", re.IGNORECASE)
"""Unless `_HOW_YOU` matches, the question addresses a person, as in an interview."""
_ORDINAL = re.compile(r"^(?:q(?:uestion)?\s*\d*\s*[:.)]|faq\s*[:.)]|[-*•–]|\(?\d+(?:\.\d+)*[.):]?)\s+", re.IGNORECASE)
_MARKUP = re.compile(r"[*_`#]+(?=\S)|(?<=\S)[*_`#]+")
_FOREIGN = re.compile(r"[<>{}\[\]|\\=^~@]|https?:|www\.|&\w+;|\.\.\.|…")
"""Characters of code, markup and addresses."""
_WITHIN = re.compile(r"[?？؟!;]|[.:]\s| [–—-] ")
"""If it occurs within a text, that is more than one question."""
_LINE = re.compile(r"^[^\S\n]*(\S[^\n]{6,130}[?？؟])[^\S\n]*$", re.MULTILINE)

_HOW_TO = re.compile(r"how to (\S.*)", re.IGNORECASE)
_HOW_WORKS = re.compile(r"how (an? |the )?(\S.*) works", re.IGNORECASE)
_WHEN_TO = re.compile(r"(when|where) to (\S.*)", re.IGNORECASE)
_WHEN = re.compile(r"when ((?:an?|the) .*\b(?:is|are|does|do|has|have|cannot|fails?|stops?|goes)\b.*)", re.IGNORECASE)
_HAPPENS = re.compile(r"what happens (\S.*)", re.IGNORECASE)
_DO = re.compile(r"(\w+)( (?:up|back|out|in|off|on))? ((?:an?|the|your) \S.*)", re.IGNORECASE)
"""An article is required, because "Running costs" and "Test results" are not about doing something."""

_WORK = (
    "activate add adjust apply ask assemble attach back bring build calibrate cancel change charge check choose "
    "clean clear configure connect convert copy create customise customize delete deploy detect disable disconnect "
    "download edit enable enter exchange expand export extend find fit fix format generate get import improve "
    "increase insert install integrate load log make manage measure migrate modify monitor mount move obtain open "
    "operate optimise optimize order organise organize pair pay perform prepare prevent print process protect "
    "publish query read rebuild recover reduce register reinstall remove rename renew repair replace report request "
    "reset resolve restart restore retrieve return roll run save schedule search secure select send serve set share "
    "start stop store submit switch test track train transfer troubleshoot tune turn uninstall unlock update "
    "upgrade upload use validate verify view write"
)
_VERBS = frozenset(_WORK.split())
_SMALL = frozenset(("a", "an", "the", "and", "or", "of", "to", "in", "on", "at", "for", "with", "from", "by"))


@dataclass(frozen=True, slots=True)
class _Candidate:
    question: str
    source: str
    rows: range
    """Rows of its document."""


class Examples:
    """Collects candidates while a version is built. The result does not depend on the order of the documents."""

    def __init__(self) -> None:
        self._pool: list[tuple[tuple[int, int, bytes], int, _Candidate]] = []
        """A heap, worst first. Keys, all negated: rank among the document's questions, preference, random number."""
        self._count = 0

    def __len__(self) -> int:
        """Number of candidates."""
        return len(self._pool)

    def add(self, document: Document, chunks: Sequence[Chunk], first_row: int) -> None:
        """Collects the questions of a document.

        Args:
            document: a stored document.
            chunks: its chunks, in order.
            first_row: row of the first chunk.
        """
        if not chunks:
            return
        found: dict[str, QuestionOrigin] = {}
        for origin, question in _candidates(document, chunks):
            found.setdefault(question, origin)
            if len(found) >= 4 * _PER_DOCUMENT:
                break
        chance = hashlib.sha256(document.id.encode()).digest()[:8]
        chosen = sorted(found.items(), key=lambda item: _PREFERENCE[item[1]])[:_PER_DOCUMENT]
        for place, (question, origin) in enumerate(chosen):
            self._count += 1
            worth = (-place, -_PREFERENCE[origin], bytes(255 - byte for byte in chance))
            entry = (
                worth,
                -self._count,
                _Candidate(question, document.source, range(first_row, first_row + len(chunks))),
            )
            if len(self._pool) < _POOL:
                heapq.heappush(self._pool, entry)
            elif worth > self._pool[0][0]:
                heapq.heapreplace(self._pool, entry)

    def pick(self, best_rows: Callable[[str], Iterable[int]]) -> dict[str, str]:
        """At most `MAX_EXAMPLES` questions, from as many documents as possible, and the files of these documents.

        Args:
            best_rows: searches for a question and returns the best rows. Questions that do not find their own document
                are left out.
        """
        best_first = sorted(self._pool, reverse=True)
        times = Counter(_key(entry[2].question) for entry in best_first)
        picked: dict[str, str] = {}
        said: list[frozenset[str]] = []
        for *_, candidate in best_first:
            words = _key(candidate.question)
            # A question in several documents, such as "What is new?", is specific to none of them.
            if times[words] > 1 or any(_alike(words, other) for other in said):
                continue
            if not any(row in candidate.rows for row in best_rows(candidate.question)):
                continue
            picked[candidate.question] = candidate.source
            said.append(words)
            if len(picked) == MAX_EXAMPLES:
                break
        return picked


def _candidates(document: Document, chunks: Sequence[Chunk]) -> Iterator[tuple[QuestionOrigin, str]]:
    sections: dict[str, str] = {}
    for chunk in chunks:
        for heading in (document.title, *chunk.heading_path[-1:]):
            if heading and heading not in sections:
                sections[heading] = chunk.text
    for heading, text in sections.items():
        clean = _clean(heading)
        if clean is None:
            continue
        if not clean.endswith(("?", "？", "؟")):
            made = _rephrased(clean, text)
            if made is not None and len(made[1]) <= MAX_CHARS:
                yield made
        elif _is_question(clean):
            yield "asked", clean
    for line in _LINE.finditer(document.text):
        clean = _clean(line[1])
        if clean is not None and _is_question(clean):
            yield "line", clean


def _clean(text: str) -> str | None:
    """A heading without numbering and markup; None if it is not natural text."""
    if len(text) > 3 * MAX_CHARS:
        return None
    plain = " ".join(_MARKUP.sub("", text).split())
    while (stripped := _ORDINAL.sub("", plain)) != plain:
        plain = stripped
    if not 6 <= len(plain) <= MAX_CHARS or _FOREIGN.search(plain) or (plain.isupper() and plain.isascii()):
        return None
    # Direction marks and invisible characters can disguise text.
    if any(unicodedata.category(character)[0] == "C" for character in plain):
        return None
    return plain


def _is_question(text: str) -> bool:
    """Whether the text is a single question that is clear without context."""
    words = [word.lower() for word in COMPOUND.findall(text)]
    if _WITHIN.search(text, 0, len(text) - 1):
        return False
    if text[0] == "¿" or not any("LATIN" in unicodedata.name(character, "") for character in text):
        return True
    return (
        len(words) >= 4
        and re.split("['’]", words[0])[0] in _OPENERS
        and not text[0].islower()
        and _POINTERS.search(text) is None
        and (_YOU.search(text) is None or _HOW_YOU.match(text) is not None)
    )


def _rephrased(heading: str, text: str) -> tuple[QuestionOrigin, str] | None:
    """A question made from an English heading; None if there is no natural one."""
    if _POINTERS.search(heading) or _YOU.search(heading) or re.search(r"[:;!,()“”\"/]|\. |\.$", heading):
        return None
    said = set(COMPOUND.findall(text.replace(heading, " ")))
    if match := _HOW_TO.fullmatch(heading):
        return "how", f"How do I {_lowered(_mine(match[1]), said, first=True)}?"
    if match := _HOW_WORKS.fullmatch(heading):
        thing = _lowered(match[2], said, first=not match[1])
        return "how", f"How does {(match[1] or '').lower()}{thing} work?"
    if match := _WHEN_TO.fullmatch(heading):
        return "how", f"{match[1].capitalize()} should I {_lowered(_mine(match[2]), said, first=True)}?"
    if match := _WHEN.fullmatch(heading):
        return "how", f"What happens when {_lowered(match[1], said, first=True)}?"
    if match := _HAPPENS.fullmatch(heading):
        return "how", f"What happens {_lowered(match[1], said, first=True)}?"
    if (match := _DO.fullmatch(heading)) and (verb := _verb(match[1].lower())) is not None:
        return "how", f"How do I {verb}{match[2] or ''} {_lowered(_mine(match[3]), said)}?"
    return _defined(heading, text)


def _verb(word: str) -> str | None:
    """The verb of a heading such as "Install the sensor" or "Installing the sensor"."""
    forms = (word[:-3], word[:-3] + "e", word[:-4]) if word.endswith("ing") else (word,)
    return next((form for form in forms if form in _VERBS), None)


def _mine(text: str) -> str:
    return re.sub(r"\byour\b", "my", text, flags=re.IGNORECASE)


def _defined(heading: str, text: str) -> tuple[QuestionOrigin, str] | None:
    """A question for the meaning of a term, if a sentence below the heading begins with its definition."""
    term = re.sub(r"^(?:an?|the) ", "", heading.lower())
    lowered = text.lower()
    if term.count(" ") > 5 or not (f"{term} is " in lowered or f"{term} are " in lowered):
        return None
    sentence = rf"(?:^|[.\n] *)((?:an?|the) )?({re.escape(term)}) (is|are) (?:an?|the|one|any)\b"
    match = re.search(sentence, text, re.IGNORECASE)
    if match is None:
        return None
    shown = match[2]
    # Keep the capital letter of a name: a single word, or words that are also capitalised within a sentence.
    if (
        not match[1]
        and " " in shown
        and shown[1:].islower()
        and not re.search(rf"[^\W_] {re.escape(shown.split()[0])}\b", text)
    ):
        shown = shown[0].lower() + shown[1:]
    return "term", f"What {match[3].lower()} {(match[1] or '').lower()}{shown}?"


def _lowered(text: str, said: set[str], *, first: bool = False) -> str:
    """The heading's words in the case in which the text below it writes them within sentences."""

    def plain(match: regex.Match[str]) -> str:
        word = match[0]
        small = word[:1].lower() + word[1:]
        leads = first and match.start() == 0 and word[1:].islower()
        return small if leads or (small in said and word not in said) or small in _SMALL else word

    return COMPOUND.sub(plain, text)


def _key(question: str) -> frozenset[str]:
    return frozenset(word.lower() for word in COMPOUND.findall(question)) - _SMALL - _OPENERS - {"i", "my"}


def _alike(one: frozenset[str], other: frozenset[str]) -> bool:
    return len(one & other) > 0.7 * min(len(one), len(other))
