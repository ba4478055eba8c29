"""The refusal threshold of one index version, from questions labelled as answerable or not."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from scipy import stats

from evaluation.asking import OnProgress, Services
from evaluation.datasets import Dataset
from evaluation.retrieval import find, phrasings
from transformer.answerability import DEFAULT_MODEL, PASSAGES, Model, score
from transformer.calibration import Calibration, CalibrationError, Error

_MIN_RISK_ERRORS = 10
"""Errors that the answered questions must allow at the requested risk: fewer would be luck."""


async def calibrate(
    dataset: Dataset, services: Services, *, error: Error, rate: float, on_progress: OnProgress
) -> Calibration:
    """Calibrate with the passages that the services find for the dataset's labelled questions.

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
    """The threshold that refuses most (for `risk`: least) within the error rate.

    For the first two errors it is an order statistic of n held-out questions with n + 1 in the denominator: the next
    question's error is at most `rate` on average over calibrations, for any distribution of scores. For `risk` it is
    the lowest threshold whose risk, with one more error, is within the rate: an estimate, not a bound.

    Args:
        scores: of held-out questions, by `model`, 0 … 1.
        answerable: whether the documents answer each question.
        error: the error to bound.
        rate: its bound, between 0 and 1, both excluded.
        model: the model that scored.
        origin: the fields `dataset`, `dataset_hash`, `index_version` and `embedder` of the calibration.

    Raises:
        CalibrationError: a score is not finite, the rate is not between 0 and 1, or there are too few questions.

    Source: Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World" (2005), split conformal prediction.
    """
    if len(scores) != len(answerable) or not all(map(math.isfinite, scores)):
        raise CalibrationError("Every question needs a finite score and a label.")
    if not 0 < rate < 1:
        raise CalibrationError(f"An error rate of {rate} cannot be kept: choose one between 0 and 1.")
    good = sorted(score for score, can in zip(scores, answerable, strict=True) if can)
    bad = sorted(score for score, can in zip(scores, answerable, strict=True) if not can)
    if error == "risk":
        threshold = _risk_threshold(good, bad, rate)
    else:
        kind = good if error == "answerable_refused" else bad
        rank = math.floor(rate * (len(kind) + 1) + 1e-9)
        if rank < 1:
            name = "answerable" if error == "answerable_refused" else "unanswerable"
            least = math.ceil(1 / rate) - 1
            raise CalibrationError(
                f"{len(kind)} {name} questions cannot show an error rate of {rate:g}: give at least {least}."
            )
        rank = min(rank, len(kind))
        threshold = kind[rank - 1] if kind is good else math.nextafter(kind[-rank], math.inf)
    refused, kept_out = bisect_left(good, threshold), bisect_left(bad, threshold)
    answered_bad = len(bad) - kept_out
    wrong, of = {
        "answerable_refused": (refused, len(good)),
        "unanswerable_answered": (answered_bad, len(bad)),
        "risk": (answered_bad, answered_bad + len(good) - refused),
    }[error]
    low, high = stats.binomtest(wrong, of).proportion_ci(method="wilson") if of else (0, 1)
    return Calibration(
        method=model.name,
        model=model,
        threshold=threshold,
        error=error,
        rate=rate,
        observed=wrong / of if of else 0.0,
        interval=(float(low), float(high)),
        answerable=len(good),
        unanswerable=len(bad),
        answerable_answered=1 - refused / len(good) if good else 0.0,
        unanswerable_refused=kept_out / len(bad) if bad else 0.0,
        **(origin or dict.fromkeys(("dataset", "dataset_hash", "index_version", "embedder"), "")),
    )


def _risk_threshold(good: Sequence[float], bad: Sequence[float], rate: float) -> float:
    """The lowest threshold whose risk is within the rate. Both score lists ascend."""
    for threshold in sorted({0.0, *good, *bad}):
        right = len(good) - bisect_left(good, threshold)
        wrong = len(bad) - bisect_left(bad, threshold)
        if wrong + right >= _MIN_RISK_ERRORS / rate and (wrong + 1) / (wrong + right + 1) <= rate:
            return threshold
    raise CalibrationError(f"No threshold keeps the risk at {rate:g} on these questions: allow more, or give more.")
