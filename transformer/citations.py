"""Checks an answer against its sources: finds quotes, and corrects or removes source markers, like `[1]`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from text_analysis.declining_words import declines
from text_analysis.sentences import BULLET, NUMBERED, REFERENCE, sentence_spans, starts_line
from transformer.alignment import Aligner, Evidence
from transformer.facts import Difference, differing_fact
from transformer.wire import Citations, Markers, Quote, Source, Statement, Verdict, Withheld
from vectorstore.wire import Span

_MARKER = re.compile(REFERENCE)
_NUMBERS = re.compile(r"\d+|[–-]")
_CODE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]*`", re.DOTALL)
_UNCLOSED = re.compile(r"\[[\[\d \t,;–-]*\Z")
"""An open bracket that would form a marker with the text after a removed marker."""
_WRAP = re.compile(rf"(?<!\n)[ \t]*\n[ \t]*(?!\n|{BULLET}|{NUMBERED}|\||~~~)")
"""A line break inside a sentence."""
_SENTENCE_ENDS = tuple('.!?…。！？।؟"”’)»')
_LONGEST_RANGE = 20
"""Maximum number of sources in a range such as `[1-20]`."""
_CLAUSE_WORDS = 3
"""Minimum number of words of a clause before or after a marker that is checked separately."""


class Citer:
    """Checks answers. Holds no state of a request."""

    def __init__(self, aligner: Aligner) -> None:
        """A checker that finds evidence with `aligner`."""
        self.aligner = aligner

    def cite(self, text: str, question: str, sources: Sequence[Source]) -> Citations:
        """The check of an LLM's answer or of a sentence of it.

        Args:
            text: the answer.
            question: the user's question.
            sources: the passages in the prompt.
        """
        ranked = RankedSources(sources)
        sentences = _sentences(text)
        found = self.aligner.align(
            [sentence.bare() for sentence in sentences],
            question,
            ranked.passages,
            [ranked.ranks(sentence.numbers) for sentence in sentences],
        )
        statements: list[Statement] = []
        markers = Markers()
        written = ""
        for sentence, aligned in zip(sentences, found, strict=True):
            # A sentence that ends with a colon announces the next ones.
            bare = sentence.bare()
            evidence = None if bare.rstrip().endswith((":", "：")) or declines(bare) else aligned
            if evidence:
                evidence = self._agreeing(bare, evidence, question, ranked)
            quotes = ranked.quotes(evidence or [])
            rewritten = sentence.rewritten([quote.number for quote in quotes], markers)
            if not rewritten:
                continue
            span = Span.construct_unchecked(start=len(written), end=len(written) + len(rewritten))
            written += rewritten
            statements.append(_statement(span, None if evidence is None else quotes))
        kind: Literal["model", "mended"] = "model" if written == text else "mended"
        return Citations(text=written, kind=kind, statements=statements, markers=markers)

    def _agreeing(
        self, statement: str, evidence: list[Evidence], question: str, ranked: RankedSources
    ) -> list[Evidence]:
        """The evidence, with one more sentence of its passages if it lacks a fact; empty if a fact differs."""
        difference = ranked.difference(statement, evidence, question)
        if difference is None:
            return evidence
        if difference.found is None:
            support = min(found.support for found in evidence)
            for rank in dict.fromkeys(found.passage for found in evidence):
                text, heading = ranked.passages[rank]
                spans = self.aligner.passages.get(text, heading).spans
                for start, end in zip(spans[::2], spans[1::2], strict=True):
                    more = [*evidence, Evidence(rank, start, end, support)]
                    if difference.stated in text[start:end] and not ranked.difference(statement, more, question):
                        return more
        return []


class RankedSources:
    """The sources of one answer, best first."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sorted(sources, key=lambda source: (-source.score, source.number))
        self.passages = [
            (source.text, " ".join(dict.fromkeys((source.title, *source.heading_path)))) for source in self._sources
        ]
        """Text and headings of each source."""
        self.chunk_ids = [source.chunk_id for source in self._sources]

    def ranks(self, numbers: Sequence[int]) -> list[int]:
        """Ranks of the existing sources with these numbers."""
        return [rank for rank, source in enumerate(self._sources) if source.number in numbers]

    def difference(self, statement: str, evidence: Sequence[Evidence], question: str) -> Difference | None:
        """The fact of a statement that its evidence lacks, or None."""
        passages = [self.passages[found.passage] for found in evidence]
        return differing_fact(
            statement,
            [text[found.start : found.end] for found, (text, _) in zip(evidence, passages, strict=True)],
            nearby=[text for text, _ in dict.fromkeys(passages)],
            headings=" ".join(dict.fromkeys(heading for _, heading in passages)),
            question=question,
        )

    def quotes(self, evidence: Sequence[Evidence]) -> list[Quote]:
        """The quotes at the spans of the evidence."""
        quotes = []
        for found in evidence:
            source = self._sources[found.passage]
            text = source.text[found.start : found.end]
            quotes.append(
                Quote(
                    number=source.number,
                    document_id=source.document_id,
                    chunk_id=source.chunk_id,
                    index_version=source.index_version,
                    span=Span(start=source.span.start + found.start, end=source.span.start + found.end),
                    text=text,
                    sha256=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
                    support=found.support,
                )
            )
        return quotes


def quotation(quotes: Sequence[Quote], withheld: Sequence[Withheld] = ()) -> Citations:
    """An answer that consists of these quotes, in order.

    Each document starts a paragraph, in which sentences follow each other and other units are separate lines. Numbers
    in brackets are removed, because they would look like source markers.
    """
    text = ""
    statements: list[Statement] = []
    prose, document = False, ""
    for quote in quotes:
        shown = "".join(sentence.bare() for sentence in _sentences(quote.text)).strip()
        if "```" not in shown:
            shown = _WRAP.sub(" ", shown)
        follows = prose
        prose = "\n" not in shown and not starts_line(shown) and shown.endswith(_SENTENCE_ENDS)
        if text:
            if quote.document_id != document:
                text += "\n\n"
            else:
                text += " " if follows and prose else "\n"
            statements[-1].span.end = len(text)
        statements.append(_statement(Span(start=len(text), end=len(text) + len(shown)), [quote]))
        text += shown
        document = quote.document_id
    return Citations(text=text, kind="quote", statements=statements, markers=Markers(), withheld=list(withheld))


@dataclass(frozen=True, slots=True)
class _Sentence:
    """A sentence of an answer with its markers."""

    text: str
    markers: list[tuple[int, int, list[int]]]
    """Start, end and source numbers of each marker."""

    @property
    def numbers(self) -> list[int]:
        return [number for _, _, numbers in self.markers for number in numbers]

    def bare(self) -> str:
        """The sentence without its markers."""
        return self._with(lambda _: "")

    def rewritten(self, supporting: Sequence[int], counts: Markers) -> str:
        """The sentence with markers of supporting sources only. Counts the changes in `counts`."""
        written: set[int] = set()

        def marker(numbers: list[int]) -> str | None:
            right = [number for number in numbers if number in supporting]
            if len(right) == len(numbers):
                counts.kept += len(right)
                written.update(right)
                return None
            counts.kept += len(right)
            wrong = len(numbers) - len(right)
            # Replace wrong numbers with the best source that the sentence does not name yet.
            better = [n for n in supporting if n not in self.numbers and n not in written][:1] if not right else []
            counts.mended += len(better)
            counts.dropped += wrong - len(better)
            written.update(right + better)
            return "".join(f"[{number}]" for number in dict.fromkeys(right + better))

        return self._with(marker)

    def _with(self, replacement: Callable[[list[int]], str | None]) -> str:
        """The sentence with each marker replaced by `replacement(its numbers)`; None keeps the marker."""
        text, begin = "", 0
        for start, end, numbers in self.markers:
            text += self.text[begin:start]
            marker = replacement(numbers)
            if marker:
                text += marker
            elif marker is None:
                text += self.text[start:end]
            else:
                text = _UNCLOSED.sub("", text).rstrip(" \t")
                end += 0 if text else len(self.text[end:]) - len(self.text[end:].lstrip(" \t"))
            begin = end
        return text + self.text[begin:]


def _sentences(text: str) -> list[_Sentence]:
    """The sentences of an answer. Brackets in code are not markers."""
    code = [match.span() for match in _CODE.finditer(text)] if "`" in text or "~" in text else []
    code.append((len(text), len(text)))
    block = 0
    found: list[tuple[int, int, list[int]]] = []
    for match in _MARKER.finditer(text):
        while code[block][1] <= match.start():
            block += 1
        if match.start() < code[block][0] and text[match.end() : match.end() + 1] != "(":
            found.append((*match.span(), _numbers(match.group())))
    sentences: list[_Sentence] = []
    begin = taken = 0
    for _, end in sentence_spans(text):
        if end <= begin:
            continue
        first = taken
        while taken < len(found) and found[taken][0] < end:
            end = max(end, found[taken][1])  # never split a marker
            taken += 1
        inside = found[first:taken]
        # A clause before a marker in the middle of a sentence is a separate statement.
        for cut in [*(after for _, after, _ in inside), end]:
            if cut == end or (_is_clause(text[begin:cut]) and _is_clause(text[cut:end])):
                markers = [(start - begin, stop - begin, numbers) for start, stop, numbers in inside if start >= begin]
                sentences.append(_Sentence(text[begin:cut], [marker for marker in markers if marker[0] < cut - begin]))
                begin = cut
    return sentences


def _is_clause(text: str) -> bool:
    return len(without_markers(text).split()) >= _CLAUSE_WORDS


def without_markers(text: str) -> str:
    """The text without source markers."""
    return _MARKER.sub("", text)


def _numbers(marker: str) -> list[int]:
    """`[1, 2-3]` → 1, 2, 3."""
    numbers: list[int] = []
    parts = _NUMBERS.findall(marker)
    for index, part in enumerate(parts):
        if not part.isdigit():
            continue
        number = int(part)
        if index and not parts[index - 1].isdigit() and numbers and 0 < number - numbers[-1] <= _LONGEST_RANGE:
            numbers += range(numbers[-1] + 1, number)
        numbers.append(number)
    return numbers


def _statement(span: Span, quotes: list[Quote] | None) -> Statement:
    """A checked sentence. `quotes`: None if it claims nothing."""
    verdict: Verdict = "no_claim"
    if quotes is not None:
        verdict = "supported" if quotes else "unsupported"
    support = max((quote.support for quote in quotes or []), default=0.0)
    return Statement(span=span, verdict=verdict, support=support, quotes=quotes or [])
