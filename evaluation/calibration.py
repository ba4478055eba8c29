"""Chooses the refusal threshold of an index version, from questions labelled as answerable or not."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from scipy import stats

from evaluation.datasets import Dataset
from evaluation.retrieval import find, phrasings
from evaluation.services import OnProgress, Services
from transformer.answerability import DEFAULT_MODEL, PASSAGES, Model, score
from transformer.calibration import Calibration, CalibrationError, Error

_MIN_RISK_ERRORS = 10
"""The requested risk must allow at least this many errors: fewer would be luck."""


async def calibrate(
    dataset: Dataset, services: Services, *, error: Error, rate: float, on_progress: OnProgress
) -> Calibration:
    """Calibrate on a dataset's labelled questions, with the passages that the services find for them.

    Raises:
        CalibrationError: there are too few questions for this rate.
        ServiceError: a service fails.
    """
    index = await services.index()
    asked = [question for question in dataset.questions if question.answerable is not None]
    queries = await phrasings(asked, services, on_progress)
    found = await find(queries, services, num_docs=PASSAGES, on_progress=on_progress, task="calibration")
    scores = [score(one.text, prediction.passages).score for one, prediction in zip(asked, found, strict=True)]
    origin = {"dataset": dataset.name, "dataset_hash": dataset.sha256}
    origin |= {"index_version": str(index["version"]), "embedder": str(index["embedder"])}
    labels = [bool(question.answerable) for question in asked]
    return fit(scores, labels, error=error, rate=rate, model=DEFAULT_MODEL, origin=origin)


def fit(
    scores: Sequence[float],
    answerable: Sequence[bool],
    *,
    error: Error = "answerable_refused",
    rate: float,
    model: Model,
    origin: Mapping[str, str] | None = None,
) -> Calibration:
    """Choose the threshold that keeps an error rate at most at `rate`.

    For `answerable_refused` it is the highest such threshold, for `unanswerable_answered` the lowest. Each is an order
    statistic of n held-out questions with n + 1 in the denominator: the next question's error is at most `rate` on
    average over calibrations, for any distribution of scores. For `risk` it is the lowest threshold whose risk, with
    one more error, is at most `rate`: an estimate, not a bound.

    Args:
        scores: scores of held-out questions by `model`, 0 … 1.
        answerable: whether the documents answer each question.
        error: the error to bound.
        rate: the bound, greater than 0 and less than 1.
        model: the model that computed the scores.
        origin: the fields `dataset`, `dataset_hash`, `index_version` and `embedder` of the calibration.

    Raises:
        CalibrationError: a score is not finite, the rate is not between 0 and 1, or there are too few questions.

    Source: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World" (2005), split conformal prediction.
    """
    if len(scores) != len(answerable) or not all(map(math.isfinite, scores)):
        raise CalibrationError("Every question needs a finite score and a label.")
    if not 0 < rate < 1:
        raise CalibrationError(f"The error rate is {rate}: choose one between 0 and 1.")
    good = sorted(score for score, can in zip(scores, answerable, strict=True) if can)
    bad = sorted(score for score, can in zip(scores, answerable, strict=True) if not can)
    if error == "risk":
        threshold = _risk_threshold(good, bad, rate)
    elif error == "answerable_refused":
        threshold = good[_rank(good, rate, "answerable") - 1]
    else:
        threshold = math.nextafter(bad[-_rank(bad, rate, "unanswerable")], math.inf)
    good_refused, bad_refused = bisect_left(good, threshold), bisect_left(bad, threshold)
    bad_answered = len(bad) - bad_refused
    wrong, total = {
        "answerable_refused": (good_refused, len(good)),
        "unanswerable_answered": (bad_answered, len(bad)),
        "risk": (bad_answered, bad_answered + len(good) - good_refused),
    }[error]
    low, high = stats.binomtest(wrong, total).proportion_ci(method="wilson") if total else (0, 1)
    return Calibration(
        method=model.name,
        model=model,
        threshold=threshold,
        error=error,
        rate=rate,
        observed=wrong / total if total else 0.0,
        interval=(float(low), float(high)),
        answerable=len(good),
        unanswerable=len(bad),
        answerable_answered=1 - good_refused / len(good) if good else 0.0,
        unanswerable_refused=bad_refused / len(bad) if bad else 0.0,
        **(origin or dict.fromkeys(("dataset", "dataset_hash", "index_version", "embedder"), "")),
    )


def _rank(scores: Sequence[float], rate: float, label: str) -> int:
    """Rank, from the wrong end of the scores, of the question that sets the threshold."""
    rank = math.floor(rate * (len(scores) + 1) + 1e-9)
    if rank < 1:
        least = math.ceil(1 / rate) - 1
        raise CalibrationError(
            f"{len(scores)} {label} questions are too few for an error rate of {rate:g}: give at least {least}."
        )
    return min(rank, len(scores))


def _risk_threshold(good: Sequence[float], bad: Sequence[float], rate: float) -> float:
    """The lowest threshold whose risk is at most `rate`. Both lists of scores ascend."""
    for threshold in sorted({0.0, *good, *bad}):
        right = len(good) - bisect_left(good, threshold)
        wrong = len(bad) - bisect_left(bad, threshold)
        if wrong + right >= _MIN_RISK_ERRORS / rate and (wrong + 1) / (wrong + right + 1) <= rate:
            return threshold
    raise CalibrationError(
        f"No threshold keeps the risk at {rate:g} here: allow a higher risk, or give more questions."
    )
