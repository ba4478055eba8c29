"""An answer checked against its sources: quotes for its sentences, markers put right, nothing that dangles."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from chassis.context import CallContext
from chassis.errors import ServiceError
from text_analysis.sentences import REFERENCE, sentence_spans
from transformer.alignment import Aligner, Evidence
from transformer.wire import CitationMode, Citations, DroppedQuote, Markers, Quote, Source, Statement
from vectorstore.client import VectorstoreClient
from vectorstore.wire import Span

DocumentKey = tuple[str, str, str]
"""Collection, version of the index, document."""

StoredText = Callable[[Source], str | None]
"""The text of a source's stored document; None where it cannot be read."""

_MARKER = re.compile(REFERENCE)
_NUMBERS = re.compile(r"\d+|[–-]")
_CODE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]*`", re.DOTALL)
_UNCLOSED = re.compile(r"\[[\[\d \t,;–-]*\Z")
"""What would become a marker with what follows one that is taken out."""
_LONGEST_RANGE = 20
_CLAUSE_WORDS = 3
"""Words from which a part of a sentence, before or after a marker, is looked at by itself."""
_KEPT_CHARS = 16_000_000
"""Text of stored documents that is kept: a version of the index never changes."""
_READ_WAIT_S = 2.0
"""Longest wait for stored documents once the answer is there; they are read while it is made."""


class StoredTexts:
    """Texts of stored documents, as the vectorstore has them. Keeps what it has read."""

    def __init__(self, vectorstore: VectorstoreClient) -> None:
        self._vectorstore = vectorstore
        self._kept: OrderedDict[DocumentKey, str] = OrderedDict()
        self._kept_chars = 0

    def begin(self, sources: Sequence[Source], ctx: CallContext) -> Reading:
        """Starts to read the documents of the sources. Close what is returned."""
        return Reading({key: self._get(key, ctx) for key in dict.fromkeys(map(_document_key, sources))})

    def _get(self, key: DocumentKey, ctx: CallContext) -> str | asyncio.Task[str | None]:
        text = self._kept.get(key)
        if text is None:
            return asyncio.ensure_future(self._read(key, ctx))
        self._kept.move_to_end(key)
        return text

    async def _read(self, key: DocumentKey, ctx: CallContext) -> str | None:
        collection, version, document_id = key
        try:
            stored = await self._vectorstore.document(document_id, ctx, version=version, collection=collection or None)
        except ServiceError:
            return None  # told as `unreadable` with every quote that it costs
        text = stored["text"]
        if not isinstance(text, str):
            return None
        if key not in self._kept:
            self._kept[key] = text
            self._kept_chars += len(text)
            while self._kept_chars > _KEPT_CHARS:
                self._kept_chars -= len(self._kept.popitem(last=False)[1])
        return text


class Reading:
    """Stored documents that are being read."""

    def __init__(self, texts: Mapping[DocumentKey, str | asyncio.Task[str | None]]) -> None:
        self._texts = texts
        self._tasks = [text for text in texts.values() if not isinstance(text, str)]

    async def finish(self) -> StoredText:
        """The documents that could be read in time."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_READ_WAIT_S)
        found: dict[DocumentKey, str | None] = {}
        for key, text in self._texts.items():
            if isinstance(text, str):
                found[key] = text
            else:
                found[key] = text.result() if text.done() else None
        return lambda source: found.get(_document_key(source))

    def close(self) -> None:
        """Ends what is still being read."""
        for task in self._tasks:
            task.cancel()


class Citer:
    """Checks answers. Holds nothing of a request."""

    def __init__(self, aligner: Aligner, *, quote_lead: str) -> None:
        """A checker.

        Args:
            aligner: finds evidence.
            quote_lead: stands before a quote that is given in place of an answer.
        """
        self._aligner = aligner
        self._quote_lead = quote_lead

    def cite(
        self, text: str, question: str, sources: Sequence[Source], stored: StoredText, mode: CitationMode = "label"
    ) -> Citations:
        """The answer, checked.

        Args:
            text: what the model wrote.
            question: what was asked.
            sources: what the model was shown.
            stored: the text of a source's stored document, None where it cannot be read.
            mode: `quote` gives a quote in place of an answer no sentence of which is supported.
        """
        check = _Check(sources, stored)
        sentences = _sentences(text)
        found = self._aligner.align(
            [sentence.bare() for sentence in sentences],
            question,
            check.passages,
            [check.ranks(sentence.numbers) for sentence in sentences],
        )
        statements: list[Statement] = []
        markers = Markers()
        written = ""
        for sentence, told in zip(sentences, found, strict=True):
            # What ends with a colon announces what the next ones tell.
            evidence = None if sentence.bare().rstrip().endswith((":", "：")) else told
            quotes = check.quotes(evidence or [])
            rewritten = sentence.rewritten([quote.number for quote in quotes], markers)
            if not rewritten:
                continue
            span = Span.construct_unchecked(start=len(written), end=len(written) + len(rewritten))
            written += rewritten
            statements.append(_statement(span, None if evidence is None else quotes))
        verdicts = {statement.verdict for statement in statements}
        if mode == "quote" and "supported" not in verdicts and ("unsupported" in verdicts or (text and not written)):
            nearest = self._aligner.closest(text, question, check.passages)
            quotes = check.quotes([nearest] if nearest is not None else [])
            if quotes:
                return self._quoted(quotes[0], check)
        kind: Literal["model", "mended"] = "model" if written == text else "mended"
        return Citations(text=written, kind=kind, statements=statements, markers=markers, dropped=check.dropped)

    def _quoted(self, quote: Quote, check: _Check) -> Citations:
        # Numbers in brackets that the document itself has would be read as numbers of sources.
        shown = " ".join(_MARKER.sub("", quote.text).split())
        text = f"{self._quote_lead}“{shown}” [{quote.number}]"
        statement = _statement(Span(start=0, end=len(text)), [quote])
        return Citations(text=text, kind="quote", statements=[statement], markers=Markers(), dropped=check.dropped)


class _Check:
    """The sources of one answer, and what became of quotes from them."""

    def __init__(self, sources: Sequence[Source], stored: StoredText) -> None:
        self._sources = sorted(sources, key=lambda source: (-source.score, source.number))
        self._stored = stored
        self.passages = [
            (source.text, " ".join(dict.fromkeys((source.title, *source.heading_path)))) for source in self._sources
        ]
        self.dropped: list[DroppedQuote] = []

    def ranks(self, numbers: Sequence[int]) -> list[int]:
        """Places of the sources with these numbers; of those that there are."""
        return [rank for rank, source in enumerate(self._sources) if source.number in numbers]

    def quotes(self, evidence: Sequence[Evidence]) -> list[Quote]:
        """Quotes of the spans that the stored documents do hold."""
        quotes = []
        for found in evidence:
            source = self._sources[found.passage]
            span = Span(start=source.span.start + found.start, end=source.span.start + found.end)
            text = source.text[found.start : found.end]
            stored = self._stored(source)
            if stored is not None and stored[span.start : span.end] == text:
                quotes.append(
                    Quote(
                        number=source.number,
                        document_id=source.document_id,
                        chunk_id=source.chunk_id,
                        index_version=source.index_version,
                        span=span,
                        text=text,
                        sha256=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
                        support=found.support,
                    )
                )
                continue
            dropped = DroppedQuote(
                number=source.number,
                document_id=source.document_id,
                reason="unreadable" if stored is None else "differs",
            )
            if dropped not in self.dropped:
                self.dropped.append(dropped)
        return quotes


@dataclass(frozen=True, slots=True)
class _Sentence:
    """A sentence of an answer and the markers in it."""

    text: str
    markers: list[tuple[int, int, list[int]]]
    """Start, end, and the numbers."""

    @property
    def numbers(self) -> list[int]:
        return [number for _, _, numbers in self.markers for number in numbers]

    def bare(self) -> str:
        """Without markers."""
        return self._with(lambda _: "")

    def rewritten(self, supporting: Sequence[int], counts: Markers) -> str:
        """With no number but those of sources that support it; what was done is added to `counts`."""
        put: set[int] = set()

        def marker(numbers: list[int]) -> str | None:
            right = [number for number in numbers if number in supporting]
            if len(right) == len(numbers):
                counts.kept += len(right)
                put.update(right)
                return None
            counts.kept += len(right)
            wrong = len(numbers) - len(right)
            # The best of the sources that the sentence does not name yet stands for what was wrong.
            better = [n for n in supporting if n not in self.numbers and n not in put][:1] if not right else []
            counts.mended += len(better)
            counts.dropped += wrong - len(better)
            put.update(right + better)
            return "".join(f"[{number}]" for number in dict.fromkeys(right + better))

        return self._with(marker)

    def _with(self, written: Callable[[list[int]], str | None]) -> str:
        """The sentence with each marker as `written` says; None leaves it as it is."""
        made, begin = "", 0
        for start, end, numbers in self.markers:
            made += self.text[begin:start]
            instead = written(numbers)
            if instead:
                made += instead
            elif instead is None:
                made += self.text[start:end]
            else:
                made = _UNCLOSED.sub("", made).rstrip(" \t")
                end += 0 if made else len(self.text[end:]) - len(self.text[end:].lstrip(" \t"))
            begin = end
        return made + self.text[begin:]


def _sentences(text: str) -> list[_Sentence]:
    """The sentences of an answer. What looks like a marker in code is none."""
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
            end = max(end, found[taken][1])  # a marker is never cut in two
            taken += 1
        inside = found[first:taken]
        # What stands before a marker in the midst of a sentence is a statement of its own.
        for cut in [*(after for _, after, _ in inside), end]:
            if cut == end or (_says_more(text[begin:cut]) and _says_more(text[cut:end])):
                markers = [(start - begin, stop - begin, numbers) for start, stop, numbers in inside if start >= begin]
                sentences.append(_Sentence(text[begin:cut], [marker for marker in markers if marker[0] < cut - begin]))
                begin = cut
    return sentences


def _says_more(text: str) -> bool:
    return len(_MARKER.sub("", text).split()) >= _CLAUSE_WORDS


def _numbers(marker: str) -> list[int]:
    """1, 2, 3 of `[1, 2-3]`."""
    numbers: list[int] = []
    parts = _NUMBERS.findall(marker)
    for place, part in enumerate(parts):
        if not part.isdigit():
            continue
        number = int(part)
        if place and not parts[place - 1].isdigit() and numbers and 0 < number - numbers[-1] <= _LONGEST_RANGE:
            numbers += range(numbers[-1] + 1, number)
        numbers.append(number)
    return numbers


def _statement(span: Span, quotes: list[Quote] | None) -> Statement:
    """`quotes` is None where the sentence claims nothing."""
    verdict: Literal["supported", "unsupported", "no_claim"] = "no_claim"
    if quotes is not None:
        verdict = "supported" if quotes else "unsupported"
    support = max((quote.support for quote in quotes or []), default=0.0)
    return Statement(span=span, verdict=verdict, support=support, quotes=quotes or [])


def _document_key(source: Source) -> DocumentKey:
    return source.collection, source.index_version, source.document_id
