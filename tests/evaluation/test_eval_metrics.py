"""Metrics compared with published values and values worked out by hand, and their invariants."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import metrics, pairs, significance
from evaluation.errors import EvaluationError


def test_rankings_against_values_by_hand() -> None:
    values = metrics.ranking(
        {"q": {"a": 2, "b": 1, "z": 0}, "nothing found": {"a": 1}}, {"q": ["x", "a", "z", "b"], "nothing found": []}
    )
    ideal = 2 / math.log2(2) + 1 / math.log2(3)
    assert values["nDCG@10"]["q"] == pytest.approx((2 / math.log2(3) + 1 / math.log2(5)) / ideal)
    assert values["MRR@10"]["q"] == 0.5
    assert values["MAP@10"]["q"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert values["R@1"]["q"] == 0
    assert values["R@5"]["q"] == 1
    assert all(found["nothing found"] == 0 for found in values.values())


def test_recall_is_the_share_of_the_gold_answers_words() -> None:
    assert (
        metrics.recall("The kiln fires at 1,000 degrees, then cools.", ["1,000 degrees and cools", "kiln shelf"])
        == 0.75
    )
    assert metrics.recall("釉薬", ["釉", ""]) == 1
    assert metrics.recall("a", ["the"]) == 0


@settings(deadline=None)
@given(st.permutations([f"d{number}" for number in range(25)]))
def test_the_order_given_is_the_order_measured(documents: list[str]) -> None:
    values = metrics.ranking({"q": {"d7": 1}}, {"q": documents})
    rank = documents.index("d7") + 1
    assert values["MRR@10"]["q"] == pytest.approx(1 / rank if rank <= 10 else 0)
    assert values["nDCG@10"]["q"] == pytest.approx(1 / math.log2(rank + 1) if rank <= 10 else 0)
    assert [values[f"R@{cut}"]["q"] for cut in (1, 5, 10, 20)] == [float(rank <= cut) for cut in (1, 5, 10, 20)]


@pytest.mark.parametrize(
    ("answer", "gold", "exact", "f1", "held"),
    [
        ("The Normans.", ["normans"], 1, 1, 1),
        ("It was in the 10th century, I think", ["10th century", "tenth"], 0, 2 * 2 / (7 + 2), 1),
        ("110 km", ["10 km"], 0, 0.5, 0),
        ("", ["x"], 0, 0, 0),
        ("x", [], 0, 0, 0),
    ],
)
def test_answers_as_squad_compares_them(answer: str, gold: list[str], exact: float, f1: float, held: float) -> None:
    assert metrics.exact_match(answer, gold) == exact
    assert metrics.f1(answer, gold) == pytest.approx(f1)
    assert metrics.contains(answer, gold) == held


def test_a_risk_coverage_curve_by_hand() -> None:
    curve = metrics.risk_coverage([0.9, 0.8, 0.7, 0.6], [0, 1, 0, 1])
    assert curve.risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert curve.aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert curve.best_aurc == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=40), st.randoms())
def test_curves_do_not_depend_on_the_order_of_the_questions(
    questions: list[tuple[float, float]], randoms: object
) -> None:
    mixed = list(questions)
    randoms.shuffle(mixed)  # type: ignore[attr-defined]
    curve, other = (metrics.risk_coverage(*map(list, zip(*some, strict=True))) for some in (questions, mixed))
    assert curve.risk == pytest.approx(other.risk)
    assert curve.best_aurc <= curve.aurc + 1e-9
    assert curve.risk[-1] == pytest.approx(np.mean([loss for _, loss in questions]))


def test_a_constant_score_has_constant_risk() -> None:
    assert metrics.risk_coverage([0.5] * 4, [0, 1, 0, 1]).risk.tolist() == [0.5] * 4


def test_refusals_by_hand() -> None:
    good, bad = [0.9, 0.8, 0.7, 0.6, 0.2], [0.65, 0.3, 0.2, 0.1]
    found = metrics.refusals(good + bad, [True] * 5 + [False] * 4, seed=0)
    assert found.auroc == pytest.approx((4 + 4 + 4 + 3 + 1.5) / 20)
    assert found.refused["80%"] == 3 / 4  # below .6
    assert found.refused["95%"] == 1 / 4  # below .2


def test_a_perfect_score_refuses_all_also_on_the_other_half() -> None:
    scores = [1 + number / 100 for number in range(40)] + [number / 100 for number in range(40)]
    found = metrics.refusals(scores, [True] * 40 + [False] * 40, seed=3)
    assert (found.auroc, found.held_out_refused) == (1, 1)
    assert 0.6 <= found.held_out_answered <= 1


@pytest.mark.parametrize("answerable", [[True, True], [False, False]])
def test_refusals_need_both_kinds_of_questions(answerable: list[bool]) -> None:
    with pytest.raises(ValueError, match="with and without"):
        metrics.refusals([0.1, 0.2], answerable, seed=0)


def test_significance_of_a_difference() -> None:
    generator = np.random.default_rng(0)
    before = generator.uniform(0.3, 0.9, 200)
    worse = before - 0.05 + generator.normal(0, 0.1, 200)
    same = before + generator.normal(0, 0.1, 200)
    drop = significance.compare(worse.tolist(), before.tolist(), seed=0)
    assert drop.significant
    assert drop.mean < 0
    assert drop.low < drop.mean < drop.high < 0
    assert not significance.compare(same.tolist(), before.tolist(), seed=0).significant
    assert significance.compare(worse.tolist(), before.tolist(), seed=0) == drop


def test_the_randomisation_test_is_exact_where_there_are_few() -> None:
    # Of all 2^5 assignments of signs, two are as extreme: those in which all signs agree.
    assert significance.compare([1, 1, 1, 1, 1], [0, 0, 0, 0, 0], seed=0).p == pytest.approx(2 / 32)


def test_equal_runs_do_not_differ() -> None:
    found = significance.compare([0.5, 0.2], [0.5, 0.2], seed=0)
    assert (found.mean, found.p, found.significant) == (0, 1, False)


@pytest.mark.parametrize(("values", "others"), [([], []), ([1.0], [1.0, 2.0])])
def test_runs_of_different_length_are_not_compared(values: list[float], others: list[float]) -> None:
    with pytest.raises(ValueError, match="of the baseline"):
        significance.compare(values, others, seed=0)


def test_generated_questions_repeat_and_are_the_documents_own_words() -> None:
    text = "The heron stands motionless beside shallow water until something edible swims within reach. Short one."
    documents = [(f"d{number}", text.replace("heron", f"heron{number}")) for number in range(9)] + [("bare", "No.")]
    found = pairs.make(documents, count=5, seed=1)
    assert found.sha256 == pairs.make(documents[::-1], count=5, seed=1).sha256
    assert found.sha256 != pairs.make(documents, count=5, seed=2).sha256
    assert len(found.judged) == 5
    for question in found.questions:
        words = question.text.split()
        told = dict(documents)[question.id]
        assert question.relevant == {question.id: 1}
        assert words == sorted(words, key=told.index)
        assert "Short" not in words


def test_an_empty_corpus_gives_no_questions() -> None:
    with pytest.raises(EvaluationError, match="--questions"):
        pairs.make([("d", "No.")], count=1, seed=0)
