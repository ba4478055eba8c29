"""Evaluates a dataset and writes results, report and plots."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evaluation import answers, citations, plots, report, retrieval
from evaluation.datasets import Dataset
from evaluation.errors import BaselineError
from evaluation.markdown import replace_part, write
from evaluation.results import AnswersResult, Results, SetResult, machine
from evaluation.retrieval import Mode
from evaluation.services import OnProgress, Services
from transformer.wire import AnswerMode

_VERSIONS = ("kserve-rag", "ir-measures", "pytrec-eval-terrier", "scipy", "chromadb")


async def measure(
    dataset: Dataset,
    *,
    vectorstore_url: str,
    transformer_url: str | None,
    model: str,
    index_settings: Mapping[str, Any],
    modes: Sequence[Mode],
    depth: int,
    sample: int,
    answer_modes: Sequence[AnswerMode],
    seed: int,
    on_progress: OnProgress,
) -> SetResult:
    """Evaluate one dataset.

    Raises:
        ServiceError: a service fails. Nothing is written.
        WrongIndexError: the vectorstore serves another index.
    """
    async with Services(vectorstore_url, transformer_url, model=model) as services:
        index = await services.index()
        rows, signals, seconds = await retrieval.measure(
            dataset, services, modes=modes, depth=depth, seed=seed, on_progress=on_progress
        )
        answered: dict[AnswerMode, AnswersResult] = {}
        checked: dict[str, citations.CitationFigures] = {}
        if sample and services.has_transformer:
            began = time.monotonic()
            answered = await answers.measure(
                dataset, services, modes=answer_modes, sample=sample, seed=seed, on_progress=on_progress
            )
            seconds["answers"] = time.monotonic() - began
            checked = await citations.measure(dataset, services, seed=seed, on_progress=on_progress)
    return SetResult(
        sha256=dataset.sha256,
        documents=None if dataset.documents is None else len(dataset.documents),
        questions=len(dataset.questions),
        judged=[question.id for question in dataset.judged],
        left_out=list(dataset.left_out),
        index={**index, "settings": dict(index_settings)},
        rows=rows,
        signals=signals,
        answers=answered,
        known_answers={half: figures.model_dump() for half, figures in checked.items()},
        seconds=seconds,
    )


def results(sets: Mapping[str, SetResult], *, embedder: str, llm: str, settings: Mapping[str, Any]) -> Results:
    """The results of a run, with the machine and versions."""
    return Results(
        created_at=datetime.now(timezone.utc).replace(microsecond=0),
        machine=machine(),
        versions={name: version(name) for name in _VERSIONS},
        embedder=embedder,
        llm=llm,
        settings=dict(settings),
        sets=dict(sets),
    )


def check_baseline(baseline: Results, datasets: Sequence[Dataset]) -> None:
    """Check that a baseline can be compared with these datasets.

    Raises:
        BaselineError: the baseline has none of them, or one with different content.
    """
    for dataset in datasets:
        before = baseline.sets.get(dataset.name)
        if before is not None and before.sha256 != dataset.sha256:
            raise BaselineError(
                f"The baseline's {dataset.name} has other questions, judgements or documents: create a new baseline."
            )
    if not any(dataset.name in baseline.sets for dataset in datasets):
        raise BaselineError(f"The baseline has {', '.join(baseline.sets)}, but no dataset of this run.")


def keep(folder: Path, found: Results, baseline: Results | None) -> None:
    """Write results.json, report.md and the plots, each atomically."""
    pictures = plots.draw(found)
    for name, picture in pictures.items():
        write(folder / name, picture)
    write(folder / "report.md", f"# Evaluation\n\n{report.markdown(found, baseline=baseline, plots=list(pictures))}\n")
    write(folder / "results.json", found.model_dump_json() + "\n")


def write_page(page: Path, found: Results, baseline: Results | None) -> None:
    """Replace the part `tables` of a documentation page, and the plots in the folder with the page's name.

    Raises:
        EvaluationError: the page has no part `tables`.
    """
    pictures = {f"{page.stem}/{name}": picture for name, picture in plots.draw(found).items()}
    replace_part(page, "tables", report.markdown(found, baseline=baseline, plots=list(pictures)))
    for name, picture in pictures.items():
        write(page.parent / name, picture)
