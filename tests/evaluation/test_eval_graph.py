"""`kserve-rag eval` on a running graph."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from evaluation import results
from tests.evaluation.conftest import WriteSet
from tests.kserve_rag.command_line import Run, runner_here
from transformer.calibration import Calibration

if TYPE_CHECKING:
    from kserve_rag.cli.evaluating import Options, Outcome
    from kserve_rag.settings import Settings
    from tests.conftest import RunningGraph

CORPUS = [
    {"_id": "heron", "title": "Herons", "text": "The grey heron stands still in shallow water and waits for fish."},
    {"_id": "twin", "title": "Wader", "text": "Long legs. " * 30},
    {"_id": "swift", "title": "Swifts", "text": "Swifts sleep in the air and come to the ground only to breed."},
    {"_id": "wader", "title": "Wader", "text": "Long legs. " * 30},
]
QUERIES = [
    {"_id": "q1", "text": "Which bird waits for fish?", "metadata": {"answers": ["the grey heron"]}},
    {"_id": "q2", "text": "Where do they sleep?", "metadata": {"history": [["user", "What are swifts?"]]}},
    {"_id": "q3", "text": "Which bird has long legs?"},
    {"_id": "u1", "text": "What is the wingspan of an albatross?", "metadata": {"unanswerable": True}},
]
QRELS = "q1\theron\t1\nq2\tswift\t1\nq3\twader\t1\n"


def evaluated(run: Options) -> tuple[Outcome, str]:
    from kserve_rag.cli.evaluating import evaluate

    output = io.StringIO()
    outcome = evaluate(run, Console(file=output, width=200))
    return outcome, output.getvalue()


def test_a_dataset_is_measured_beside_the_graphs_own_index(
    graph: RunningGraph, graph_settings: Settings, write_set: WriteSet, tmp_path: Path
) -> None:
    from kserve_rag.cli.evaluating import Options

    folder = write_set(corpus=CORPUS, queries=QUERIES, qrels=QRELS, name="birds")
    run = Options(
        graph_settings, datasets=[str(folder)], modes="all", answers=2, answer_modes="all", out=tmp_path / "first"
    )
    outcome, told = evaluated(run)
    found = outcome.results.sets["birds"]
    assert set(found.rows) == {"served", "dense", "lexical", "fused", "rescored", "served, last turn only"}
    assert found.judged == ["q1", "q2", "q3"]
    assert found.rows["served"].per_question["MRR@10"][:2] == [1, 1]
    # Of two identical documents the index keeps the first; the other one counts as found with it.
    assert found.rows["served"].per_question["R@5"][2] == 1
    assert set(found.signals) >= {"answerability", "best score", "best similarity", "best lexical score"}
    assert set(found.answers) == {"quote", "write", "auto"}
    for answers in found.answers.values():
        assert answers.questions == ["q1", "u1"]
        assert answers.citations is None or answers.citations.dangling == 0
    quoted = found.answers["quote"]
    assert (quoted.quoted, quoted.contains, quoted.loops) == (1.0, 1.0, 0)
    assert found.index["documents"] == 3
    assert found.index["settings"]["chunker"]
    assert "birds: nDCG@10" in told
    assert outcome.worse == []

    again, told = evaluated(
        Options(
            graph_settings,
            datasets=[str(folder)],
            baseline=tmp_path / "first",
            out=tmp_path / "second",
            calibrate=0.25,
        )
    )
    version = found.index["version"]
    (kept,) = (graph_settings.home / "evaluation" / "indexes").glob(f"birds-*/{version}.calibration.json")
    calibration = Calibration.parse(kept.read_bytes())
    assert calibration.index_version == version
    assert calibration.embedder.startswith("all-MiniLM-L6-v2-int8@sha256:")
    assert (calibration.answerable, calibration.unanswerable, calibration.answerable_answered) == (3, 1, 1)
    assert f"score below {calibration.threshold:.3f} are refused: 0.0% of the 3 answerable ones" in told
    assert again.results.sets["birds"].rows["served"] == found.rows["served"]
    assert again.results.sets["birds"].index["version"] == found.index["version"]
    assert "no significant difference" in (tmp_path / "second" / "report.md").read_text()


def test_own_questions_are_measured_on_the_graphs_own_index(
    graph: RunningGraph, graph_settings: Settings, tmp_path: Path
) -> None:
    from kserve_rag.cli.evaluating import Options

    file = tmp_path / "mine.csv"
    file.write_text(
        "question,document,answer\nWhat does error code E08 mean?,troubleshooting.md,\n"
        "What does a calibration cost?,,140 euros\nWho built the pyramids?,,\n"
    )
    outcome, _ = evaluated(Options(graph_settings, questions=file, out=tmp_path / "out"))
    found = outcome.results.sets["mine"]
    assert found.index["version"] == graph.index_version
    assert found.rows["served"].per_question["R@5"] == [1, 1]
    assert found.signals


def test_questions_can_be_made_of_the_documents(graph: RunningGraph, graph_settings: Settings, tmp_path: Path) -> None:
    from kserve_rag.cli.evaluating import Options

    outcome, _ = evaluated(Options(graph_settings, generate=5, modes="served,lexical", out=tmp_path / "out"))
    found = outcome.results.sets["generated"]
    assert len(found.judged) == 5
    assert found.rows["served"].means["R@10"] == 1


def test_documents_missing_from_the_index_are_an_error(
    graph: RunningGraph, graph_settings: Settings, tmp_path: Path
) -> None:
    from evaluation.errors import DatasetError
    from kserve_rag.cli.evaluating import Options

    (tmp_path / "mine.csv").write_text("question,document\nWhat does error code E08 mean?,nowhere.md\n")
    with pytest.raises(DatasetError, match=r"expects 'nowhere.md'"):
        evaluated(Options(graph_settings, questions=tmp_path / "mine.csv", out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def eval_here(graph_settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `kserve-rag eval …` in the shared graph's home, or in another one."""

    def run(*arguments: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
        settings = graph_settings.model_copy(update={"home": home or graph_settings.home})
        return runner_here(settings, monkeypatch, capsys)("eval", *arguments)

    return run


def test_the_gate_fails_on_a_drop(graph: RunningGraph, eval_here: Run, tmp_path: Path, write_set: WriteSet) -> None:
    # The judgements name a wrong document for each question; the baseline claims perfect results.
    corpus = [{"_id": f"d{number}", "text": f"The number {number} is written here."} for number in range(20)]
    queries = [{"_id": f"q{number}", "text": f"Where is {number} written?"} for number in range(20)]
    qrels = "".join(f"q{number}\td{(number + 1) % 20}\t1\n" for number in range(20))
    folder = str(write_set(corpus=corpus, queries=queries, qrels=qrels, name="numbers"))
    made = eval_here(folder, "--out", str(tmp_path / "out"))
    assert made.returncode == 0, made.stderr
    baseline = results.read(tmp_path / "out")
    served = baseline.sets["numbers"].rows["served"]
    served.per_question["nDCG@10"] = [1.0] * 20
    (tmp_path / "better.json").write_text(baseline.model_dump_json())
    arguments = (folder, "--out", str(tmp_path / "again"), "--baseline", str(tmp_path / "better.json"))
    dropped = eval_here(*arguments, "--gate")
    assert dropped.returncode == 1
    assert "significantly worse: numbers, served, nDCG@10" in dropped.stderr.replace("\n", " ")
    assert eval_here(*arguments).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--modes", "dense,quick"], "There is no mode 'quick'"),
        (["--answer-modes", "terse"], "There is no answer mode 'terse'"),
        (["nowhere"], "There is no dataset 'nowhere'"),
        (["--data", "/nowhere"], "There is no folder /nowhere"),
        (["--gate"], "--gate needs --baseline"),
        (["--questions", "/nowhere.csv"], "there is no such file"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_starts(
    eval_here: Run, tmp_path: Path, arguments: list[str], told: str
) -> None:
    refused = eval_here(*arguments, home=tmp_path / "home")
    assert refused.returncode == 2
    assert told in refused.stderr
    assert not (tmp_path / "home" / "evaluation").exists()


def test_without_a_graph_the_error_names_the_next_step(eval_here: Run, tmp_path: Path) -> None:
    refused = eval_here(home=tmp_path / "home")
    assert refused.returncode == 4
    assert "kserve-rag up" in refused.stderr


def test_invalid_data_is_an_error_and_nothing_is_written(eval_here: Run, tmp_path: Path, write_set: WriteSet) -> None:
    folder = write_set(corpus=[{"_id": "d1", "text": "a"}, {"_id": "d1", "text": "b"}])
    refused = eval_here(str(folder), "--out", str(tmp_path / "out"), home=tmp_path / "home")
    assert refused.returncode == 2
    assert "corpus.jsonl, line 2" in refused.stderr
    assert not (tmp_path / "out").exists()


def test_settings_of_the_run_are_in_the_results(
    graph: RunningGraph, eval_here: Run, tmp_path: Path, write_set: WriteSet
) -> None:
    folder = write_set(name="one")
    made = eval_here(str(folder), "--seed", "7", "--out", str(tmp_path / "out"))
    assert made.returncode == 0, made.stderr
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    assert kept["settings"] == {
        "modes": "served,dense,lexical",
        "depth": 100,
        "answers": 0,
        "answer_modes": "auto",
        "seed": 7,
    }
    assert kept["versions"]["ir-measures"]


def test_too_few_questions_for_a_calibration(graph: RunningGraph, eval_here: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("question,document\nWhat does error code E08 mean?,troubleshooting.md\n")
    asked = ["--questions", str(tmp_path / "mine.csv"), "--out", str(tmp_path / "out")]
    done = eval_here(*asked, "--calibrate", "0.05")
    assert done.returncode != 0
    assert "give at least 19" in done.stderr
    assert not (tmp_path / "out").exists()
    unknown = eval_here(*asked, "--calibrate", "0.05", "--error", "wrong")
    assert "'answerable_refused', 'unanswerable_answered', 'risk'" in unknown.stderr
