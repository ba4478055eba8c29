"""Measures the vectorstore's rankings."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from evaluation import metrics, significance
from evaluation.asking import OnProgress, Services
from evaluation.datasets import Dataset, Question
from evaluation.errors import WrongIndexError
from evaluation.results import Row, Signal
from transformer.answerability import score
from vectorstore.client import merged
from vectorstore.wire import Prediction, SearchInstance

Mode = Literal["served", "dense", "lexical", "fused", "rescored"]
"""`served` is the default search; the others are its stages (vectorstore/wire.py)."""
MODES: tuple[Mode, ...] = get_args(Mode)

LAST_TURN = "served, last turn only"
"""Row of conversations searched without their history."""

ANSWERABILITY = "answerability"
"""Name of the score of `transformer.answerability`."""

_NEAREST = 10
"""Passages that the scores of answerability are taken from."""

_POINTS = 200
"""Stored points of a curve."""


async def phrasings(
    questions: Sequence[Question], services: Services, on_progress: OnProgress
) -> list[tuple[str, ...]]:
    """The queries that the transformer searches for: the question, and for a conversation also the condensed one."""
    asked = [question for question in questions if question.history]
    if not asked or not services.answers:
        return [(question.text,) for question in questions]
    # max_tokens 0 generates nothing; the condensed query is all we need.
    answers = await services.generate(
        [body(question, max_tokens=0, num_docs=1) for question in asked], on_progress, "conversations"
    )
    queries = {question.id: answer.query or question.text for question, answer in zip(asked, answers, strict=True)}
    return [tuple(dict.fromkeys((queries.get(question.id, question.text), question.text))) for question in questions]


async def find(
    queries: Sequence[Sequence[str]],
    services: Services,
    *,
    num_docs: int,
    mode: Mode = "served",
    on_progress: OnProgress,
    task: str,
) -> list[Prediction]:
    """Passages for each query, merged over its phrasings like the transformer does.

    Raises:
        ServiceError: the vectorstore fails.
    """
    stage = {} if mode == "served" else {"mode": mode}
    instances = [
        SearchInstance.model_validate({"input": phrasing, "num_docs": num_docs, **stage})
        for query in queries
        for phrasing in query
    ]
    found = iter(await services.search(instances, on_progress, task))
    return [merged([next(found) for _ in query], num_docs) for query in queries]


async def search(
    dataset: Dataset,
    questions: Sequence[Question],
    queries: Sequence[Sequence[str]],
    services: Services,
    *,
    mode: Mode,
    depth: int,
    on_progress: OnProgress,
    task: str,
) -> tuple[list[Prediction], dict[str, list[str]]]:
    """Passages for each query, and question → documents, ranked by their best passage.

    Raises:
        ServiceError: the vectorstore fails.
    """
    predictions = await find(queries, services, num_docs=depth, mode=mode, on_progress=on_progress, task=task)
    rankings: dict[str, list[str]] = {}
    for question, prediction in zip(questions, predictions, strict=True):
        names = (dataset.name_of(passage, question) for passage in prediction.passages)
        # Documents with the same text rank together: only one of them is indexed.
        ranked = (twin for name in names for twin in dataset.twins.get(name, (name,)))
        rankings[question.id] = list(dict.fromkeys(ranked))
    return predictions, rankings


def row(questions: Sequence[Question], rankings: Mapping[str, Sequence[str]], seed: int) -> Row:
    """Measures of the rankings of judged questions."""
    values = metrics.ranking({question.id: question.relevant for question in questions}, rankings)
    per_question = {name: [round(found[question.id], 5) for question in questions] for name, found in values.items()}
    low, high = significance.interval(per_question["nDCG@10"], seed)
    return Row(
        means={name: round(float(np.mean(found)), 5) for name, found in per_question.items()},
        per_question=per_question,
        low=round(low, 5),
        high=round(high, 5),
    )


async def measure(
    dataset: Dataset,
    services: Services,
    *,
    modes: Sequence[Mode],
    depth: int,
    seed: int,
    on_progress: OnProgress,
) -> tuple[dict[str, Row], dict[str, Signal], dict[str, float]]:
    """Mode → row, score → how well it finds unanswerable questions, and step → seconds.

    Raises:
        WrongIndexError: the vectorstore serves another index.
        ServiceError: a service fails.
    """
    seconds: dict[str, float] = {}
    rows: dict[str, Row] = {}
    signals: dict[str, Signal] = {}
    judged = dataset.judged
    hopeless = [question for question in dataset.questions if question.answerable is False]

    async def found(
        label: str, mode: Mode, questions: Sequence[Question], queries: Sequence[Sequence[str]], depth: int
    ) -> tuple[list[Prediction], dict[str, list[str]]]:
        began = time.monotonic()
        found = await search(
            dataset, questions, queries, services, mode=mode, depth=depth, on_progress=on_progress, task=label
        )
        seconds[label] = round(time.monotonic() - began, 2)
        return found

    questions = [*judged, *hopeless]
    queries = await phrasings(questions, services, on_progress)
    for mode in modes:
        predictions, rankings = await found(mode, mode, judged, queries[: len(judged)], depth)
        if mode == modes[0]:
            check_index(dataset, rankings)
        rows[mode] = row(judged, rankings, seed)
        if mode == "served" and hopeless:
            # Only the nearest passages matter: do they look like an answer?
            others, _ = await found("unanswerable", mode, hopeless, queries[len(judged) :], _NEAREST)
            signals = _signals(questions, [*predictions, *others], seed)
    if dataset.conversational and "served" in modes:
        _, rankings = await found(LAST_TURN, "served", judged, [(question.text,) for question in judged], depth)
        rows[LAST_TURN] = row(judged, rankings, seed)
    return rows, signals, seconds


def body(question: Question, **parameters: object) -> dict[str, object]:
    """Body of a `generate` request."""
    history = [turn.model_dump() for turn in question.history]
    return {"text_input": question.text, **({"history": history} if history else {}), **parameters}


def signal(scores: Sequence[float], answerable: Sequence[bool], seed: int) -> Signal:
    """How well a score separates answerable questions from the others."""
    refusals = metrics.refusals(scores, answerable, seed)
    curve = metrics.risk_coverage(scores, [float(not answered) for answered in answerable])
    coverage, risk = thinned(curve)
    return Signal(
        auroc=round(refusals.auroc, 5),
        refused={share: round(refused, 5) for share, refused in refusals.refused.items()},
        held_out_answered=round(refusals.held_out_answered, 5),
        held_out_refused=round(refusals.held_out_refused, 5),
        aurc=round(curve.aurc, 5),
        best_aurc=round(curve.best_aurc, 5),
        coverage=coverage,
        risk=risk,
    )


def thinned(curve: metrics.Curve) -> tuple[list[float], list[float]]:
    """Coverage and risk at up to 200 points, including the last."""
    places = np.unique(np.linspace(0, len(curve.risk) - 1, min(_POINTS, len(curve.risk))).astype(int))
    return [round(float(x), 4) for x in curve.coverage[places]], [round(float(x), 4) for x in curve.risk[places]]


def _signals(questions: Sequence[Question], predictions: Sequence[Prediction], seed: int) -> dict[str, Signal]:
    answerable = [bool(question.answerable) for question in questions]
    nearest = [found.passages[:_NEAREST] for found in predictions]
    scores = {
        f"best {name.replace('_', ' ')}": [
            max((getattr(passage, name) for passage in passages), default=0.0) for passages in nearest
        ]
        for name in ("score", "similarity", "lexical_score")
    }
    scores[ANSWERABILITY] = [
        score(question.text, passages).score for question, passages in zip(questions, nearest, strict=True)
    ]
    return {name: signal(values, answerable, seed) for name, values in scores.items()}


def check_index(dataset: Dataset, rankings: Mapping[str, Sequence[str]]) -> None:
    """Check that passages come from the dataset's documents, if these are known.

    Raises:
        WrongIndexError: none of them do.
    """
    found = {name for ranked in rankings.values() for name in ranked}
    if dataset.documents is not None and found and found.isdisjoint(dataset.documents):
        raise WrongIndexError(
            f"No passage found is from a document of {dataset.name}: the vectorstore serves another index."
        )
