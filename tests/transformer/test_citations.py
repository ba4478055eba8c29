"""Citations: the quotes of each sentence; no quote and no marker ever dangles."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer.alignment import Aligner, Evidence
from transformer.citations import Citer, RankedSources, quotation
from transformer.wire import Citations, Source
from vectorstore.wire import Span

WARRANTY = "The warranty lasts three years. It covers the pump. It does not cover the battery."
RECORDS = "Calibrate the pump every week. Records are sent at 06:00 UTC each day, to 412 stations."
FRANCE = "Normandy is a region. The Normans gave their name to Normandy, a region in France. France is large."
QUESTION = "How long is the warranty?"

CITER = Citer(Aligner())


def source(text: str, number: int = 1, *, before: str = "Preface. ", score: float = 0.5, title: str = "") -> Source:
    return Source(
        text=text,
        number=number,
        score=score,
        chunk_id=f"c{number}",
        document_id=f"d{number}",
        title=title,
        span=Span(start=len(before), end=len(before) + len(text)),
        index_version="v",
        similarity=0.5,
        lexical_score=1,
        support=1,
    )


def stored(source: Source) -> str:
    """A document that holds the source where it says."""
    return "Preface. "[: source.span.start].ljust(source.span.start, "#") + source.text + " The end."


SOURCES = [source(WARRANTY, 1, score=0.9), source(RECORDS, 2, score=0.4)]


def cite(answer: str, question: str = QUESTION, sources: list[Source] = SOURCES) -> Citations:
    return CITER.cite(answer, question, sources)


def assert_statements_cover(citations: Citations) -> None:
    ends = [statement.span.end for statement in citations.statements]
    assert [statement.span.start for statement in citations.statements] == [0, *ends][: len(ends)]
    assert (ends or [0])[-1] == len(citations.text)


def quoted(citations: Citations) -> list[list[str]]:
    return [[quote.text for quote in statement.quotes] for statement in citations.statements]


def verdicts(citations: Citations) -> list[str]:
    return [statement.verdict for statement in citations.statements]


def test_an_answer_that_a_source_has_word_for_word_is_supported_although_a_negation_is_near() -> None:
    tapestry = source("The Bayeux Tapestry is not a tapestry but a work of embroidery. It is long.")
    asked = "What kind of needlework was used in the creation of the Bayeux Tapestry?"
    assert verdicts(cite("embroidery", asked, [tapestry])) == ["supported"]


def test_each_sentence_has_the_quote_that_says_so() -> None:
    citations = cite("The warranty is three years long. Every day at 06:00 UTC, records are sent. Bananas are yellow.")
    assert quoted(citations) == [
        ["The warranty lasts three years."],
        ["Records are sent at 06:00 UTC each day, to 412 stations."],
        [],
    ]
    assert verdicts(citations) == ["supported", "supported", "unsupported"]
    quote = citations.statements[1].quotes[0]
    assert (quote.number, quote.document_id, quote.chunk_id, quote.index_version) == (2, "d2", "c2", "v")
    assert stored(SOURCES[1])[quote.span.start : quote.span.end] == quote.text
    assert quote.sha256 == hashlib.sha256(quote.text.encode()).hexdigest()
    assert 0.4 <= quote.support <= 1
    assert (citations.kind, citations.dropped) == ("model", [])


def test_one_word_is_found_where_the_question_is_answered() -> None:
    (statement,) = cite("France", "In what country is Normandy?", [source(FRANCE)]).statements
    assert [quote.text for quote in statement.quotes] == [
        "The Normans gave their name to Normandy, a region in France."
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        "The warranty lasts ten years.",
        "Records are sent at 06:00 UTC to 500 stations.",
        "It covers the battery.",
        "Oslo",
    ],
)
def test_other_numbers_names_and_negations_are_unsupported(wrong: str) -> None:
    assert verdicts(cite(wrong)) == ["unsupported"]


def test_a_statement_of_several_sentences_has_several_quotes() -> None:
    (statement,) = cite("The warranty lasts three years and it covers the pump.").statements
    assert [quote.text for quote in statement.quotes] == ["The warranty lasts three years.", "It covers the pump."]


def test_statements_without_a_claim_are_labelled() -> None:
    citations = cite("Yes. It is so:\nThe documents do not say whether the warranty covers the battery.")
    assert verdicts(citations) == ["no_claim"] * 3


def test_a_statement_needs_support_for_its_words_beyond_the_question() -> None:
    sources = [source("Citations of an answer are checked against the sources.")]
    question = "How are the citations of an answer checked?"
    assert verdicts(cite("The citations of an answer are checked nightly.", question, sources)) == ["unsupported"]
    assert verdicts(cite("The citations of an answer are checked against the sources.", question, sources)) == [
        "supported"
    ]


@pytest.mark.parametrize(
    ("answer", "checked", "kept", "mended", "dropped"),
    [
        ("The warranty lasts three years [1].", "The warranty lasts three years [1].", 1, 0, 0),
        ("The warranty lasts three years [2].", "The warranty lasts three years [1].", 0, 1, 0),
        ("The warranty lasts three years [1, 2].", "The warranty lasts three years [1].", 1, 0, 1),
        ("The warranty lasts three years. [[7]] It covers the pump.[1]", None, 1, 1, 0),
        ("Bananas are yellow [1].", "Bananas are yellow.", 0, 0, 1),
        ("Records are sent at 06:00 UTC [1] and the pump is covered [2].", None, 0, 2, 0),
        ("[9] The warranty lasts three years.", "[1] The warranty lasts three years.", 0, 1, 0),
        ("Set `a[7]` and ```b[8]``` as [in](x) [9](y).", "Set `a[7]` and ```b[8]``` as [in](x) [9](y).", 0, 0, 0),
    ],
)
def test_markers_are_kept_mended_or_dropped(
    answer: str, checked: str | None, kept: int, mended: int, dropped: int
) -> None:
    citations = cite(answer)
    if checked is not None:
        assert citations.text == checked
    assert (citations.markers.kept, citations.markers.mended, citations.markers.dropped) == (kept, mended, dropped)
    assert citations.kind == ("model" if citations.text == answer else "mended")


def test_a_marker_of_a_source_that_says_the_same_is_kept() -> None:
    twice = [source(WARRANTY, 1, score=0.9), source(WARRANTY, 2, score=0.4)]
    citations = cite("The warranty lasts three years [2].", sources=twice)
    assert citations.text == "The warranty lasts three years [2]."
    assert {quote.number for quote in citations.statements[0].quotes} == {1, 2}


def test_quotes_as_an_answer_join_sentences_and_keep_list_items_apart() -> None:
    text = "The warranty[3] lasts\nthree years [12]. It covers:\n\n- the pump\n- the valve\n\nNothing else is covered."
    units = ["The warranty[3] lasts\nthree years [12].", "- the pump", "- the valve", "Nothing else is covered."]
    spans = [(text.index(unit), text.index(unit) + len(unit)) for unit in units]
    quotes = RankedSources([source(text)]).quotes([Evidence(0, start, end, 0.9) for start, end in spans])
    citations = quotation(quotes)
    assert citations.text == "The warranty lasts three years.\n- the pump\n- the valve\nNothing else is covered."
    assert citations.kind == "quote"
    assert quoted(citations) == [[unit] for unit in units]
    assert verdicts(citations) == ["supported"] * 4
    assert_statements_cover(citations)


def test_quotes_of_each_document_start_a_paragraph() -> None:
    texts = "The pump costs 12 euros.", "The pump weighs 2 kg."
    sources = RankedSources([source(text, number) for number, text in enumerate(texts, 1)])
    citations = quotation(sources.quotes([Evidence(at, 0, len(text), 0.9) for at, text in enumerate(texts)]))
    assert citations.text == "\n\n".join(texts)
    assert_statements_cover(citations)


_PIECES = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="`~"), max_size=25),
    st.sampled_from(
        [
            "The warranty lasts three years. ",
            "It covers the pump",
            "ten",
            "not",
            "\n\n- ",
            "1. ",
            "。",
            " 06:00",
            "[",
            "]",
        ]
    ),
    st.integers(0, 12).map(lambda number: f"[{number}]"),
    st.sampled_from(["[1, 2]", "[1-3]", "[[2]]", "[1,", "3]", "[٢]"]),
)
_TEXTS = st.lists(_PIECES, max_size=12).map("".join)
_MARKER = re.compile(r"\[(\d{1,3}(?:[ \t]*[,;–-][ \t]*\d{1,3})*)\](?!\])(?!\()")


@settings(max_examples=300, deadline=None)
@given(
    answer=_TEXTS,
    question=_TEXTS,
    documents=st.lists(st.tuples(st.text(max_size=9), _TEXTS, st.text(max_size=9)), max_size=3),
)
def test_nothing_dangles(answer: str, question: str, documents: list[tuple[str, str, str]]) -> None:
    texts = {f"d{n}": before + text + after for n, (before, text, after) in enumerate(documents, 1)}
    sources = [
        source(text, n, before=before, score=1 / n, title=after) for n, (before, text, after) in enumerate(documents, 1)
    ]
    citations = CITER.cite(answer, question, sources)
    assert_statements_cover(citations)
    for statement in citations.statements:
        numbers = {quote.number for quote in statement.quotes}
        for quote in statement.quotes:
            assert texts[quote.document_id][quote.span.start : quote.span.end] == quote.text
            assert quote.text
            assert quote.sha256 == hashlib.sha256(quote.text.encode()).hexdigest()
            assert 0 <= quote.support <= 1
        text = citations.text[statement.span.start : statement.span.end]
        for marker in _MARKER.findall(text):
            assert {int(number) for number in re.findall(r"\d+", marker)} <= numbers
        assert (statement.verdict == "supported") == bool(statement.quotes)
    assert citations == Citer(Aligner()).cite(answer, question, sources)
    assert (citations.kind == "model") == (citations.text == answer)
