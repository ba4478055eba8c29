"""Measures the vectorstore's rankings."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, get_args

from evaluation import metrics, significance
from evaluation.datasets import Dataset, Question
from evaluation.errors import WrongIndexError
from evaluation.results import Row, Signal
from evaluation.services import OnProgress, Services
from text_analysis.question_words import asking
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
"""Number of passages that scores of answerability use."""


async def phrasings(
    questions: Sequence[Question], services: Services, on_progress: OnProgress
) -> list[tuple[str, ...]]:
    """The transformer's queries: the question, its sentences that ask, and for a conversation the condensed one."""
    asked = [question for question in questions if question.history]
    if not asked or not services.has_transformer:
        return [(question.text, *asking(question.text)) for question in questions]
    # max_tokens 0 generates nothing; the condensed query is all we need.
    answers = await services.generate(
        [body(question, max_tokens=0, num_docs=1) for question in asked], on_progress, "conversations"
    )
    queries = {question.id: answer.query or question.text for question, answer in zip(asked, answers, strict=True)}
    return [tuple(dict.fromkeys((queries.get(one.id, one.text), one.text, *asking(one.text)))) for one in questions]


async def find(
    queries: Sequence[Sequence[str]],
    services: Services,
    *,
    num_docs: int,
    mode: Mode = "served",
    sentence_similarity: bool = False,
    on_progress: OnProgress,
    task: str,
) -> list[Prediction]:
    """Passages for each query, merged over its phrasings as in the transformer."""
    stage: dict[str, Any] = {} if mode == "served" else {"mode": mode}
    if sentence_similarity:
        stage["sentence_similarity"] = True
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
    """Passages for each query, and question → documents, ranked by their best passage."""
    predictions = await find(queries, services, num_docs=depth, mode=mode, on_progress=on_progress, task=task)
    rankings = {
        # Documents with the same text rank together: only one of them is indexed.
        question.id: list(dict.fromkeys(name for one in found.passages for name in dataset.names_of(one, question)))
        for question, found in zip(questions, predictions, strict=True)
    }
    return predictions, rankings


def row(questions: Sequence[Question], rankings: Mapping[str, Sequence[str]], seed: int) -> Row:
    """Measures the rankings of judged questions."""
    values = metrics.ranking({question.id: question.relevant for question in questions}, rankings)
    per_question = {name: [found[question.id] for question in questions] for name, found in values.items()}
    low, high = significance.interval(per_question["nDCG@10"], seed)
    means = {name: metrics.mean(found) for name, found in per_question.items()}
    return Row(means=means, per_question=per_question, low=low, high=high)


async def measure(
    dataset: Dataset,
    services: Services,
    *,
    modes: Sequence[Mode],
    depth: int,
    seed: int,
    on_progress: OnProgress,
) -> tuple[dict[str, Row], dict[str, Signal], dict[str, float]]:
    """Mode → row, score → how well it separates unanswerable questions, and step → seconds."""
    seconds: dict[str, float] = {}
    rows: dict[str, Row] = {}
    signals: dict[str, Signal] = {}
    judged = dataset.judged
    unanswerable = [question for question in dataset.questions if question.answerable is False]

    async def ranked(label: str, mode: Mode, queries: Sequence[Sequence[str]]) -> list[Prediction]:
        began = time.monotonic()
        predictions, rankings = await search(
            dataset, judged, queries, services, mode=mode, depth=depth, on_progress=on_progress, task=label
        )
        seconds[label] = time.monotonic() - began
        check_index(dataset, rankings)
        rows[label] = row(judged, rankings, seed)
        return predictions

    questions = [*judged, *unanswerable]
    queries = await phrasings(questions, services, on_progress)
    for mode in modes:
        predictions = await ranked(mode, mode, queries[: len(judged)])
        if mode == "served" and unanswerable:
            began = time.monotonic()
            predictions += await find(
                queries[len(judged) :], services, num_docs=_NEAREST, on_progress=on_progress, task="unanswerable"
            )
            seconds["unanswerable"] = time.monotonic() - began
            signals = _signals(questions, predictions, seed)
    if dataset.conversational and "served" in modes:
        await ranked(LAST_TURN, "served", [(question.text,) for question in judged])
    return rows, signals, seconds


def body(question: Question, **parameters: object) -> dict[str, object]:
    """Body of a `generate` request."""
    history = {"history": [turn.model_dump() for turn in question.history]} if question.history else {}
    return {"text_input": question.text, **history, **parameters}


def signal(scores: Sequence[float], answerable: Sequence[bool], seed: int) -> Signal:
    """How well a score separates answerable questions from the others."""
    curve = metrics.risk_coverage(scores, [float(not one) for one in answerable])
    return Signal(**asdict(metrics.refusals(scores, answerable, seed)), **curve.thinned())


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
    """Raises WrongIndexError if the dataset's documents are known and no passage found comes from them."""
    found = {name for ranked in rankings.values() for name in ranked}
    if dataset.documents is not None and found and found.isdisjoint(dataset.documents):
        raise WrongIndexError(
            f"No passage found comes from a document of {dataset.name}: the vectorstore serves another index."
        )
