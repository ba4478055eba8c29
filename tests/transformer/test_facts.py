"""Facts: a paraphrase agrees with its evidence; one changed number, name, negation or modal verb does not."""

from __future__ import annotations

import pytest

from transformer.alignment import Aligner
from transformer.citations import Citer
from transformer.facts import differing_fact
from transformer.wire import Source
from vectorstore.wire import Span

MATCH = "On 3 May 2019 the Falcons won against the Ravens by 21 points before 40,500 people in Denver."
PUMP = "The warranty of the Kessler pump lasts 15 months and does not cover the battery."
VERSION = "An index version is immutable, and you may pin it."
SPIEL = "Im Mai 2019 gewann Bayern gegen Dortmund vor 40.500 Zuschauern, und das Dach war nicht geschlossen."
BISAI = "2019年5月，黑豹队在丹佛以21分击败了野马队，门票不可以退。"


@pytest.mark.parametrize(
    ("evidence", "statement"),
    [
        (MATCH, MATCH),
        (MATCH, "The Falcons won against the Ravens by 21 points."),
        (MATCH, "In Denver, before 40500 people, the Falcons won against the Ravens on May 3, 2019."),
        (MATCH, "the falcons won against the ravens by twenty-one points"),
        (MATCH, "The Ravens were beaten by the Falcons in Denver."),
        (MATCH, "3. The Falcons won against the Ravens."),
        (PUMP, "The warranty lasts fifteen months."),
        (PUMP, "The Kessler pump's warranty lasts 1.25 years."),
        (PUMP, "The battery isn't covered by the warranty."),
        (VERSION, "You can pin an index version, which cannot be changed."),
        (SPIEL, "Bayern gewann gegen Dortmund vor 40500 Zuschauern."),
        (SPIEL, "Das Dach war nicht geschlossen, als Bayern im Mai 2019 gegen Dortmund gewann."),
        (BISAI, "黑豹队以二十一分击败了野马队。"),
        (BISAI, "门票不可以退。"),
        ("Гарантия длится 15 месяцев и не покрывает батарею.", "Гарантия длится пятнадцать месяцев."),
        ("वारंटी 12 महीने की है।", "वारंटी बारह महीने की है।"),
        ("يدوم الضمان 15 شهرا ولا يشمل البطارية.", "يدوم الضمان 15 شهرا."),
    ],
)
def test_a_paraphrase_agrees(evidence: str, statement: str) -> None:
    assert differing_fact(statement, [evidence], nearby=[evidence]) is None


@pytest.mark.parametrize(
    ("evidence", "statement", "kind", "found"),
    [
        (MATCH, "The Falcons won against the Ravens by 23 points.", "number", "21 points"),
        (MATCH, "The Falcons won against the Ravens before 45,000 people.", "number", "40,500"),
        (MATCH, "On 3 June 2019 the Falcons won.", "date", "May"),
        (MATCH, "On 3 May 2018 the Falcons won against the Ravens.", "date", "2019"),
        (MATCH, "The Falcons won against the Bears by 21 points.", "name", "Ravens"),
        (MATCH, "The Ravens won against the Falcons.", "name", "Falcons"),
        (MATCH, "The Ravens won.", "name", "Falcons"),
        (PUMP, "The warranty of the Kessler pump lasts 12 months.", "number", "15 months"),
        (PUMP, "The warranty lasts 15 years.", "unit", "15 months"),
        (PUMP, "The warranty of the Kessler pump covers the battery.", "polarity", None),
        (PUMP, "The warranty does not last 15 months.", "polarity", None),
        (VERSION, "An index version can be changed.", "opposite", "immutable"),
        (VERSION, "You must pin an index version.", "modality", None),
        (SPIEL, "Dortmund gewann gegen Bayern.", "name", None),
        (SPIEL, "Im Juni 2019 gewann Bayern gegen Dortmund.", "date", "Mai"),
        (SPIEL, "Bayern gewann vor 45.000 Zuschauern.", "number", "40.500"),
        (SPIEL, "Das Dach war geschlossen.", "polarity", None),
        (BISAI, "2019年5月，黑豹队在丹佛以24分击败了野马队。", "number", "21"),
        (BISAI, "2019年5月，野马队在丹佛以21分击败了黑豹队。", "name", None),
        (BISAI, "黑豹队以21分输给了野马队。", "opposite", None),
        (BISAI, "门票可以退。", "polarity", None),
        ("Гарантия длится 15 месяцев и не покрывает батарею.", "Гарантия длится 12 месяцев.", "number", "15 месяцев"),
        ("Гарантия не покрывает батарею.", "Гарантия покрывает батарею.", "polarity", None),
        ("वारंटी 12 महीने की है।", "वारंटी 15 महीने की है।", "number", "12 महीने"),
        ("يدوم الضمان 15 شهرا.", "يدوم الضمان 12 شهرا.", "number", "15"),
    ],
)
def test_a_changed_fact_differs(evidence: str, statement: str, kind: str, found: str | None) -> None:
    difference = differing_fact(statement, [evidence], nearby=[evidence])
    assert difference is not None
    assert difference.kind == kind
    if found is not None:
        assert difference.found == found


def test_a_fact_may_stand_in_any_evidence_the_headings_or_the_question() -> None:
    evidence = ["The pump costs 90 euros.", "It was built in Oslo."]
    assert differing_fact("The pump, built in Oslo, costs 90 euros.", evidence) is None
    assert differing_fact("The Kessler pump costs 90 euros.", evidence, headings="Kessler") is None
    assert differing_fact("In 2024 the pump costs 90 euros.", evidence, question="What does it cost in 2024?") is None
    assert differing_fact("The Kessler pump costs 90 euros.", evidence) is not None


def verdicts(text: str, answer: str, question: str = "Who won?") -> list[str]:
    source = Source(
        text=text, number=1, score=1, chunk_id="c", document_id="d", title="", span=Span(start=0, end=len(text)),
        index_version="v", similarity=0.5, lexical_score=1, support=1,
    )  # fmt: skip
    return [statement.verdict for statement in Citer(Aligner()).cite(answer, question, [source]).statements]


@pytest.mark.parametrize("winner", ["Ravens", "Reporter Lee Chandler", "Bears"])
def test_the_loser_the_author_and_a_stranger_did_not_win(winner: str) -> None:
    report = f"Sport, by Lee Chandler.\n\n{MATCH} The Falcons now lead the league."
    assert verdicts(report, "The Falcons won.") == ["supported"]
    assert verdicts(report, f"The {winner} won.") != ["supported"]


def test_a_heading_supports_nothing() -> None:
    text = "## Delete a document\n\nRun `kserve-rag ingest` with the paths that are left."
    assert verdicts(text, "Delete a document.", "How do I delete a document?") == ["unsupported"]


def test_a_fact_in_another_sentence_adds_its_quote() -> None:
    assert verdicts(
        "The stadium in Oslo was opened by the king. It holds 9,000 people.", "The stadium in Oslo holds 9,000 people."
    ) == ["supported"]
