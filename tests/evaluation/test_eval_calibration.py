"""Calibrated thresholds keep their error rate, and survive their file."""

from __future__ import annotations

import random

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.calibration import fit
from transformer.answerability import DEFAULT_MODEL
from transformer.calibration import Calibration, CalibrationError, Error


def calibrated(scores: list[float], answerable: list[bool], error: Error, rate: float) -> Calibration:
    return fit(scores, answerable, error=error, rate=rate, model=DEFAULT_MODEL)


def drawn(count: int, seed: int) -> tuple[list[float], list[bool]]:
    """Scores that overlap: of answerable questions a little greater."""
    draw = random.Random(seed)  # noqa: S311 - a sample, no secret
    answerable = [draw.random() < 0.6 for _ in range(count)]
    return [min(1, max(0, draw.gauss(0.7 if can else 0.4, 0.2))) for can in answerable], answerable


def wrong(scores: list[float], answerable: list[bool], error: Error, threshold: float) -> float:
    pairs = list(zip(scores, answerable, strict=True))
    if error == "answerable_refused":
        kind = [score < threshold for score, can in pairs if can]
    elif error == "unanswerable_answered":
        kind = [score >= threshold for score, can in pairs if not can]
    else:
        kind = [not can for score, can in pairs if score >= threshold]
    return sum(kind) / len(kind)


@pytest.mark.parametrize("error", ["answerable_refused", "unanswerable_answered", "risk"])
@pytest.mark.parametrize("rate", [0.1, 0.2])
def test_the_stated_error_rate_holds_for_other_questions(error: Error, rate: float) -> None:
    thresholds = [calibrated(*drawn(1_000, seed), error, rate).threshold for seed in range(40)]
    scores, answerable = drawn(20_000, 99)
    mean = sum(wrong(scores, answerable, error, threshold) for threshold in thresholds) / len(thresholds)
    # Standard error of the mean of 40 calibrations: below 0.004.
    assert mean <= rate + 0.012
    assert mean >= rate - 0.03


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=60, max_size=120),
    st.sampled_from(["answerable_refused", "unanswerable_answered", "risk"]),
    st.sampled_from([0.1, 0.25, 0.5]),
)
def test_a_calibration_keeps_its_rate_on_its_own_questions_or_says_that_it_cannot(
    pairs: list[tuple[float, bool]], error: Error, rate: float
) -> None:
    scores, answerable = [score for score, _ in pairs], [can for _, can in pairs]
    try:
        found = calibrated(scores, answerable, error, rate)
    except CalibrationError:
        return
    assert found.observed == pytest.approx(wrong(scores, answerable, error, found.threshold))
    # One question more than were seen is allowed for.
    assert found.observed <= rate * (1 + 1 / 10)
    assert found.interval[0] <= found.observed <= found.interval[1]


@pytest.mark.parametrize(
    ("scores", "answerable", "error", "rate", "said"),
    [
        ([0.5] * 9, [True] * 9, "answerable_refused", 0.05, "at least 19"),
        ([0.5] * 9, [True] * 9, "unanswerable_answered", 0.5, "0 unanswerable"),
        ([0.5] * 9, [False] * 9, "risk", 0.5, "No threshold"),
        ([0.5], [True], "risk", 0.0, "between 0 and 1"),
        ([0.5], [True, False], "risk", 0.1, "a label"),
        ([float("nan")], [True], "risk", 0.1, "finite"),
    ],
)
def test_invalid_calibration_data_is_an_error(
    scores: list[float], answerable: list[bool], error: Error, rate: float, said: str
) -> None:
    with pytest.raises(CalibrationError, match=said):
        calibrated(scores, answerable, error, rate)


def test_a_calibration_is_read_as_it_was_written() -> None:
    made = calibrated(*drawn(200, 1), "answerable_refused", 0.1)
    assert Calibration.parse(made.json()) == made


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"threshold": "high"},
        {"threshold": None},
        {"error": "other"},
        {"model": {"name": "m", "weights": {"similarity": 1.0}, "bias": 0.0}},
        {"model": None},
        {"surplus": 1},
        {"interval": 3},
    ],
)
def test_an_invalid_calibration_is_an_error(change: dict[str, object]) -> None:
    made = orjson.loads(calibrated(*drawn(200, 1), "answerable_refused", 0.1).json())
    with pytest.raises(CalibrationError, match="calibrat"):
        Calibration.parse(orjson.dumps({**made, **change}))


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"1"])
def test_content_that_is_not_a_calibration_is_an_error(content: bytes) -> None:
    with pytest.raises(CalibrationError, match="calibrate again"):
        Calibration.parse(content)
