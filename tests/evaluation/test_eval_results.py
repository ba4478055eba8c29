"""Results: kept whole, read again, compared, made tables and plots of."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from evaluation import datasets, markdown, plots, report, results, run
from evaluation.datasets import BUNDLED
from evaluation.errors import BaselineError, EvaluationError
from evaluation.results import Citations, Results, SetResult
from evaluation.retrieval import LAST_TURN, row, signal

QUESTIONS = datasets.load(BUNDLED / "docs").judged


def made(served: float = 1.0, **fields: Any) -> Results:
    """Results in which the served search answers a share of the questions."""
    found = {question.id: list(question.relevant) for question in QUESTIONS[: int(len(QUESTIONS) * served)]}
    other = {question.id: ["x", *question.relevant] for question in QUESTIONS}
    good, worse = row(QUESTIONS, found, 0), row(QUESTIONS, other, 0)
    values: dict[str, Any] = {
        "sha256": "0",
        "documents": 86,
        "questions": 70,
        "judged": [question.id for question in QUESTIONS],
        "left_out": [],
        "index": {"name": "docs", "version": "v", "documents": 86, "chunks": 90, "embedder": "e", "settings": {}},
        "rows": {"served": good, "dense": worse, "lexical": worse},
        "seconds": {},
    }
    return Results(
        created_at=datetime(2026, 1, 2, tzinfo=timezone.utc),
        machine="a machine",
        versions={"kserve-rag": "1"},
        embedder="minilm",
        llm="smollm2",
        settings={"seed": 0},
        sets={"docs": SetResult.model_validate({**values, **fields})},
    )


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    run.keep(tmp_path / "out", made(), None)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ndcg.svg", "report.md", "results.json"]
    assert results.read(tmp_path / "out") == results.read(tmp_path / "out" / "results.json") == made()


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    markdown.write(tmp_path / "a", "before")
    with pytest.raises(UnicodeEncodeError):
        markdown.write(tmp_path / "a", "\ud800")
    assert (tmp_path / "a").read_text() == "before"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "cannot be read"), ("{", "no results of this release"), ('{"format": 1}', "no results of this release")],
)
def test_a_baseline_that_cannot_be_used(tmp_path: Path, content: str | None, told: str) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(BaselineError, match=told):
        results.read(tmp_path)


def test_a_baseline_of_another_format(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(made().model_copy(update={"format": 9}).model_dump_json())
    with pytest.raises(BaselineError, match="has format 9"):
        results.read(tmp_path)


def test_a_baseline_of_other_questions_is_refused() -> None:
    docs = datasets.load(BUNDLED / "docs")
    with pytest.raises(BaselineError, match="other questions"):
        run.check_baseline(made(), [docs])
    run.check_baseline(made(sha256=docs.sha256), [docs])
    other = made(sha256=docs.sha256)
    with pytest.raises(BaselineError, match="no dataset of this run"):
        run.check_baseline(other.model_copy(update={"sets": {"x": other.sets["docs"]}}), [docs])


def test_drops_against_a_baseline() -> None:
    (served, dense, lexical) = report.against_baseline(made(0.7), made())
    assert (served.row, served.dropped) == ("served", True)
    assert not dense.dropped
    assert not lexical.dropped
    assert "**worse**" in report.markdown(made(0.7), baseline=made())
    assert not any(one.dropped for one in report.against_baseline(made(), made(0.7)))


def test_a_search_worse_than_one_of_its_parts_is_reported() -> None:
    (fine,) = report.against_parts(made())
    assert not fine.dropped
    (bad,) = report.against_parts(made(0.2))
    assert bad.dropped
    assert bad.against == "dense"


def test_a_report_has_all_its_tables() -> None:
    rows = {**made().sets["docs"].rows, "rescored": made().sets["docs"].rows["served"]}
    rows[LAST_TURN] = rows["dense"]
    found = made(
        rows=rows,
        signals={"best support": signal([0.9, 0.1, 0.5, 0.3], [True, False, True, False], 0)},
        left_out=["corpus.jsonl, line 2: the text of 'd2' is empty"],
        answers={
            "auto": {
                "questions": ["q01"],
                "answerable": 1,
                "unanswerable": 0,
                "exact_match": 1,
                "f1": 1,
                "contains": 1,
                "retrieved": 1,
                "refused_unanswerable": None,
                "refused_answerable": 0,
                "right": 1,
                "aurc": 0.1,
                "best_aurc": 0,
                "coverage": [0.5, 1],
                "risk": [0, 0.1],
                "citations": Citations(
                    sentences=1, cited=2, precision=1, recall=1, recall_of_retrieved=None, dangling=0
                ),
                "seconds_p50": 0.5,
                "texts": ["four"],
                "f1_per_question": [1],
                "recall": 1,
                "right_by_recall": 1,
                "words": 1,
                "loops": 0,
                "quoted": 0.25,
            }
        },
    )
    named = found.model_copy(update={"sets": {"scifact": found.sets["docs"]}})
    told = report.markdown(named, plots=["ndcg.svg", "refusal.svg"])
    for heading in (
        "Ranking",
        "all measures",
        "Conversations",
        "published",
        "without an answer",
        "Answers",
        "Citations",
    ):
        assert heading in told
    assert "OpenAI file_search" in told
    assert "| scifact | auto | 1 + 0 |" in told
    assert "line 2: the text of 'd2' is empty" in told
    assert all(picture.startswith("<?xml") for picture in plots.draw(named).values())


def test_pictures_of_the_same_results_are_the_same() -> None:
    assert plots.draw(made()) == plots.draw(made())


def test_text_outside_the_marks_is_kept(tmp_path: Path) -> None:
    page = tmp_path / "evaluation.md"
    page.write_text(
        "# Evaluation\n\nWords.\n\n<!-- tables: make -->\nold\n<!-- end of tables -->\n\nMore words.\n",
        encoding="utf-8",
    )
    run.write_page(page, made(), None)
    told = page.read_text(encoding="utf-8")
    assert told.startswith("# Evaluation\n\nWords.\n\n")
    assert told.endswith("<!-- end of tables -->\n\nMore words.\n")
    assert "old\n" not in told
    assert "](evaluation/ndcg.svg)" in told
    assert (tmp_path / "evaluation" / "ndcg.svg").is_file()
    run.write_page(page, made(), None)
    assert page.read_text(encoding="utf-8") == told


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "evaluation.md"
    page.write_text("# Evaluation\n")
    with pytest.raises(EvaluationError, match="needs the lines <!-- tables: … -->"):
        run.write_page(page, made(), None)
    assert list(tmp_path.iterdir()) == [page]
