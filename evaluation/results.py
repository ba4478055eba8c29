"""What an evaluation found: the JSON that is kept, compared with later ones, and made tables and plots of."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from evaluation.errors import BaselineError

FORMAT = 1


class Row(BaseModel):
    """One way of searching."""

    means: dict[str, float]
    per_question: dict[str, list[float]]
    """In the order of `SetResult.judged`."""
    low: float
    high: float
    """95 % interval of nDCG@10."""


class Signal(BaseModel):
    """How well one score says whether a question has an answer in the documents."""

    auroc: float
    refused: dict[str, float]
    """Share of the answerable that is answered to share of the unanswerable that is then refused."""
    held_out_answered: float
    held_out_refused: float
    aurc: float
    best_aurc: float
    coverage: list[float]
    risk: list[float]
    """The curve, thinned; a question that has no answer is risked where it is answered."""


class Citations(BaseModel):
    """What the answers rest on, against the documents that are known to answer."""

    sentences: int
    cited: int
    """Citations in all."""
    precision: float | None
    """Share of the citations that quote a relevant document. None where there are none."""
    recall: float | None
    """Share of the answers to answerable questions whose citations quote a relevant document."""
    recall_of_retrieved: float | None
    """The same, of those answers that were shown a relevant document."""
    dangling: int
    """Citations whose quote is not what the stored document has at that place."""


class AnswersResult(BaseModel):
    """What the transformer answered to a sample of questions."""

    questions: list[str]
    answerable: int
    unanswerable: int
    exact_match: float
    f1: float
    contains: float
    """The answer holds a gold one. These three over the answerable; a refusal scores 0."""
    retrieved: float
    """Share of the answerable whose sources held a relevant document."""
    refused_unanswerable: float | None
    refused_answerable: float | None
    right: float
    """Share of all that were right: a refusal where there is no answer, a gold answer where there is one."""
    aurc: float
    best_aurc: float
    coverage: list[float]
    risk: list[float]
    citations: Citations | None
    seconds_p50: float
    texts: list[str]
    """The answers, in the order of the questions."""
    f1_per_question: list[float]


class SetResult(BaseModel):
    """One dataset."""

    sha256: str
    documents: int | None
    questions: int
    judged: list[str]
    """Questions with a relevant document, in the order of the values below."""
    left_out: list[str]
    index: dict[str, Any]
    """Name, version, documents, chunks, embedder, and the settings that it was built with."""
    rows: dict[str, Row]
    signals: dict[str, Signal] = Field(default_factory=dict)
    answers: AnswersResult | None = None
    known_answers: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Figures of evaluation/citations.py: half of the questions → name → value."""
    seconds: dict[str, float]


class Results(BaseModel):
    """A whole run."""

    format: int = FORMAT
    created_at: datetime
    machine: str
    versions: dict[str, str]
    embedder: str
    llm: str
    settings: dict[str, Any]
    """Of the run: depth, seed, modes, size of the sample."""
    sets: dict[str, SetResult]


def read(path: Path) -> Results:
    """Results of an earlier run: a results.json, or the folder that holds one.

    Raises:
        BaselineError: there are none, or they were written by another release.
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
        raise BaselineError(f"{file} has format {results.format}; this release compares format {FORMAT}: run it again.")
    return results


def write(path: Path, content: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
