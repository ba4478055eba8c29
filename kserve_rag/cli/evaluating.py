"""Evaluate the running graph, on its own index or on datasets.

A dataset gets a separate index below `<home>/evaluation`, which is kept, and a separate vectorstore and transformer
during the measurement. The index and services of the graph are not changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, get_args

from rich.console import Console

from evaluation import datasets as sets
from evaluation import pairs, questions, report, results, retrieval
from evaluation import run as evaluation
from evaluation.calibration import calibrate
from evaluation.datasets import Dataset
from evaluation.errors import DatasetError
from evaluation.markdown import write
from evaluation.services import TIMEOUT_S, Services
from ingest.events import OnProgress
from kserve_rag.cli.progress import EvaluationProgress, ProgressDisplay
from kserve_rag.errors import LaunchError, UsageError
from kserve_rag.local.graph import GraphState, ServiceName, last_lines, loopback_client, need_running, probe, running
from kserve_rag.local.indexing import index
from kserve_rag.local.launcher import launch, model_store
from kserve_rag.local.services import (
    inherited_environment,
    reserving_ports,
    transformer_variables,
    vectorstore_variables,
)
from kserve_rag.progress import Progress
from kserve_rag.settings import HOST, Settings
from transformer.calibration import Calibration, Error
from transformer.wire import AnswerMode
from vectorstore.versions import IndexRoot

_READY_WITHIN_S = 60.0
_POLL_S = 0.1

_Mode = TypeVar("_Mode", bound=str)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of `kserve-rag eval`; its help describes them."""

    settings: Settings
    datasets: Sequence[str] = ()
    every: bool = False
    questions: Path | None = None
    generate: int = 0
    data: Path | None = None
    modes: str = "served"
    answers: int = 0
    answer_modes: str = "auto"
    depth: int = 100
    seed: int = 0
    calibrate: float | None = None
    error: Error = "answerable_refused"
    baseline: Path | None = None
    skip_bad: bool = False
    start: bool = False
    out: Path | None = None
    page: Path | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Results of an evaluation."""

    results: results.Results
    folder: Path
    worse: list[str]
    """Differences that are significantly worse: than the baseline, or than one search signal alone."""


@dataclass(frozen=True, slots=True)
class Target:
    """The services to measure, and their index."""

    vectorstore_url: str
    transformer_url: str | None
    model: str
    index: IndexRoot
    index_settings: dict[str, Any]
    """Settings that the index was built with."""


def evaluate(run: Options, console: Console) -> Outcome:
    """Measure, write the results and print a summary. Checks the options before it starts anything.

    Raises:
        EvaluationError: a dataset or the baseline cannot be used.
        UsageError: the options contradict each other, or a corpus cannot be indexed.
        NotRunningError: no graph is running.
        ServiceError: a service failed. Nothing is written.
        CalibrationError: there are too few questions for the requested error rate.
    """
    modes = _modes(run.modes, retrieval.MODES, "mode")
    answer_modes = _modes(run.answer_modes, get_args(AnswerMode), "answer mode")
    baseline = results.read(run.baseline) if run.baseline is not None else None
    selected = _datasets(run)
    if baseline is not None and selected:
        evaluation.check_baseline(baseline, selected)
    with contextlib.ExitStack() as stack:
        with ProgressDisplay(console) as display:
            state = stack.enter_context(
                graph(run.settings, start=run.start, predictor=bool(run.answers), progress=display)
            )
        if run.generate:
            selected.append(pairs.make(indexed_documents(state), count=run.generate, seed=run.seed))
            if baseline is not None:
                evaluation.check_baseline(baseline, selected)
        if baseline is not None and baseline.embedder != state.embedder:
            console.print(f"[yellow]note[/] the baseline was made with embedder {baseline.embedder}", highlight=False)
        _check_documents(state, selected)
        found: dict[str, results.SetResult] = {}
        for dataset in selected:
            found[dataset.name] = _measure(run, state, dataset, modes, answer_modes, console)
    measured = evaluation.results(
        found,
        embedder=state.embedder,
        llm=state.llm,
        settings={
            "modes": ",".join(modes),
            "depth": run.depth,
            "answers": run.answers,
            "answer_modes": ",".join(answer_modes),
            "seed": run.seed,
        },
    )
    folder = run.out or run.settings.home / "evaluation" / "results" / datetime.now().strftime("%Y%m%d-%H%M%S")
    evaluation.keep(folder, measured, baseline)
    if run.page is not None:
        evaluation.write_page(run.page, measured, baseline)
    console.print(f"[green]✓[/] {folder / 'report.md'}")
    compared = [*report.against_parts(measured), *(report.against_baseline(measured, baseline) if baseline else ())]
    if baseline is not None:
        for one in compared:
            console.print(f"  {one}", markup=False)
    return Outcome(measured, folder, [str(one) for one in compared if one.dropped])


@contextlib.contextmanager
def graph(settings: Settings, *, start: bool, predictor: bool, progress: Progress) -> Iterator[GraphState]:
    """The running graph. If none is running and `start` is set, a new one until the block ends."""
    if not start or running(settings) is not None:
        yield need_running(settings)
        return
    # Any free port will do: the page is not used.
    with launch(settings.model_copy(update={"page_port": 0}), progress=progress) as started:
        started.wait_ready(*(("embedder", "predictor") if predictor else ("embedder",)))
        yield started.state


@contextlib.contextmanager
def over_dataset(
    settings: Settings, state: GraphState, dataset: Dataset, *, transformer: bool, on_progress: OnProgress
) -> Iterator[Target]:
    """Index a dataset and serve the index until the block ends."""
    if dataset.corpus is None:
        raise AssertionError(f"{dataset.name} has no corpus")
    own = _dataset_state(settings, state, dataset, transformer=transformer)
    index(own, [dataset.corpus], on_progress, allow_removal=True)
    with contextlib.ExitStack() as stack:
        logs = settings.home / "evaluation" / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        variables: dict[ServiceName, dict[str, str]] = {"vectorstore": vectorstore_variables(settings, own)}
        if transformer:
            llm = model_store(settings).materialise(state.llm, "llm")
            variables["transformer"] = {
                **transformer_variables(settings, own, llm),
                "TRANSFORMER_TIMEOUT_S": str(TIMEOUT_S),
            }
        for name, environ in variables.items():
            stack.enter_context(_process(own, name, environ, logs / f"{name}.log"))
        yield _target(own, transformer=transformer)


def indexed_documents(state: GraphState) -> list[tuple[str, str]]:
    """Id and text of every document in the graph's index."""
    with IndexRoot(state.index_root, state.index_name).open() as version:
        return [(document.id, document.text) for document in version.documents()]


def document_names(state: GraphState) -> set[str]:
    """All names of the documents in the graph's index, case-folded: ids, paths, file names, titles and URLs."""
    names: set[str] = set()
    with IndexRoot(state.index_root, state.index_name).open() as version:
        for document in version.documents():
            names.update((document.id, document.source, Path(document.source).name, document.title, document.url or ""))
            names.add(str(document.metadata.get("_id", "")))
    return {name.casefold() for name in names if name}


def data_folders(settings: Settings, given: Path | None) -> list[Path]:
    """Folders with named datasets."""
    if given is None:
        return [settings.data] if settings.data is not None and settings.data.is_dir() else []
    if not given.expanduser().is_dir():
        raise UsageError(f"There is no folder {given} with datasets.")
    return [given.expanduser().resolve()]


def _modes(given: str, known: Sequence[_Mode], noun: str) -> list[_Mode]:
    names = [name.strip() for name in given.split(",") if name.strip()]
    if names == ["all"]:
        return list(known)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        shown = ", ".join(map(repr, unknown)) or repr(given)
        raise UsageError(f"There is no {noun} {shown}. Choose from {', '.join(known)}; or all.")
    return [mode for mode in known if mode in names]


def _datasets(run: Options) -> list[Dataset]:
    """The datasets that can be loaded without a running graph."""
    folders = data_folders(run.settings, run.data)
    names = [*(sets.available(folders) if run.every else ()), *run.datasets]
    if not names and run.questions is None and not run.generate:
        names = ["docs"]
    loaded: list[Dataset] = []
    named = sets.available(folders)
    for name in dict.fromkeys(names):
        copy = run.settings.home / "evaluation" / "corpora" / (name if name in named else Path(name).name)
        loaded.append(
            sets.load(
                sets.find(name, folders),
                name=name if name in named else None,
                skip_bad=copy if run.skip_bad else None,
            )
        )
    if run.questions is not None:
        loaded.append(questions.load(run.questions.expanduser()))
    duplicates = {dataset.name for dataset in loaded if sum(dataset.name == other.name for other in loaded) > 1}
    if duplicates:
        raise UsageError(
            f"Two datasets are named {', '.join(duplicates)}: rename one folder, or measure them one at a time."
        )
    return loaded


def _check_documents(state: GraphState, selected: Sequence[Dataset]) -> None:
    """Raises DatasetError if the graph's index lacks a document that a question expects."""
    own = [dataset for dataset in selected if dataset.corpus is None and dataset.name != "generated"]
    if not own:
        return
    known = document_names(state)
    for dataset in own:
        missing = [
            f"the question {question.text[:60]!r} expects {name!r}"
            for question in dataset.questions
            for name in question.relevant
            if name != questions.ANSWER and name.casefold() not in known
        ]
        if missing:
            raise DatasetError(
                Path(dataset.name),
                missing,
                "No indexed document has that file name, title, URL or id. Index it (`kserve-rag ingest`) or correct "
                "the name.",
            )


def _measure(
    run: Options,
    state: GraphState,
    dataset: Dataset,
    modes: Sequence[retrieval.Mode],
    answer_modes: Sequence[AnswerMode],
    console: Console,
) -> results.SetResult:
    transformer = bool(run.answers) or dataset.conversational
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        counts = stack.enter_context(EvaluationProgress(console, dataset.name))
        if dataset.corpus is None:
            services = _target(state, transformer=transformer)
        else:
            services = stack.enter_context(
                over_dataset(run.settings, state, dataset, transformer=transformer, on_progress=counts.ingest)
            )
        found = asyncio.run(
            evaluation.measure(
                dataset,
                vectorstore_url=services.vectorstore_url,
                transformer_url=services.transformer_url,
                model=services.model,
                index_settings=services.index_settings,
                modes=modes,
                depth=run.depth,
                sample=run.answers,
                answer_modes=answer_modes,
                seed=run.seed,
                on_progress=counts.update,
            )
        )
        calibration = _calibrate(run, services, dataset, counts.update) if run.calibrate is not None else None
    console.print(f"[green]✓[/] {dataset.name}: {report.summary(found)} [dim]{time.monotonic() - began:.1f} s[/]")
    if calibration is not None:
        low, high = calibration.interval
        console.print(
            f"[green]✓[/] {dataset.name}: questions that score below {calibration.threshold:.3f} are refused: "
            f"{1 - calibration.answerable_answered:.1%} of the {calibration.answerable} answerable ones, "
            f"{calibration.unanswerable_refused:.1%} of the {calibration.unanswerable} others; "
            f"{_ERRORS[calibration.error]}: {calibration.observed:.1%} ({low:.1%} to {high:.1%})",
            highlight=False,
        )
    return found


_ERRORS: dict[Error, str] = {
    "answerable_refused": "refused of the answerable",
    "unanswerable_answered": "answered of the others",
    "risk": "unanswerable of the answered",
}


def _calibrate(
    run: Options, services: Target, dataset: Dataset, on_progress: Callable[[str, int, int], None]
) -> Calibration:
    """Calibrate refusals, and save the calibration next to the index version."""

    async def run_calibration() -> Calibration:
        async with Services(services.vectorstore_url, services.transformer_url, model=services.model) as asked:
            return await calibrate(dataset, asked, error=run.error, rate=run.calibrate or 0.0, on_progress=on_progress)

    calibration = asyncio.run(run_calibration())
    write(services.index.calibration_file(calibration.index_version), calibration.json().decode())
    return calibration


def _dataset_state(settings: Settings, state: GraphState, dataset: Dataset, *, transformer: bool) -> GraphState:
    services = {name: service.model_copy() for name, service in state.services.items()}
    with reserving_ports() as reserve:
        services["vectorstore"].url = f"http://{HOST}:{reserve()}"
        if transformer:
            services["transformer"].url = f"http://{HOST}:{reserve()}"
            services["transformer"].grpc_url = f"{HOST}:{reserve()}"
    # One index per corpus and embedder, so that nothing is embedded again when the embedder is switched back.
    corpus = dataset.corpus.resolve().parent if dataset.corpus else dataset.name
    place = hashlib.sha256(f"{corpus}\0{state.embedder}".encode()).hexdigest()[:8]
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", dataset.name).lstrip("_.-")[:40] or "set"
    root = settings.home / "evaluation" / "indexes"
    return state.model_copy(update={"index_root": root, "index_name": f"{name}-{place}", "services": services})


def _target(state: GraphState, *, transformer: bool) -> Target:
    root = IndexRoot(state.index_root, state.index_name)
    with root.open() as version:
        built_with = dict(version.manifest.settings)
    service = state.services["transformer"]
    return Target(
        vectorstore_url=state.services["vectorstore"].url,
        transformer_url=service.url if transformer else None,
        model=service.model,
        index=root,
        index_settings=built_with,
    )


@contextlib.contextmanager
def _process(state: GraphState, name: ServiceName, variables: dict[str, str], log: Path) -> Iterator[None]:
    """Run a service until the block ends; it is ready when the block begins."""
    command: Sequence[str] = [sys.executable, "-m", name]
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            command, env={**inherited_environment(), **variables}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + _READY_WITHIN_S
        with loopback_client() as client:
            while not (answer := probe(client, state.services[name]))[0]:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise LaunchError(
                        f"The {name} for the dataset is not ready ({answer[1]}). Its last lines:\n"
                        f"{last_lines(log.parent, name)}"
                    )
                time.sleep(_POLL_S)
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
