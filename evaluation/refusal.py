"""Fits the model of `transformer.answerability` and reports how well refusal works.

    python -m evaluation.refusal ../shared/data/squad2-dev --off-topic ../shared/data/mtrag-un --vectorstore-url http://…

The vectorstore serves the index of the dataset. Questions of the other datasets are off-topic for it: its documents
cannot answer them. Questions about one article are in the same half; `--fit` uses the first half, the report
the second.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import typer

from chassis.errors import ServiceError
from evaluation import calibration, datasets, metrics
from evaluation.asking import Services
from evaluation.datasets import Question
from evaluation.errors import EvaluationError
from evaluation.retrieval import find, phrasings
from transformer.answerability import (
    DEFAULT_MODEL,
    DEFAULT_THRESHOLD,
    PASSAGES,
    SIGNALS,
    Answerability,
    Model,
    score,
)
from transformer.calibration import Calibration, CalibrationError, Error

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

RATES = (0.05, 0.1, 0.2)
"""Error rates at which calibration is checked."""

_RIDGE = 20.0
"""Penalty on squared standardised weights, so that correlated signals share weight."""
_STEPS = 12
_OFF_TOPIC_WEIGHT = 0.5
"""Weight of an off-topic question relative to one of the dataset: there are many more of them."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A question with its label and the scores of its passages."""

    id: str
    answerable: bool
    off_topic: bool
    article: str
    passage: str
    """The passage that the question is about, whether or not it answers; the question's id if unknown."""
    found: Answerability
    retrieval: Mapping[str, float]
    """Retrieval score → its maximum over the passages."""


def halves(judged: Sequence[Judged], by: Literal["article", "passage"]) -> tuple[list[Judged], list[Judged]]:
    """Two halves of similar size; questions of one article, or passage, stay together.

    Deterministic: groups alternate in the order of their hashes.
    """
    groups = {getattr(one, by) for one in judged}
    ordered = sorted(groups, key=lambda group: hashlib.sha256(group.encode()).digest())
    first = set(ordered[::2])
    return (
        [one for one in judged if getattr(one, by) in first],
        [one for one in judged if getattr(one, by) not in first],
    )


def fit_model(signals: Sequence[Mapping[str, float]], answerable: Bools, weights: Floats, *, name: str) -> Model:
    """A logistic model of the signals by Newton's method, with a ridge penalty and the signs of `SIGNALS`.

    Signals whose weight gets the wrong sign are dropped, and the rest is fitted again.

    Args:
        signals: of n questions.
        answerable: bool[n].
        weights: float64[n] of the questions.
        name: of the model.

    Source: Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning" (2009), section 4.4.
    """
    names = list(SIGNALS)
    raw = np.array([[row[key] for key in names] for row in signals], np.float64)
    mean = np.average(raw, 0, weights)
    spread = np.sqrt(np.average((raw - mean) ** 2, 0, weights))
    scaled = np.where(spread > 0, (raw - mean) / np.where(spread > 0, spread, 1), 0)
    signs = np.array([SIGNALS[key] for key in names])
    live = list(range(len(names)))
    while True:
        found = _newton(np.c_[scaled[:, live], np.ones(len(scaled))], answerable.astype(np.float64), weights)
        wrong = {column for column, weight in zip(live, found[:-1], strict=True) if weight * signs[column] < 0}
        if not wrong:
            break
        live = [column for column in live if column not in wrong]
    slopes = np.zeros(len(names))
    slopes[live] = found[:-1] / np.where(spread[live] > 0, spread[live], 1)
    bias = float(found[-1] - slopes @ mean)
    return Model(name, {key: round(float(slope), 4) for key, slope in zip(names, slopes, strict=True)}, round(bias, 4))


def _newton(rows: Floats, answerable: Floats, weights: Floats) -> Floats:
    found = np.zeros(rows.shape[1])
    ridge = np.diag([_RIDGE] * (rows.shape[1] - 1) + [1e-6])
    for _ in range(_STEPS):
        likely = 1 / (1 + np.exp(-np.clip(rows @ found, -30, 30)))
        curve = (rows * (weights * likely * (1 - likely))[:, None]).T @ rows + ridge
        found = found + np.linalg.solve(curve, rows.T @ (weights * (answerable - likely)) - ridge @ found)
    return found


def arrays(judged: Sequence[Judged], model: Model) -> tuple[Floats, Bools]:
    """Scores by `model`, and labels."""
    scores = np.array([model.score(one.found.signals) if one.found.signals else 0.0 for one in judged])
    return scores, np.array([one.answerable for one in judged], bool)


def check(
    first: Sequence[Judged], other: Sequence[Judged], model: Model, error: Error, rate: float
) -> tuple[Calibration, float]:
    """A calibration on `first`, and the error rate of its threshold on `other`.

    Raises:
        CalibrationError: there are too few questions.
    """
    scores, answerable = arrays(first, model)
    made = calibration.fit(scores.tolist(), answerable.tolist(), error=error, rate=rate, model=model)
    scores, answerable = arrays(other, model)
    return made, error_rate(scores, answerable, made.threshold, error)


def error_rate(scores: Floats, answerable: Bools, threshold: float, error: Error) -> float:
    """The error rate of a threshold on these questions; nan if the error cannot occur."""
    refused = scores < threshold
    of = {"answerable_refused": answerable, "unanswerable_answered": ~answerable, "risk": ~refused}[error]
    wrong = refused if error == "answerable_refused" else ~refused if error == "unanswerable_answered" else ~answerable
    return float(wrong[of].mean()) if of.any() else math.nan


async def gather(
    dataset: Path, off_topic: Sequence[Path], services: Services, *, skip_bad: Path | None = None
) -> list[Judged]:
    """The labelled questions of a dataset, then the off-topic ones, scored by the passages found.

    Args:
        dataset: folder of the dataset; the vectorstore serves its index.
        off_topic: folders of other datasets.
        services: the vectorstore, and the transformer if conversations are to be condensed.
        skip_bad: as in `datasets.load`.

    Raises:
        DatasetError: a dataset is invalid.
        ServiceError: the vectorstore fails.
    """
    own = datasets.load(dataset, skip_bad=skip_bad)
    subjects = _subjects(dataset)
    asked: list[tuple[Question, bool]] = [
        (question, False) for question in own.questions if question.answerable is not None
    ]
    for folder in off_topic:
        asked += [(question, True) for question in datasets.load(folder, skip_bad=skip_bad).questions]
    questions = [question for question, _ in asked]
    queries = await phrasings(questions, services, _quiet)
    predictions = await find(queries, services, num_docs=PASSAGES, on_progress=_quiet, task="refusal")
    judged = []
    for (question, off), prediction in zip(asked, predictions, strict=True):
        passages = prediction.passages
        passage, article = subjects.get(question.id, (question.id, question.id))
        retrieval = {
            "support": max((found.support for found in passages), default=0.0),
            "similarity": max((found.similarity for found in passages), default=0.0),
            "lexical": max((found.support - found.similarity for found in passages), default=0.0),
            "fused": max((found.score for found in passages), default=0.0),
        }
        answerable = not off and bool(question.answerable)
        judged.append(Judged(question.id, answerable, off, article, passage, score(question.text, passages), retrieval))
    return judged


def _quiet(task: str, done: int, of: int) -> None:
    """No progress is shown."""


def _subjects(folder: Path) -> dict[str, tuple[str, str]]:
    """Question → the passage in `metadata.passage` and its title; questions without one are left out."""
    titles: dict[str, str] = {}
    for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        titles[str(record["_id"])] = str(record.get("title") or record["_id"])
    found: dict[str, tuple[str, str]] = {}
    for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        passage = (record.get("metadata") or {}).get("passage")
        if passage in titles:
            found[str(record["_id"])] = (passage, titles[passage])
    return found


def fitted(judged: Sequence[Judged], off_topic: Sequence[Judged]) -> Model:
    """The model fitted to these questions; off-topic ones have less weight."""
    every = [one for one in (*judged, *off_topic) if one.found.signals]
    weights = np.array([_OFF_TOPIC_WEIGHT if one.off_topic else 1.0 for one in every])
    answerable = np.array([one.answerable for one in every], bool)
    return fit_model([one.found.signals for one in every], answerable, weights, name=DEFAULT_MODEL.name)


def report(judged: Sequence[Judged], model: Model, threshold: float = DEFAULT_THRESHOLD) -> dict[str, Any]:
    """Figures of a model: how well it and each retrieval score separate, checked calibrations, default refusals.

    If a half has no unanswerable questions, only refusals are counted.
    """
    own = [one for one in judged if not one.off_topic]
    off = [one for one in judged if one.off_topic]
    first, second = halves(own, "article")
    scores, answerable = arrays(own, model)
    strange, _ = arrays(off, model)
    told: dict[str, Any] = {
        "questions": {
            "answerable": int(answerable.sum()),
            "unanswerable": int((~answerable).sum()),
            "off_topic": len(off),
        },
        "default_threshold": threshold,
        "refused_by_default": {
            "answerable": _mean(scores[answerable] < threshold),
            "unanswerable": _mean(scores[~answerable] < threshold),
            "off_topic": _mean(strange < threshold),
        },
    }
    if not all(len({one.answerable for one in part}) == 2 for part in (first, second)):
        return told
    # Cross-fitting: each half is scored by a model fitted on the other.
    crossed = [arrays(first, fitted(second, off))[0], arrays(second, fitted(first, off))[0]]
    told["halves"] = {
        "second, this model": _figures(arrays(second, model)[0], second),
        **{
            name: {"answerability": _figures(found, part), **_singles(part)}
            for name, found, part in (
                ("first", crossed[0], first),
                ("second", crossed[1], second),
                ("both", np.concatenate(crossed), [*first, *second]),
            )
        },
    }
    splits = {
        "by passage, within the second half": halves(second, "passage"),
        "by article, first half to second": (first, second),
    }
    told["calibrations"] = [
        _checked(name, *parts, model, error, rate)
        for name, parts in splits.items()
        for error in get_args(Error)
        for rate in RATES
    ]
    return told


def _mean(flags: Bools) -> float | None:
    return round(float(flags.mean()), 4) if len(flags) else None


def _singles(judged: Sequence[Judged]) -> dict[str, Any]:
    return {name: _figures([one.retrieval[name] for one in judged], judged) for name in judged[0].retrieval}


def _figures(scores: Sequence[float] | Floats, judged: Sequence[Judged]) -> dict[str, Any]:
    values, kinds = [float(score) for score in scores], [one.answerable for one in judged]
    found = metrics.refusals(values, kinds, seed=0)
    curve = metrics.risk_coverage(values, [0.0 if kind else 1.0 for kind in kinds])
    return {
        "auroc": round(found.auroc, 4),
        "aurc": round(curve.aurc, 4),
        "best_aurc": round(curve.best_aurc, 4),
        "refused_at_answered": {share: round(refused, 4) for share, refused in found.refused.items()},
    }


def _checked(
    split: str, first: Sequence[Judged], other: Sequence[Judged], model: Model, error: Error, rate: float
) -> dict[str, Any]:
    told: dict[str, Any] = {"split": split, "error": error, "rate": rate}
    try:
        made, found = check(first, other, model, error, rate)
    except CalibrationError as problem:
        return {**told, "impossible": str(problem)}
    return {**told, "threshold": round(made.threshold, 4), "on_the_other_half": round(found, 4)}


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

    async def ask(copies: Path) -> list[Judged]:
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
        first, _ = halves(own, "article")
        model = fitted(first, [one for one in judged if one.off_topic])
        typer.echo(json.dumps({"model": asdict(model)}, indent=2))
    typer.echo(json.dumps(report(judged, model), indent=2))


if __name__ == "__main__":
    typer.run(main)
