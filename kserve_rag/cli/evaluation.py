"""`kserve-rag eval`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from kserve_rag.cli.shared import console, errors, exit_on_signals, read_settings
from kserve_rag.errors import LaunchError, UsageError


def evaluate(
    datasets: Annotated[
        list[str] | None,
        typer.Argument(help="Dataset names, or folders in BEIR's layout. By default `docs`.", metavar="SET…"),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Measure every known dataset.")] = False,
    questions: Annotated[
        Path | None, typer.Option(help="Your own questions about the graph's index: CSV or JSON Lines.")
    ] = None,
    generate: Annotated[
        int, typer.Option(metavar="N", help="Generate N questions from the documents of the graph's index.")
    ] = 0,
    data: Annotated[
        Path | None, typer.Option(help="Folder with the named datasets. By default KSERVE_RAG_DATA.")
    ] = None,
    modes: Annotated[
        str, typer.Option(help="Search modes: served (as configured), dense, lexical, fused, rescored; or all.")
    ] = "served,dense,lexical",
    answers: Annotated[
        int, typer.Option(metavar="N", help="Also generate answers to N questions per set, half of them unanswerable.")
    ] = 0,
    answer_modes: Annotated[
        str, typer.Option(help="Modes of these answers: auto (the default), quote, write; several, or all.")
    ] = "auto",
    depth: Annotated[int, typer.Option(min=20, max=100, help="Passages to retrieve per question.")] = 100,
    seed: Annotated[int, typer.Option(help="Random seed for samples, generated questions and tests.")] = 0,
    calibrate: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=0.999,
            help="Set the index's refusal threshold: the error rate stays at or below this.",
        ),
    ] = None,
    error: Annotated[
        Literal["answerable_refused", "unanswerable_answered", "risk"],
        typer.Option(
            help="The error rate that --calibrate limits: the share of answerable questions that are refused, of "
            "unanswerable questions that are answered, or of answered questions that are unanswerable (risk)."
        ),
    ] = "answerable_refused",
    baseline: Annotated[
        Path | None, typer.Option(help="results.json of an earlier run to compare with, question by question.")
    ] = None,
    gate: Annotated[
        bool, typer.Option("--gate", help="Exit with 1 if anything is significantly worse than the baseline.")
    ] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip invalid records of a dataset.")] = False,
    start: Annotated[bool, typer.Option("--up", help="Start the graph for this run if it is not running.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for results.json, report.md and plots. By default below ~/.kserve-rag/evaluation/results."
        ),
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Also write the tables into this page.", hidden=True)] = None,
) -> None:
    """Measure the quality of retrieval, answers, refusals and citations.

    Each dataset gets a separate index, built with the running graph's embedder. It is kept, so only the first run takes
    long. The graph's own index is not changed; --questions and --generate measure it.

    The report has nDCG@10, MRR@10, MAP@10 and recall@k, and how well scores separate unanswerable questions. --answers
    adds EM, F1, refusals and citations; --baseline adds a paired test of each difference.

    [bold]Examples[/]

      kserve-rag eval                                        this project's own questions, in seconds
      kserve-rag eval --questions faq.csv --answers 50       columns: question, document, answer
      kserve-rag eval --answers 50 --answer-modes all        the LLM, the quotes, and the default beside each other
      kserve-rag eval --generate 200                         questions generated from your documents
      kserve-rag eval scifact --data ~/beir --modes all      every search mode on a public dataset
      kserve-rag eval --questions faq.csv --calibrate 0.05   refuse at most 5 % of the answerable
      kserve-rag eval docs --baseline before/results.json    better or worse than before?
    """
    settings = read_settings()
    if gate and baseline is None:
        raise UsageError("--gate needs --baseline, the results.json to compare with.")
    with _translated_errors(), exit_on_signals():
        from kserve_rag.cli.evaluating import Options
        from kserve_rag.cli.evaluating import evaluate as run_evaluation

        outcome = run_evaluation(
            Options(
                settings=settings,
                datasets=datasets or [],
                every=every,
                questions=questions,
                generate=generate,
                data=data,
                modes=modes,
                answers=answers,
                answer_modes=answer_modes,
                depth=depth,
                seed=seed,
                calibrate=calibrate,
                error=error,
                baseline=baseline,
                skip_bad=skip_bad,
                start=start,
                out=out,
                page=page,
            ),
            console,
        )
    for difference in outcome.worse:
        errors.print(f"[red]significantly worse:[/] {escape(difference)}")
    if gate and outcome.worse:
        raise typer.Exit(1)


@contextlib.contextmanager
def _translated_errors() -> Iterator[None]:
    """Convert errors of other packages to `KserveRagError`."""
    from chassis.errors import ServiceError
    from evaluation.errors import EvaluationError
    from transformer.calibration import CalibrationError

    try:
        yield
    except EvaluationError as error:
        raise UsageError(error.message) from error
    except CalibrationError as error:
        raise UsageError(f"{error} No results are written.") from error
    except ServiceError as error:
        raise LaunchError(f"{error.message} Check `kserve-rag status`. No results are written.") from error
