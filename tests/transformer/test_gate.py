"""The gate of the mode `auto`: what of an LLM's text is shown while it is being written."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transformer.test_citations import CITER, QUESTION, SOURCES, assert_statements_cover
from text_analysis.sentences import sentence_spans
from transformer.checking import Checker
from transformer.gate import Gate, SentenceSplitter
from transformer.question import Question
from transformer.reader import Reader
from transformer.wire import Citations, GroundingParameters, SamplingParameters

SUPPORTED = "The warranty lasts three years."
ALSO_SUPPORTED = "Records are sent at 06:00 UTC each day."
UNSUPPORTED = "Bananas are yellow."


def released(text: str, *, size: int = 4, looping: bool = False, answer: str = "") -> tuple[list[str], Citations]:
    """The pieces that the gate releases, and its citations; the text comes `size` characters at a time.

    `answer`: the reader's quote.
    """
    gate = Gate(CITER, QUESTION, SOURCES, [answer] if answer else [])
    pieces = [gate.feed(text[begin : begin + size]) for begin in range(0, len(text), size)]
    pieces.append(gate.close(looping=looping))
    citations = gate.citations()
    assert "".join(pieces) == gate.text == citations.text
    assert_statements_cover(citations)
    return [piece for piece in pieces if piece], citations


def withheld(citations: Citations) -> list[tuple[str, str]]:
    return [(one.text, one.reason) for one in citations.withheld]


def test_only_supported_sentences_are_released_and_each_when_it_is_complete() -> None:
    pieces, citations = released(f"{SUPPORTED} {UNSUPPORTED} {ALSO_SUPPORTED}")
    assert pieces == [SUPPORTED, f" {ALSO_SUPPORTED}"]
    assert withheld(citations) == [(UNSUPPORTED, "unsupported")]
    assert citations.withheld[0].verdict == "unsupported"
    assert [statement.verdict for statement in citations.statements] == ["supported", "supported"]
    assert citations.kind == "model"


@pytest.mark.parametrize(
    ("text", "shown", "left_out"),
    [
        (f"Yes. {SUPPORTED}", f"Yes. {SUPPORTED}", []),
        (f"Yes. {UNSUPPORTED} {SUPPORTED}", SUPPORTED, [("Yes.", "no_claim"), (UNSUPPORTED, "unsupported")]),
        (
            f"These are the facts:\n\n- {UNSUPPORTED}\n- {SUPPORTED}",
            f"These are the facts:\n\n- {SUPPORTED}",
            [(f"- {UNSUPPORTED}", "unsupported")],
        ),
        (f"{SUPPORTED} Not that:", SUPPORTED, [("Not that:", "no_claim")]),
        (f"{SUPPORTED}\n\n{UNSUPPORTED}\n{ALSO_SUPPORTED}", f"{SUPPORTED}\n\n{ALSO_SUPPORTED}", None),
        (f"{SUPPORTED} {SUPPORTED} {ALSO_SUPPORTED}", f"{SUPPORTED} {ALSO_SUPPORTED}", [(SUPPORTED, "repetition")]),
        ("The warranty lasts three years. [2]", "The warranty lasts three years. [1]", []),
        (f"I don't know. {SUPPORTED}", SUPPORTED, [("I don't know.", "no_claim")]),
        (f"{SUPPORTED} The document does not say who pays.", SUPPORTED, None),
        ("", "", []),
        ("Yes.", "", [("Yes.", "no_claim")]),
        ("The warranty is long [1].", "", [("The warranty is long [1].", "no_claim")]),
    ],
)
def test_what_is_shown_and_what_is_withheld(text: str, shown: str, left_out: list[tuple[str, str]] | None) -> None:
    for size in (1, 3, 1000):
        _, citations = released(text, size=size)
        assert citations.text == shown
        if left_out is not None:
            assert withheld(citations) == left_out


def test_text_is_released_from_the_first_sentence_that_answers_on() -> None:
    pieces, citations = released(f"{ALSO_SUPPORTED} {SUPPORTED} {ALSO_SUPPORTED} It covers the pump.", answer=SUPPORTED)
    assert pieces == [f"{ALSO_SUPPORTED} {SUPPORTED}", " It covers the pump."]
    assert withheld(citations) == [(ALSO_SUPPORTED, "repetition")]
    pieces, citations = released(ALSO_SUPPORTED, answer=SUPPORTED)
    assert pieces == []
    assert [(one.text, one.verdict, one.reason) for one in citations.withheld] == [
        (ALSO_SUPPORTED, "supported", "no_claim")
    ]


def test_the_llm_must_say_what_the_best_quote_says() -> None:
    checker = Checker(CITER, Reader(CITER.aligner.passages), mode="label")
    question = Question(QUESTION, SamplingParameters(max_tokens=9), GroundingParameters())
    quotes = [one.quotes[0] for one in CITER.cite(f"{SUPPORTED} {ALSO_SUPPORTED}", QUESTION, SOURCES).statements]
    supports = ((1.0, 0.5, ""), (1.0, 0.95, ALSO_SUPPORTED))
    for best, other, shown in supports:
        ranked = [quote.model_copy(update={"support": s}) for quote, s in zip(quotes, (best, other), strict=True)]
        gate = checker.gate(question, SOURCES, ranked)
        gate.feed(ALSO_SUPPORTED)
        gate.close()
        assert gate.text == shown


def test_the_unfinished_end_of_a_loop_is_withheld() -> None:
    _, citations = released(f"{SUPPORTED} The pump the pump the pump", looping=True)
    assert citations.text == SUPPORTED
    assert withheld(citations) == [("The pump the pump the pump", "repetition")]


_MARKS = ("a", "A", "7", "。", "!", "? ", "”", ":", " ", "\n", "\n\n", "- ", "1. ", "[1]", " [2, 3]", "```\n", "| b |")
_PIECES = st.lists(
    st.sampled_from((SUPPORTED, UNSUPPORTED, "It ", "e.g. ", "Dr. ", *_MARKS)),
    max_size=14,
)


@settings(max_examples=200, deadline=None)
@given(parts=_PIECES, size=st.integers(1, 9))
def test_the_splitter_loses_nothing_and_cuts_where_the_whole_text_is_cut(parts: list[str], size: int) -> None:
    text = "".join(parts)
    splitter = SentenceSplitter()
    sentences = [s for begin in range(0, len(text), size) for s in splitter.feed(text[begin : begin + size])]
    assert "".join([*sentences, splitter.rest()]) == text
    if "```" not in text and "|" not in text:
        ends = {end for _, end in sentence_spans(text)}
        position = 0
        for sentence in sentences:
            position += len(sentence)
            assert position in ends, (sentences, splitter.rest())


@settings(max_examples=100, deadline=None)
@given(parts=_PIECES)
def test_what_is_released_is_supported(parts: list[str]) -> None:
    _, citations = released("".join(parts), size=5)
    assert {statement.verdict for statement in citations.statements} <= {"supported", "no_claim"}
    if citations.statements:
        assert any(statement.verdict == "supported" for statement in citations.statements)
