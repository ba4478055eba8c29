"""The results of an evaluation, stored in results.json."""

from __future__ import annotations

import os
import platform
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from evaluation.errors import BaselineError
from transformer.wire import AnswerMode

FORMAT = 2

Rounded = Annotated[float, AfterValidator(lambda value: round(value, 5))]


class Row(BaseModel):
    """Measures of one search mode."""

    means: dict[str, Rounded]
    per_question: dict[str, list[Rounded]]
    """In the order of `SetResult.judged`."""
    low: Rounded
    high: Rounded
    """95 % interval of nDCG@10."""


class RiskCurve(BaseModel):
    """Risk if only the questions with the highest scores are answered. See `metrics.Curve`."""

    aurc: Rounded
    best_aurc: Rounded
    coverage: list[Rounded]
    risk: list[Rounded]


class Signal(RiskCurve):
    """How well a score separates answerable from unanswerable questions. Loss: 1 for answering an unanswerable one."""

    auroc: Rounded
    refused: dict[str, Rounded]
    """Share of answerable questions answered → share of unanswerable questions refused at that threshold."""
    held_out_answered: Rounded
    held_out_refused: Rounded


class Citations(BaseModel):
    """Quotes of the answers compared with the documents judged relevant."""

    sentences: int
    cited: int
    """Number of quotes."""
    precision: Rounded | None
    """Share of quotes that come from a relevant document; None without quotes."""
    recall: Rounded | None
    """Share of the answers to answerable questions with a quote of a relevant document."""
    recall_of_retrieved: Rounded | None
    """`recall` among answers with a relevant document in their sources."""
    dangling: int
    """Quotes that differ from the stored document at their span."""


class AnswersResult(RiskCurve):
    """The transformer's answers to a sample of questions."""

    questions: list[str]
    answerable: int
    unanswerable: int
    exact_match: Rounded
    f1: Rounded
    contains: Rounded
    """Share of answers that contain a gold answer. Like the two above: of answerable questions; a refusal scores 0."""
    recall: Rounded
    """Mean of `metrics.recall`. Like the three above."""
    right_by_recall: Rounded
    """`right`, if recall decides instead of F1."""
    retrieved: Rounded
    """Share of answerable questions with a relevant document in their sources."""
    refused_unanswerable: Rounded | None
    refused_answerable: Rounded | None
    right: Rounded
    """Share of unanswerable questions that are refused and answerable ones that get a gold answer."""
    words: Rounded
    """Mean number of words of the answers that are no refusals."""
    loops: int
    """Answers that repeat themselves (`transformer.loops`)."""
    quoted: Rounded
    """Share of quotes among the answers that are no refusals."""
    citations: Citations | None
    seconds_p50: Rounded
    texts: list[str]
    """The answers, in the order of the questions."""
    f1_per_question: list[Rounded]


class SetResult(BaseModel):
    """Results of one dataset."""

    sha256: str
    documents: int | None
    questions: int
    judged: list[str]
    """Questions with a relevant document, in the order of `Row.per_question`."""
    left_out: list[str]
    index: dict[str, Any]
    """Name, version, documents, chunks, embedder, and build settings."""
    rows: dict[str, Row]
    signals: dict[str, Signal] = Field(default_factory=dict)
    answers: dict[AnswerMode, AnswersResult] = Field(default_factory=dict)
    known_answers: dict[str, dict[str, float]] = Field(default_factory=dict)
    """`all` or `held_out` → name of a figure of evaluation.citations → value."""
    seconds: dict[str, Rounded]


class Results(BaseModel):
    """Results of a run."""

    format: int = FORMAT
    created_at: datetime
    machine: str
    versions: dict[str, str]
    embedder: str
    llm: str
    settings: dict[str, Any]
    """Settings of the run: depth, seed, modes, sample size."""
    sets: dict[str, SetResult]


def machine() -> str:
    """CPU model, number of CPUs and Python version."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text(encoding="utf-8").splitlines() if cpus.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.machine())
    return f"{os.cpu_count()} × {model}, Python {platform.python_version()}"


def read(path: Path) -> Results:
    """Read a results.json, given its path or its folder.

    Raises:
        BaselineError: it does not exist, or another release wrote it.
    """
    file = path / "results.json" if path.is_dir() else path
    try:
        results = Results.model_validate_json(file.read_bytes())
    except OSError as error:
        raise BaselineError(
            f"{file} cannot be read: {error.strerror}. Give the results.json of an earlier run."
        ) from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise BaselineError(f"{file} holds no results of this release ({where}: {problem['msg']}).") from error
    if results.format != FORMAT:
        raise BaselineError(f"{file} has format {results.format}; this release reads format {FORMAT}: evaluate again.")
    return results
