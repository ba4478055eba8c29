"""Loads and validates datasets in the BEIR layout: questions, documents and relevance judgements.

A dataset is a folder with

- `corpus.jsonl`: {"_id", "title", "text"}, one document per line;
- `queries.jsonl`: {"_id", "text", "metadata"}; the metadata may have `answers` (list of texts), `history` (earlier
  turns, [role, text] or {"role", "content"}), `unanswerable` (true: no document answers it), `passage` (the document
  that the question is about, whether or not it answers);
- `qrels.tsv` or `qrels/test.tsv`: query, document, grade; three columns with or without a header, or TREC's four.

Source of the layout: https://github.com/beir-cellar/beir/wiki/Load-your-custom-dataset
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from evaluation.errors import DatasetError, UnknownDatasetError
from evaluation.markdown import write
from transformer.wire import Message
from vectorstore.wire import Passage

BUNDLED = Path(__file__).parent / "sets"
"""Datasets bundled with the package."""

QRELS = ("qrels.tsv", "qrels/test.tsv")

_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "agent": "assistant", "bot": "assistant"}
_Item = TypeVar("_Item")
_SKIP_ADVICE = "Fix the file, or leave these records out with --skip-bad: the results then say how many."


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its known answers and judgements."""

    id: str
    text: str
    history: tuple[Message, ...] = ()
    """Earlier turns, oldest first."""
    answers: tuple[str, ...] = ()
    """Gold answers, each of which is right; empty if none is known."""
    relevant: Mapping[str, int] = field(default_factory=dict)
    """Document → grade; 0: judged as not relevant."""
    answerable: bool | None = None
    """None if not judged."""
    passage: str | None = None
    """The document that the question is about, whether or not it has the answer."""


NameOf = Callable[[Passage, Question], str]
"""Passage → name of its document, as in `Question.relevant`."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Validated questions over a corpus."""

    name: str
    questions: tuple[Question, ...]
    sha256: str
    """Digest of questions, judgements and documents. Results with equal digests are comparable."""
    name_of: NameOf
    corpus: Path | None = None
    """File to index; None if the questions refer to an existing index."""
    documents: Mapping[str, str] | None = None
    """Document → title, for all documents of the corpus; a document without a title has its id."""
    twins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Document → all documents with the same text, including itself. An index keeps only the first."""
    left_out: tuple[str, ...] = ()
    """Skipped records, with the reasons."""

    @property
    def judged(self) -> tuple[Question, ...]:
        """Questions with at least one relevant document."""
        return tuple(question for question in self.questions if any(question.relevant.values()))

    @property
    def conversational(self) -> bool:
        """Whether any question has a history."""
        return any(question.history for question in self.questions)

    def names_of(self, passage: Passage, question: Question) -> tuple[str, ...]:
        """Names of the passage's document and of all documents with the same text."""
        name = self.name_of(passage, question)
        return self.twins.get(name, (name,))

    def sample(self, count: int, seed: int) -> list[Question]:
        """At most `count` random questions, up to half of them unanswerable, in the dataset's order.

        Only questions with known answers, and questions known to be unanswerable, are drawn.
        """
        with_answers = [question for question in self.judged if question.answers]
        without = [question for question in self.questions if question.answerable is False]
        draw = random.Random(f"{seed}\0{self.name}")  # noqa: S311 - a sample, no secret
        hard = min(len(without), count // 2)
        easy = min(len(with_answers), count - hard)
        hard = min(len(without), count - easy)
        chosen = {question.id for question in draw.sample(with_answers, easy) + draw.sample(without, hard)}
        return [question for question in self.questions if question.id in chosen]


def held_out(question: Question) -> bool:
    """Whether the question is in the half that was not used to choose constants."""
    return bool(hashlib.sha256(question.id.encode()).digest()[-1] & 1)


def halves(items: Sequence[_Item], group: Callable[[_Item], str]) -> tuple[list[_Item], list[_Item]]:
    """Splits items into halves of similar size, deterministically. Items of a group stay together."""
    groups = sorted({group(item) for item in items}, key=lambda name: hashlib.sha256(name.encode()).digest())
    first = set(groups[::2])
    return [item for item in items if group(item) in first], [item for item in items if group(item) not in first]


def find(name: str, data: Sequence[Path]) -> Path:
    """The folder of a dataset, given its name in the package or below the folders `data`, or its path.

    Raises:
        UnknownDatasetError: there is no such dataset; the message lists the known ones.
    """
    for parent in (BUNDLED, *data):
        if name in available([parent]):
            return parent / name
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser().resolve()
    known = available(data)
    where = ", ".join(str(folder) for folder in data)
    raise UnknownDatasetError(
        f"There is no dataset {name!r}. Known: {', '.join(known)}. Searched: {where or 'no folder'} (--data or "
        "KSERVE_RAG_DATA). You can also give the path of a folder in the BEIR layout."
    )


def available(data: Sequence[Path]) -> list[str]:
    """Names of all datasets: bundled ones, then those in the data folders.

    The name of one in a folder of several has that folder's, as in `xquad/de`.
    """
    names = [
        found.parent.relative_to(parent).as_posix()
        for parent in (BUNDLED, *data)
        for pattern in ("*/queries.jsonl", "*/*/queries.jsonl")
        for found in sorted(parent.glob(pattern))
        if (found.parent / "corpus.jsonl").is_file()
    ]
    return list(dict.fromkeys(names))


def load(folder: Path, *, name: str | None = None, skip_bad: Path | None = None) -> Dataset:
    """The dataset in a folder.

    Args:
        folder: folder with the files listed above.
        name: the dataset's name; None: the folder's.
        skip_bad: folder for a copy of the corpus without invalid records; None: invalid records are errors.

    Raises:
        DatasetError: a file is missing, an id is repeated, a text is empty or not UTF-8, a line is not a record, or a
            judgement names an unknown question or document.
    """
    qrels_file = next((folder / name for name in QRELS if (folder / name).is_file()), folder / QRELS[0])
    files = [folder / "corpus.jsonl", folder / "queries.jsonl", qrels_file]
    missing = [f"{file.relative_to(folder)} is missing" for file in files if not file.is_file()]
    if missing:
        raise DatasetError(folder, missing, "It needs corpus.jsonl, queries.jsonl and qrels.tsv (or qrels/test.tsv).")
    problems: list[str] = []
    documents = _records(files[0], problems)
    of_documents = len(problems)
    queries = _records(files[1], problems)
    relevant = _qrels(files[2], queries, documents, problems)
    questions = tuple(
        _question(query, record, _history(record, f"{files[1].name}, line {line}", problems), relevant.get(query, {}))
        for query, (line, record) in queries.items()
    )
    if problems and skip_bad is None:
        raise DatasetError(folder, problems, _SKIP_ADVICE)
    if not any(any(question.relevant.values()) for question in questions):
        raise DatasetError(folder, [f"{qrels_file.name} judges no document of any question as relevant"])
    corpus = files[0]
    if of_documents and skip_bad is not None:
        corpus = skip_bad / "corpus.jsonl"
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for _, record in documents.values())
        write(corpus, "".join(lines))
    return Dataset(
        name=name or folder.name,
        questions=questions,
        sha256=hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest(),
        name_of=_by_record_id,
        corpus=corpus,
        documents={document: str(record.get("title") or document) for document, (_, record) in documents.items()},
        twins=_twins({document: record for document, (_, record) in documents.items()}),
        left_out=tuple(problems),
    )


def lines_of(file: Path, problems: list[str]) -> Iterator[tuple[int, str]]:
    """Numbers and text of the non-blank lines of a UTF-8 file; undecodable lines are added to `problems`."""
    with file.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                problems.append(
                    f"{file.name}, line {number}: byte {error.start + 1} is not UTF-8. Convert the file, for example "
                    f"with `iconv -f WINDOWS-1252 -t UTF-8`"
                )
                continue
            if line.strip():
                yield number, line


def json_lines(file: Path, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbers and JSON objects of the lines of a file; other lines are added to `problems`."""
    for number, line in lines_of(file, problems):
        try:
            record = json.loads(line)
        except ValueError as error:
            problems.append(f"{file.name}, line {number}: not JSON ({error})")
            continue
        if isinstance(record, dict):
            yield number, record
        else:
            problems.append(f"{file.name}, line {number}: not a JSON object")


def _records(file: Path, problems: list[str]) -> dict[str, tuple[int, dict[str, Any]]]:
    """Id → line number and record."""
    records: dict[str, tuple[int, dict[str, Any]]] = {}
    for number, record in json_lines(file, problems):
        where = f"{file.name}, line {number}"
        key = str(record["_id"]) if isinstance(record.get("_id"), str | int) else ""
        if not key:
            problems.append(f'{where}: the object has no "_id"')
        elif key in records:
            problems.append(f"{where}: line {records[key][0]} has the id {key!r} too")
        elif not (isinstance(record.get("text"), str) and record["text"].strip()):
            problems.append(f"{where}: the text of {key!r} is empty")
        else:
            records[key] = (number, record)
    return records


def _qrels(
    file: Path, queries: Mapping[str, Any], documents: Mapping[str, Any], problems: list[str]
) -> dict[str, dict[str, int]]:
    grades: dict[str, dict[str, int]] = {}
    for number, line in lines_of(file, problems):
        where = f"{file.name}, line {number}"
        cells = line.strip("\r\n").split("\t")
        if len(cells) == 1:
            cells = line.split()
        if len(cells) == 4:
            del cells[1]  # TREC's iteration
        if len(cells) != 3:
            problems.append(f"{where}: {len(cells)} columns instead of query, document and grade, separated by tabs")
            continue
        query, document, grade = (cell.strip() for cell in cells)
        if not re.fullmatch(r"[+-]?\d+", grade):
            if number > 1:
                problems.append(f"{where}: the grade {grade!r} is not a whole number")
            continue  # the header
        if query not in queries:
            problems.append(f"{where}: there is no query {query!r} in queries.jsonl")
        elif document not in documents:
            problems.append(f"{where}: there is no document {document!r} in corpus.jsonl")
        elif grades.get(query, {}).get(document, int(grade)) != int(grade):
            problems.append(f"{where}: an earlier line has another grade for {query!r} and {document!r}")
        else:
            grades.setdefault(query, {})[document] = max(0, int(grade))
    return grades


def _metadata(record: Mapping[str, Any]) -> dict[str, Any]:
    return record["metadata"] if isinstance(record.get("metadata"), dict) else {}


def _history(record: Mapping[str, Any], where: str, problems: list[str]) -> tuple[Message, ...]:
    history: list[Message] = []
    for turn in _metadata(record).get("history") or ():
        role, content = turn if isinstance(turn, list) and len(turn) == 2 else (None, None)
        if isinstance(turn, dict):
            role, content = turn.get("role", turn.get("speaker")), turn.get("content", turn.get("text"))
        if not isinstance(content, str) or role not in _ROLES:
            problems.append(f"{where}: a turn of the history is not [role, text]")
            return ()
        history.append(Message.model_validate({"role": _ROLES[role], "content": content}))
    return tuple(history)


def _question(
    query: str, record: Mapping[str, Any], history: tuple[Message, ...], relevant: Mapping[str, int]
) -> Question:
    metadata = _metadata(record)
    answers, passage = metadata.get("answers"), metadata.get("passage")
    unanswerable = metadata.get("unanswerable") is True
    return Question(
        id=query,
        text=record["text"].strip(),
        history=history,
        answers=tuple(answer for answer in answers if isinstance(answer, str) and answer.strip())
        if isinstance(answers, list) and not unanswerable
        else (),
        relevant={} if unanswerable else relevant,
        answerable=False if unanswerable else True if any(relevant.values()) else None,
        passage=passage if isinstance(passage, str) else None,
    )


def _by_record_id(passage: Passage, question: Question) -> str:
    """The record's id, which ingestion stores in the metadata."""
    return str(passage.metadata.get("_id", passage.document_id))


def _twins(documents: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Documents with the same text, of which ingestion indexes only the first."""
    same: dict[tuple[str, str], list[str]] = {}
    for document, record in documents.items():
        text = " ".join(record["text"].split())
        title = record.get("title")
        # Like ingestion: the title of a short text is part of it.
        same.setdefault((str(title or "") if len(text) < 200 else "", text), []).append(document)
    return {document: tuple(group) for group in same.values() if len(group) > 1 for document in group}
