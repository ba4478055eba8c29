"""The model of refusal is fitted with the right signs, halves share no article, and the report is whole."""

from __future__ import annotations

import math
import random
from operator import attrgetter

import numpy as np
import pytest

from evaluation.datasets import halves
from evaluation.refusal import LabelledQuestion, error_rate, fit_model, report, scores_and_labels
from transformer.answerability import DEFAULT_MODEL, SIGNALS, Answerability


def judged(count: int, *, unanswerable: bool = True, off_topic: int = 0) -> list[LabelledQuestion]:
    """Questions with an informative similarity and a misleading `names_missing`."""
    draw = random.Random(5)  # noqa: S311 - a sample, no secret
    found = []
    for number in range(count + off_topic):
        off = number >= count
        answerable = not off and (not unanswerable or draw.random() < 0.5)
        signals = dict.fromkeys(SIGNALS, 0.0)
        signals["similarity"] = draw.gauss(0.1 if off else 0.6 if answerable else 0.5, 0.1)
        signals["far"] = max(0.0, 0.45 - signals["similarity"])
        signals["names_missing"] = float(answerable)
        signals["numbers_missing"] = float(not answerable and draw.random() < 0.3)
        retrieval = {"support": signals["similarity"] + 0.3, "similarity": signals["similarity"]}
        article = f"article {number % 12}"
        found.append(
            LabelledQuestion(
                str(number),
                answerable,
                off,
                article,
                f"{article}.{number % 5}",
                Answerability(0, signals, 0),
                retrieval,
            )
        )
    return found


def test_a_weight_of_the_wrong_sign_is_left_out() -> None:
    rows = judged(600)
    model = fit_model(
        [one.found.signals for one in rows], np.array([one.answerable for one in rows]), np.ones(len(rows)), name="m"
    )
    assert model.weights["names_missing"] == 0
    assert model.weights["similarity"] > 0
    assert model.weights["numbers_missing"] < 0
    assert model.weights["coverage"] == 0  # always the same: it tells nothing


@pytest.mark.parametrize("by", ["article", "passage"])
def test_halves_share_nothing_and_lose_nothing(by: str) -> None:
    rows = judged(600)
    first, second = halves(rows, attrgetter(by))
    assert {getattr(one, by) for one in first}.isdisjoint(getattr(one, by) for one in second)
    assert sorted(one.id for one in first + second) == sorted(one.id for one in rows)
    assert 150 < len(first) < 450
    assert halves(rows[::-1], attrgetter(by))[0] == first[::-1]


def test_the_report_is_of_halves_that_the_model_was_not_fitted_on() -> None:
    told = report(judged(1200, off_topic=100), DEFAULT_MODEL, 0.2)
    assert told["questions"]["off_topic"] == 100
    assert told["refused_by_default"]["off_topic"] > told["refused_by_default"]["unanswerable"]
    assert set(told["halves"]) == {"second, this model", "first", "second", "both"}
    assert set(told["halves"]["both"]) == {"answerability", "support", "similarity"}
    for part in ("first", "second", "both"):
        assert told["halves"][part]["answerability"]["auroc"] > told["halves"][part]["similarity"]["auroc"] > 0.5
    found = [row for row in told["calibrations"] if row["error"] == "answerable_refused" and row["rate"] == 0.2]
    assert len(found) == 2
    assert all(abs(row["on_the_other_half"] - 0.2) < 0.1 for row in found)


def test_a_dataset_without_unanswerable_questions_has_its_refusals_counted() -> None:
    told = report(judged(100, unanswerable=False), DEFAULT_MODEL)
    assert told["refused_by_default"]["unanswerable"] is None
    assert 0 <= told["refused_by_default"]["answerable"] <= 1
    assert "calibrations" not in told


def test_error_rates_by_hand() -> None:
    scores, answerable = np.array([0.1, 0.4, 0.6, 0.9]), np.array([False, True, False, True])
    assert error_rate(scores, answerable, 0.5, "answerable_refused") == 0.5
    assert error_rate(scores, answerable, 0.5, "unanswerable_answered") == 0.5
    assert error_rate(scores, answerable, 0.95, "answerable_refused") == 1
    assert error_rate(scores, answerable, 0.0, "risk") == 0.5
    assert math.isnan(error_rate(scores, answerable, 0.95, "risk"))


def test_a_question_that_found_nothing_scores_0() -> None:
    empty = LabelledQuestion("q", True, False, "a", "p", Answerability(0, {}, None), {})
    scores, answerable = scores_and_labels([empty], DEFAULT_MODEL)
    assert scores.tolist() == [0]
    assert answerable.tolist() == [True]
