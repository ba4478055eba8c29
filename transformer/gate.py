"""Releases an answer sentence by sentence while the LLM writes it, if the sources support the sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from text_analysis.declining_words import declines
from text_analysis.sentences import sentence_spans
from transformer.citations import Citer, without_markers
from transformer.wire import Citations, Markers, Source, Statement, Verdict, Withheld
from vectorstore.wire import Span

_UNDECIDED = re.compile(r"\s*\S?\Z|\s*\[[^\]\n]{0,16}\Z")
"""Text after a sentence that may belong to it, such as the beginning of a source number."""


class SentenceSplitter:
    """Splits a growing text into sentences."""

    def __init__(self) -> None:
        self._text = ""
        """The text from the line in which the current sentence begins."""
        self._begin = 0
        """Offset of the current sentence in `_text`."""

    def feed(self, text: str) -> Iterator[str]:
        """The sentences that `text` completes, each with the white space after it."""
        self._text += text
        spans = [span for span in sentence_spans(self._text) if span[1] > self._begin]
        for _, end in spans[:-1]:
            if _UNDECIDED.match(self._text, end):
                break
            yield self._text[self._begin : end]
            self._begin = end
        line = self._text.rfind("\n", 0, self._begin) + 1
        self._text, self._begin = self._text[line:], self._begin - line

    def rest(self) -> str:
        """The text of the current sentence so far."""
        return self._text[self._begin :]


class Gate:
    """Releases the supported sentences of one answer, starting when one of them answers the question.

    `AnswerTest` decides whether a sentence answers. Other sentences wait and are released with the next one that
    answers: those that claim nothing, like "Yes." or a lead-in, and those that only repeat the question.
    """

    def __init__(self, citer: Citer, question: str, sources: Sequence[Source], answering: Sequence[str]) -> None:
        """A gate. `answering`: quotes that answer the question; if there are none, any supported sentence answers."""
        self.text = ""
        """The released text. It never ends with white space."""
        self.withheld: list[Withheld] = []
        self._citer = citer
        self._question = question
        self._sources = sources
        self._test = citer.aligner.answer_test(question, answering)
        self._splitter = SentenceSplitter()
        self._statements: list[Statement] = []
        self._markers = Markers()
        self._corrected = False
        self._waiting: list[Citations] = []
        """Sentences that wait for one that answers."""
        self._gap = ""
        """White space between the released text and the next sentence."""
        self._seen: set[str] = set()
        """Supported sentences, case-folded."""

    def feed(self, text: str) -> str:
        """Adds generated text. Returns the text to release."""
        return "".join([self._judge(sentence) for sentence in self._splitter.feed(text)])

    def close(self, *, looping: bool = False) -> str:
        """Ends the answer. Returns the text to release. `looping`: withhold the last sentence."""
        rest = self._splitter.rest()
        released = "" if looping else self._judge(rest)
        if looping:
            self._withhold(rest, "unsupported", "repetition")
        self._drop_waiting()
        return released

    def citations(self) -> Citations:
        """The check of the released text."""
        ends = [statement.span.start for statement in self._statements[1:]] + [len(self.text)]
        for statement, end in zip(self._statements, ends, strict=False):
            statement.span.end = end
        return Citations(
            text=self.text,
            kind="mended" if self._corrected else "model",
            statements=self._statements,
            markers=self._markers,
            withheld=self.withheld,
        )

    def _judge(self, sentence: str) -> str:
        checked = self._citer.cite(sentence, self._question, self._sources)
        verdicts = {statement.verdict for statement in checked.statements}
        if "unsupported" in verdicts:
            self._drop_waiting(keep_supported=True)
            self._withhold(sentence, "unsupported", "unsupported")
        elif declines(sentence):
            self._withhold(sentence, "no_claim", "no_claim")
        elif "supported" in verdicts and self._repeats(checked):
            self._withhold(sentence, "supported", "repetition")
        elif "supported" not in verdicts or not self._answers(sentence):
            self._waiting.append(checked)
        else:
            waiting, self._waiting = self._waiting, []
            return "".join([self._release(one) for one in [*waiting, checked]])
        return ""

    def _repeats(self, checked: Citations) -> bool:
        key = " ".join(checked.text.split()).casefold()
        repeats = key in self._seen
        self._seen.add(key)
        return repeats

    def _answers(self, sentence: str) -> bool:
        return self._test.answers(without_markers(sentence), any_word=bool(self.text))

    def _release(self, checked: Citations) -> str:
        sentence = checked.text.strip()
        if not sentence:
            return ""
        cut = checked.text.index(sentence)
        shown = (self._gap or checked.text[:cut]) + sentence if self.text else sentence
        begin = len(self.text) + len(shown) - len(sentence)
        for statement in checked.statements:
            start = begin + max(0, statement.span.start - cut)
            self._statements.append(statement.model_copy(update={"span": Span(start=start, end=start)}))
        if self._statements:
            self._statements[0].span.start = 0
        for name in Markers.model_fields:
            setattr(self._markers, name, getattr(self._markers, name) + getattr(checked.markers, name))
        self._corrected |= checked.kind == "mended"
        self.text += shown
        self._gap = checked.text[len(checked.text.rstrip()) :]
        return shown

    def _withhold(self, text: str, verdict: Verdict, reason: Literal["unsupported", "no_claim", "repetition"]) -> None:
        if text.strip():
            self.withheld.append(Withheld(text=text.strip(), verdict=verdict, reason=reason))
        after = text[len(text.rstrip()) :]
        if self.text and after.count("\n") > self._gap.count("\n"):
            self._gap = after

    def _drop_waiting(self, *, keep_supported: bool = False) -> None:
        """Withholds the waiting sentences. `keep_supported`: except supported ones and those that end with a colon."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            supported = any(statement.verdict == "supported" for statement in one.statements)
            if keep_supported and (supported or one.text.rstrip().endswith((":", "："))):
                self._waiting.append(one)
            else:
                self._withhold(one.text, "supported" if supported else "no_claim", "no_claim")
