"""Fits the model of `transformer.answerability` and reports how well it refuses unanswerable questions.

    python -m evaluation.refusal ../shared/data/squad2-dev --off-topic ../shared/data/mtrag-un --vectorstore-url http://…

The vectorstore must serve the dataset's index. Questions of other datasets (`--off-topic`) are unanswerable for it.
Questions about the same article are in the same half; `--fit` uses the first half, the report the second.
"""

from __future__ import annotations

import asyncio
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import numpy.typing as npt
import typer
from scipy import optimize, special

from chassis.errors import ServiceError
from evaluation import calibration, datasets
from evaluation.datasets import halves
from evaluation.errors import EvaluationError
from evaluation.retrieval import find, phrasings, signal
from evaluation.services import Services, no_progress
from transformer.answerability import DEFAULT_MODEL, DEFAULT_THRESHOLD, PASSAGES, SIGNALS, Answerability, Model, score
from transformer.calibration import CalibrationError, Error

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

RATES = (0.05, 0.1, 0.2)
"""Error rates at which calibration is checked."""

_RIDGE = 20.0
"""Penalty on squared standardised weights, so that correlated signals share weight."""
_OFF_TOPIC_WEIGHT = 0.5
"""Weight of an off-topic question relative to a question of the dataset."""


@dataclass(frozen=True, slots=True)
class LabelledQuestion:
    """A question with its label and the scores of its passages."""

    id: str
    answerable: bool
    off_topic: bool
    article: str
    passage: str
    """The passage that the question is about, whether or not it has the answer; the question's id if unknown."""
    found: Answerability
    retrieval: Mapping[str, float]
    """Retrieval score → its maximum over the passages."""


def fit_model(signals: Sequence[Mapping[str, float]], answerable: Bools, weights: Floats, *, name: str) -> Model:
    """Fit a logistic model of the signals, with a ridge penalty. Each weight has the sign in `SIGNALS`, or is 0.

    Source: Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning" (2009), section 4.4.
    """
    raw = np.array([[row[key] for key in SIGNALS] for row in signals], np.float64)
    mean = np.average(raw, 0, weights)
    spread = np.sqrt(np.average((raw - mean) ** 2, 0, weights))
    rows = np.c_[(raw - mean) / np.where(spread > 0, spread, 1), np.ones(len(raw))]
    penalty = np.array([_RIDGE] * len(SIGNALS) + [1e-6])

    def loss(found: Floats) -> tuple[float, Floats]:
        """The negative log-likelihood with the penalty, and its gradient."""
        margins = rows @ found
        gradient = rows.T @ (weights * (special.expit(margins) - answerable)) + penalty * found
        return float(weights @ (np.logaddexp(0, margins) - answerable * margins) + penalty @ found**2 / 2), gradient

    bounds = [(0, None) if sign > 0 else (None, 0) for sign in SIGNALS.values()]
    found = optimize.minimize(loss, np.zeros(rows.shape[1]), jac=True, bounds=[*bounds, (None, None)]).x
    slopes = found[:-1] / np.where(spread > 0, spread, 1)
    chosen = {key: round(float(slope), 4) for key, slope in zip(SIGNALS, slopes, strict=True)}
    return Model(name, chosen, round(float(found[-1] - slopes @ mean), 4))


def scores_and_labels(judged: Sequence[LabelledQuestion], model: Model) -> tuple[Floats, Bools]:
    """The scores by `model`, and the labels."""
    scores = np.array([model.score(one.found.signals) if one.found.signals else 0.0 for one in judged])
    return scores, np.array([one.answerable for one in judged], bool)


def error_rate(scores: Floats, answerable: Bools, threshold: float, error: Error) -> float:
    """The error rate of a threshold on these questions; nan if the error cannot occur."""
    refused = scores < threshold
    of = {"answerable_refused": answerable, "unanswerable_answered": ~answerable, "risk": ~refused}[error]
    wrong = refused if error == "answerable_refused" else ~refused if error == "unanswerable_answered" else ~answerable
    return float(wrong[of].mean()) if of.any() else math.nan


async def gather(
    dataset: Path, off_topic: Sequence[Path], services: Services, *, skip_bad: Path | None = None
) -> list[LabelledQuestion]:
    """The labelled questions of a dataset and the off-topic questions of others, scored by the passages found.

    The vectorstore must serve the index of `dataset`. A transformer condenses conversations.

    Raises:
        DatasetError: a dataset is invalid.
        ServiceError: a service fails.
    """
    own = datasets.load(dataset, skip_bad=skip_bad)
    asked = [(question, False) for question in own.questions if question.answerable is not None]
    for folder in off_topic:
        asked += [(question, True) for question in datasets.load(folder, skip_bad=skip_bad).questions]
    queries = await phrasings([question for question, _ in asked], services, no_progress)
    predictions = await find(queries, services, num_docs=PASSAGES, on_progress=no_progress, task="refusal")
    judged = []
    for (question, off), prediction in zip(asked, predictions, strict=True):
        passages = prediction.passages
        retrieval = {
            "support": max((found.support for found in passages), default=0.0),
            "similarity": max((found.similarity for found in passages), default=0.0),
            "lexical": max((found.support - found.similarity for found in passages), default=0.0),
            "fused": max((found.score for found in passages), default=0.0),
        }
        passage = question.passage or question.id
        judged.append(
            LabelledQuestion(
                id=question.id,
                answerable=not off and bool(question.answerable),
                off_topic=off,
                article=(own.documents or {}).get(passage, passage),
                passage=passage,
                found=score(question.text, passages),
                retrieval=retrieval,
            )
        )
    return judged


def fitted(judged: Sequence[LabelledQuestion], off_topic: Sequence[LabelledQuestion]) -> Model:
    """Fit a model to these questions. Off-topic questions have less weight."""
    every = [one for one in (*judged, *off_topic) if one.found.signals]
    weights = np.array([_OFF_TOPIC_WEIGHT if one.off_topic else 1.0 for one in every])
    answerable = np.array([one.answerable for one in every], bool)
    return fit_model([one.found.signals for one in every], answerable, weights, name=DEFAULT_MODEL.name)


def report(judged: Sequence[LabelledQuestion], model: Model, threshold: float = DEFAULT_THRESHOLD) -> dict[str, Any]:
    """AUROC of the model and of each retrieval score, error rates after calibration, and refusals at `threshold`.

    If a half lacks unanswerable questions, the report has only the default refusals.
    """
    own, off = ([one for one in judged if one.off_topic is kind] for kind in (False, True))
    first, second = halves(own, lambda one: one.article)
    scores, answerable = scores_and_labels(own, model)
    kinds = {
        "answerable": scores[answerable],
        "unanswerable": scores[~answerable],
        "off_topic": scores_and_labels(off, model)[0],
    }
    found: dict[str, Any] = {
        "questions": {kind: len(values) for kind, values in kinds.items()},
        "default_threshold": threshold,
        "refused_by_default": {kind: _share(values < threshold) for kind, values in kinds.items()},
    }
    if not all(len({one.answerable for one in part}) == 2 for part in (first, second)):
        return found
    # Cross-fitting: each half is scored by a model fitted on the other.
    crossed = [scores_and_labels(first, fitted(second, off))[0], scores_and_labels(second, fitted(first, off))[0]]
    found["halves"] = {"second, this model": _figures(scores_and_labels(second, model)[0], second)}
    for name, values, part in (
        ("first", crossed[0], first),
        ("second", crossed[1], second),
        ("both", np.concatenate(crossed), [*first, *second]),
    ):
        single = {key: _figures([one.retrieval[key] for one in part], part) for key in part[0].retrieval}
        found["halves"][name] = {"answerability": _figures(values, part), **single}
    splits = {
        "by passage, within the second half": halves(second, lambda one: one.passage),
        "by article, first half to second": (first, second),
    }
    found["calibrations"] = [
        _calibrate_and_test(name, *parts, model, error, rate)
        for name, parts in splits.items()
        for error in get_args(Error)
        for rate in RATES
    ]
    return found


def _share(flags: Bools) -> float | None:
    return round(float(flags.mean()), 4) if len(flags) else None


def _figures(scores: Sequence[float] | Floats, judged: Sequence[LabelledQuestion]) -> dict[str, Any]:
    """AUROC, risk and refusals of one score."""
    found = signal([float(score) for score in scores], [one.answerable for one in judged], seed=0)
    figures = {name: round(getattr(found, name), 4) for name in ("auroc", "aurc", "best_aurc")}
    return {**figures, "refused_at_answered": {share: round(refused, 4) for share, refused in found.refused.items()}}


def _calibrate_and_test(
    split: str,
    first: Sequence[LabelledQuestion],
    other: Sequence[LabelledQuestion],
    model: Model,
    error: Error,
    rate: float,
) -> dict[str, Any]:
    """Calibrates on `first`, and measures the error rate of the threshold on `other`."""
    row: dict[str, Any] = {"split": split, "error": error, "rate": rate}
    scores, answerable = scores_and_labels(first, model)
    try:
        threshold = calibration.fit(scores.tolist(), answerable.tolist(), error=error, rate=rate, model=model).threshold
    except CalibrationError as problem:
        return {**row, "impossible": str(problem)}
    found = error_rate(*scores_and_labels(other, model), threshold, error)
    return {**row, "threshold": round(threshold, 4), "on_the_other_half": round(found, 4)}


def main(
    dataset: Annotated[Path, typer.Argument(help="Folder of the dataset whose index the vectorstore serves.")],
    vectorstore_url: Annotated[str, typer.Option(help="Base URL of the vectorstore.")],
    transformer_url: Annotated[
        str | None, typer.Option(help="Base URL of the transformer, to condense conversations.")
    ] = None,
    off_topic: Annotated[list[Path] | None, typer.Option(help="Dataset with off-topic questions.")] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Fit a model on the first half, print it, and report on it.")
    ] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out invalid records of the datasets.")] = False,
) -> None:
    """Report how well unanswerable questions are refused; optionally fit a model."""

    async def ask(copies: Path) -> list[LabelledQuestion]:
        async with Services(vectorstore_url, transformer_url) as services:
            return await gather(dataset, off_topic or [], services, skip_bad=copies if skip_bad else None)

    try:
        with tempfile.TemporaryDirectory() as copies:
            judged = asyncio.run(ask(Path(copies)))
    except (EvaluationError, ServiceError) as problem:
        typer.echo(str(problem), err=True)
        raise typer.Exit(1) from problem
    own = [one for one in judged if not one.off_topic]
    model = DEFAULT_MODEL
    if fit:
        first, _ = halves(own, lambda one: one.article)
        model = fitted(first, [one for one in judged if one.off_topic])
        typer.echo(json.dumps({"model": asdict(model)}, indent=2))
    typer.echo(json.dumps(report(judged, model), indent=2))


if __name__ == "__main__":
    typer.run(main)
