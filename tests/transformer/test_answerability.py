"""Signals for and against an answer, and the topics of a refusal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.passages import passage
from text_analysis.question_words import asking
from transformer.answerability import DEFAULT_MODEL, DEFAULT_THRESHOLD, PASSAGES, SIGNALS, Model, score
from transformer.refusal import topics

BRIDGE = "The Harbour Bridge was opened in 1932 by Jack Lang. It carries eight lanes of traffic and two railway lines."


def value(question: str, *texts: str) -> float:
    return score(question, [passage(text) for text in texts]).score


@pytest.mark.parametrize(
    ("answered", "near_miss"),
    [
        ("When was the Harbour Bridge opened?", "When was the Harbour Bridge closed?"),
        ("Who opened the Harbour Bridge?", "Who did not open the Harbour Bridge?"),
        ("When was the Harbour Bridge opened?", "When was the Tower Bridge opened?"),
        ("Who opened the bridge in 1932?", "Who opened the bridge in 1945?"),
        ("How many lanes of traffic does it carry?", "How many lanes of parked aircraft does it lack?"),
    ],
)
def test_a_near_miss_scores_below_the_question_that_is_answered(answered: str, near_miss: str) -> None:
    assert value(answered, BRIDGE) > value(near_miss, BRIDGE)


def test_an_answered_question_passes_and_one_off_the_topic_does_not() -> None:
    assert value("When was the Harbour Bridge opened?", BRIDGE) > DEFAULT_THRESHOLD
    far = passage(BRIDGE, support=0.12, similarity=0.1)
    assert score("Which yeast ferments lager at low temperatures?", [far]).score < DEFAULT_THRESHOLD


def test_a_date_that_is_asked_for_must_be_there() -> None:
    when = "When was the bridge opened?"
    assert score(when, [passage("The bridge was opened by Lang")]).signals["no_candidate"] == 1
    assert score(when, [passage("The bridge was opened in 1932")]).signals["no_candidate"] == 0


def test_inflected_words_are_found() -> None:
    assert (
        score("Which sensors transmit hourly?", [passage("A sensor is transmitting hourly")]).signals["coverage"] == 1
    )


def test_headings_count_as_part_of_their_passages() -> None:
    question = "What is the range of the Skylark antenna?"
    bare, headed = passage("The range is 40 km"), passage("The range is 40 km", heading_path=("Antenna", "Skylark"))
    assert score(question, [headed]).score > score(question, [bare]).score


@pytest.mark.parametrize(
    "text",
    [
        "Tell me of the Zambezi.\n{}",
        "{}\nAnswer in one short sentence, and name the page.",
        "I prepare a talk for the council of Zambezi. {} Please leave out bullet points.",
    ],
)
def test_instructions_and_background_do_not_count_as_missing(text: str) -> None:
    asked = "When was the bridge opened?"
    assert score(text.format(asked), [passage(BRIDGE)]).score >= score(asked, [passage(BRIDGE)]).score


def test_the_sentences_that_ask() -> None:
    assert asking("When was it opened?") == []
    assert asking("I am in a hurry. When was it opened? Be brief.") == ["When was it opened?"]
    assert asking("Say when it was opened. Be brief.") == ["Say when it was opened."]
    assert asking("我很急。桥什么时候开放？请简短回答。") == ["桥什么时候开放？"]


@pytest.mark.parametrize("texts", [[], [""], [" \n\n \t"]])
def test_nothing_found_scores_0(texts: list[str]) -> None:
    found = score("When?", [passage(text) for text in texts])
    assert found.score == 0
    assert found.signals == {}
    assert found.passage is None


def test_passages_beyond_the_first_few_change_nothing() -> None:
    few = [passage(f"Lane {number} is closed.") for number in range(PASSAGES)]
    assert score("When was it opened?", [*few, passage(BRIDGE)]) == score("When was it opened?", few)


WORDS = st.lists(
    st.sampled_from(["bridge", "opened", "harbour", "lane", "lanes", "1932", "Lang", "never", "closed", "railway"]),
    max_size=8,
)


@settings(deadline=None)
@given(WORDS, WORDS, st.floats(-1, 1.5), st.floats(0, 1))
def test_more_evidence_never_lowers_the_score(asked: list[str], said: list[str], support: float, more: float) -> None:
    question, text = " ".join(asked), " ".join(said)
    before = score(question, [passage(f"It is {text}", support=support, similarity=support / 2)]).score
    said_more = score(question, [passage(f"It is {text} {question}", support=support, similarity=support / 2)])
    assert said_more.score >= before
    nearer = score(question, [passage(f"It is {text}", support=support + more, similarity=(support + more) / 2)])
    assert nearer.score >= before


@settings(deadline=None)
@given(st.text(max_size=200), st.lists(st.text(max_size=400), max_size=5), st.floats(), st.floats())
def test_any_text_and_number_gives_a_score_and_the_same_again(
    question: str, texts: list[str], support: float, similarity: float
) -> None:
    passages = [passage(text, support=support, similarity=similarity, title=text[:9]) for text in texts]
    found = score(question, passages)
    assert 0 <= found.score <= 1
    assert set(found.signals) in (set(), set(SIGNALS))
    assert found == score(question, passages)


def test_a_question_and_passages_of_any_length_are_read_in_part() -> None:
    long = score("why " * 50_000, [passage("word " * 200_000)] * 3)
    assert 0 <= long.score <= 1


def test_weights_have_the_declared_signs() -> None:
    assert set(DEFAULT_MODEL.weights) == set(SIGNALS)
    assert all(weight * SIGNALS[name] >= 0 for name, weight in DEFAULT_MODEL.weights.items())


def test_topics_are_the_nearest_first_and_named_once() -> None:
    found = topics(
        [
            passage("a", title="Manual", heading_path=("Manual", "Power"), document_id="m", url="https://x/m"),
            passage("b", title="Manual", heading_path=("Manual", "Power"), document_id="m", url="https://x/m"),
            passage("c", title="Manual", heading_path=("Manual",), document_id="m", url="https://x/m"),
            passage("d", document_id="untitled"),
            passage("e", title="Warranty", document_id="w"),
            passage("f", title="Contact", document_id="c"),
        ]
    )
    assert [(topic.title, topic.heading) for topic in found] == [("Manual", "Power"), ("Manual", ""), ("Warranty", "")]
    assert found[0].url == "https://x/m"
    assert topics([]) == []


def test_a_model_of_great_numbers_does_not_overflow() -> None:
    steep = Model("steep", {**dict.fromkeys(SIGNALS, 0.0), "coverage": 1e6}, -1e5)
    assert score("bridge", [passage("bridge")], steep).score == 1
    assert score("bridge", [passage("tower")], steep).score == 0
