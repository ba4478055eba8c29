"""The threshold of refusals for one index version, from questions that somebody has judged."""

from __future__ import annotations

from evaluation.asking import OnProgress, Services
from evaluation.datasets import Dataset
from evaluation.retrieval import find, phrasings
from transformer.answerability import DEFAULT_MODEL, PASSAGES, Calibration, Error, score


async def calibrate(
    dataset: Dataset, services: Services, *, error: Error, rate: float, on_progress: OnProgress
) -> Calibration:
    """The calibration of what the services find for the dataset's questions.

    Args:
        dataset: questions of which it is known whether the index answers them.
        services: over the index.
        error: which error is bounded.
        rate: its bound, 0 … 1.
        on_progress: told of the searches.

    Raises:
        CalibrationError: there are too few questions for this rate.
        ServiceError: a service fails.
    """
    index = await services.index()
    asked = [question for question in dataset.questions if question.answerable is not None]
    queries = await phrasings(asked, services, on_progress)
    found = await find(queries, services, num_docs=PASSAGES, on_progress=on_progress, task="calibration")
    scores = [score(one.text, prediction.passages).score for one, prediction in zip(asked, found, strict=True)]
    return Calibration.fit(
        scores,
        [bool(question.answerable) for question in asked],
        error=error,
        rate=rate,
        model=DEFAULT_MODEL,
        dataset=dataset.name,
        dataset_hash=dataset.sha256,
        index_version=str(index["version"]),
        embedder=str(index["embedder"]),
    )
