"""Reads a user's own questions about the indexed documents from a CSV or JSON Lines file.

Each question has the document that answers it, or an answer, or both:

    question,document,answer
    Who approves travel?,travel.md,
    What is the retention period?,,90 days

`document` is a file path as ingestion saw it (`handbook/travel.md`, or just `travel.md`), a title, a URL or a document
id; `|` separates several. With only an answer, any passage that contains it is right. A question with neither
cannot be answered from the documents: the graph should refuse it. The first line of a CSV file names the columns.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evaluation.datasets import Dataset, Question, json_lines, lines_of
from evaluation.errors import DatasetError
from evaluation.metrics import contains
from vectorstore.wire import Passage

ANSWER = "(a passage with the answer)"
"""Document name for questions that name none."""

_QUESTION = ("question", "query", "text", "input")
_DOCUMENT = ("document", "documents", "expected_document", "source", "url")
_ANSWER = ("answer", "answers", "expected_answer")


def load(file: Path) -> Dataset:
    """The questions in a file.

    Raises:
        DatasetError: the file is unreadable or has no column of questions, or a question is empty or repeated.
    """
    problems: list[str] = []
    questions: dict[str, Question] = {}
    if not file.is_file():
        raise DatasetError(file, ["there is no such file"])
    for number, record in _records(file, problems):
        where = f"{file.name}, line {number}"
        text = _first(record, _QUESTION)
        if not text:
            problems.append(f"{where}: no question (a column {', '.join(_QUESTION[:-1])} or {_QUESTION[-1]})")
            continue
        if text in questions:
            problems.append(f"{where}: an earlier line has the same question: {text[:60]!r}")
            continue
        documents, answers = _several(record, _DOCUMENT), _several(record, _ANSWER)
        questions[text] = Question(
            id=hashlib.sha256(text.encode()).hexdigest()[:12],
            text=text,
            answers=answers,
            relevant=dict.fromkeys(documents, 1) if documents else {ANSWER: 1} if answers else {},
            answerable=bool(documents or answers),
        )
    if problems:
        raise DatasetError(file, problems, "Fix the file; `kserve-rag eval --help` shows the format.")
    if not any(question.relevant for question in questions.values()):
        raise DatasetError(file, ["no question names a document or an answer"])
    return Dataset(
        name=file.stem,
        questions=tuple(questions.values()),
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        name_of=_expected,
    )


def _expected(passage: Passage, question: Question) -> str:
    """The name that the question uses for the passage's document, else the document's id."""
    known = (passage.document_id, passage.source, Path(passage.source).name, passage.title, passage.url)
    lowered = {name.casefold() for name in (*known, str(passage.metadata.get("_id", ""))) if name}
    for name in question.relevant:
        if name.casefold() in lowered:
            return name
    if ANSWER in question.relevant and contains(passage.text, question.answers):
        return ANSWER
    return passage.document_id


def _records(file: Path, problems: list[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if file.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        yield from json_lines(file, problems)
        return
    content = "".join(line for _, line in lines_of(file, problems))
    first = content.partition("\n")[0]
    # newline="": csv handles line breaks inside cells.
    rows = csv.DictReader(io.StringIO(content, newline=""), delimiter=max(",;\t", key=first.count))
    try:
        for row in rows:
            yield rows.line_num, {(name or "").strip().lower(): value for name, value in row.items()}
    except csv.Error as error:
        problems.append(f"{file.name}, line {rows.line_num}: not CSV ({error})")


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((record[name].strip() for name in names if isinstance(record.get(name), str)), "")


def _several(record: Mapping[str, Any], names: tuple[str, ...]) -> tuple[str, ...]:
    found: list[str] = []
    for name in names:
        value = record.get(name)
        values = value if isinstance(value, list) else value.split("|") if isinstance(value, str) else []
        found += [one.strip() for one in values if isinstance(one, str) and one.strip()]
    return tuple(dict.fromkeys(found))
