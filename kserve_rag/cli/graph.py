"""`kserve-rag up`, `status`, `logs`, `restart` and `down`: the graph on this machine."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from kserve_rag.cli.documents import index_documents
from kserve_rag.cli.questions import ask_first
from kserve_rag.cli.shared import console, exit_on_signals, read_settings, service_names, source_locations
from kserve_rag.errors import LaunchError, UsageError
from kserve_rag.local.graph import ANSWERING, SERVICES, GraphState, follow, need_running, no_page, running
from kserve_rag.local.graph import logs as written_logs
from kserve_rag.local.graph import restart as restart_service
from kserve_rag.local.graph import status as graph_status
from kserve_rag.local.graph import stop as stop_graph
from kserve_rag.settings import Settings


def up(
    docs: Annotated[
        list[str] | None,
        typer.Option(
            "--docs",
            help="File, folder or web address to index; may be repeated. Default: the sources indexed last time.",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="LLM: a name of `kserve-rag models`, or a GGUF file.")] = None,
    models: Annotated[
        Path | None, typer.Option(help="YAML or JSON file with further LLMs, such as remote ones, for `ask --model`.")
    ] = None,
    embedder: Annotated[str | None, typer.Option(help="Embedder: a name of `kserve-rag models`, or a folder.")] = None,
    port: Annotated[int | None, typer.Option(help="HTTP port of the transformer. [default: 8080]")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="gRPC port of the transformer. [default: 8081]")] = None,
    page_port: Annotated[int | None, typer.Option(help="Port of the web page. [default: 8088]")] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Run in the background.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Remove more than half of the documents without asking.")
    ] = False,
    question: Annotated[
        str | None, typer.Option("--ask", metavar="QUESTION", help="Ask this question once the graph is ready.")
    ] = None,
) -> None:
    """Start the whole graph: fetch the models, index the documents, run every service.

    Without --docs, it indexes the sources of the last run, or this project's documentation if there are none. It
    runs in the foreground, where Ctrl-C stops everything, unless --detach is given.

    [bold]Examples[/]

      kserve-rag up --docs ./handbook --docs ./faq.csv
      kserve-rag up --detach --ask "What is the retention period?"
      kserve-rag up --model qwen2.5-1.5b --embedder bge-m3
      kserve-rag up --model ~/models/mine.gguf --port 9080
    """
    settings = read_settings(
        model=model, models_file=models, embedder=embedder, port=port, grpc_port=grpc_port, page_port=page_port
    )
    sources = source_locations(docs or [], [])
    state = running(settings)
    if state is not None:
        ports = {"port": port, "gRPC port": grpc_port, "page port": page_port}
        _use_running(settings, state, sources, ports, question, yes=yes)
        return
    _start(settings, sources, detach=detach, question=question, yes=yes)


def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show the services, with URL and readiness, and the serving index version.

    Exits with 0 if every service is ready, else with 1. The web page does not count.

    [bold]Examples[/]

      kserve-rag status
      kserve-rag status --json
    """
    settings = read_settings()
    found = graph_status(settings)
    if as_json:
        sys.stdout.write(found.model_dump_json(indent=2) + "\n")
    else:
        from kserve_rag.cli.output import print_status

        state = running(settings)
        print_status(console, found, llm=state.llm if state else None, embedder=state.embedder if state else None)
    if not all(service.ready for name, service in found.services.items() if name != "frontend"):
        raise typer.Exit(1)


def logs(
    service: Annotated[str | None, typer.Argument(help=f"One of {', '.join(SERVICES)}. By default all.")] = None,
    follow_on: Annotated[bool, typer.Option("--follow", "-f", help="Follow the logs until Ctrl-C.")] = False,
) -> None:
    """Show the logs of the services. They contain no questions, documents or prompts.

    [bold]Examples[/]

      kserve-rag logs
      kserve-rag logs --follow transformer
    """
    settings = read_settings()
    names = service_names([service] if service is not None else [])
    processes = written_logs(settings.run, names)
    if not processes:
        raise UsageError(f"There are no logs in {settings.run}: the graph was never started there.")
    width = max(map(len, processes))
    with contextlib.suppress(KeyboardInterrupt):
        for name, line in follow(settings.run, names, until=lambda: not follow_on):
            sys.stdout.write(f"{name:<{width}} │ {line}\n" if len(processes) > 1 else f"{line}\n")
            if follow_on:
                sys.stdout.flush()


def restart(
    services: Annotated[
        list[str] | None,
        typer.Argument(help=f"Any of {', '.join(SERVICES)}. By default all.", metavar="SERVICE…"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Restart all services without asking.")] = False,
) -> None:
    """Replace the processes of these services while the graph keeps answering.

    The transformer, the vectorstore, ingest and the page lose no request: the new process takes over when it is ready,
    and the old one finishes its requests. If the new one does not become ready, the old one continues. The embedder and
    the predictor are stopped first: for some seconds, requests get 503 with Retry-After. A service that the graph gave
    up after too many failures is started again.

    [bold]Examples[/]

      kserve-rag restart predictor
      kserve-rag restart
    """
    settings = read_settings()
    names = service_names(services or [])
    state = need_running(settings)
    if not services and not yes and sys.stdin.isatty():
        typer.confirm("Restart every service?", abort=True)
    from kserve_rag.cli.progress import ProgressDisplay

    with exit_on_signals(), ProgressDisplay(console) as display:
        for name in names:
            restart_service(settings, state, name, display)
            console.print(f"The {name} is restarted.")


def down() -> None:
    """Stop the graph. Models, indexes and environments are kept.

    [bold]Example[/]

      kserve-rag down
    """
    if stop_graph(read_settings()):
        console.print("The graph is stopped.")
    else:
        console.print("The graph was not running.")


def _start(settings: Settings, sources: list[str], *, detach: bool, question: str | None, yes: bool) -> None:
    from kserve_rag.cli.progress import ProgressDisplay
    from kserve_rag.local.corpus import local_paths, remembered
    from kserve_rag.local.launcher import launch

    with exit_on_signals(), contextlib.ExitStack() as stack:
        with ProgressDisplay(console) as display:
            documents = local_paths(sources or remembered(settings))
            graph = stack.enter_context(launch(settings, documents, progress=display))
            graph.wait_ready("embedder")
            index_documents(settings, graph.state, sources, display, yes=yes)
            graph.wait_ready(*ANSWERING)
        address = graph.url("transformer")
        console.print(f"[green]✓[/] the graph answers at {address}", end=" ")
        console.print(f"[dim]({escape(graph.state.llm)}, {escape(graph.state.embedder)})[/]")
        for notice in filter(None, (graph.state.llm_notice, graph.state.embedder_notice)):
            console.print(f"[yellow]note[/] {escape(notice)}")
        if question is not None:
            ask_first(address, question)
            console.print()
        with ProgressDisplay(console) as display:
            graph.progress = display
            graph.wait_ready()
        _print_page(graph.state)
        if detach:
            graph.detach()
            console.print("[dim]kserve-rag ask …, status, logs, ingest; `kserve-rag down` stops it.[/]")
            return
        console.print("[dim]Ask from another terminal: kserve-rag ask … · Ctrl-C stops everything.[/]")
        try:
            graph.watch()
        except KeyboardInterrupt:
            console.print("Stopping.")


def _use_running(
    settings: Settings,
    state: GraphState,
    sources: list[str],
    ports: dict[str, int | None],
    question: str | None,
    *,
    yes: bool,
) -> None:
    from kserve_rag.local.launcher import model_store

    store = model_store(settings)
    if settings.model:
        store.check(settings.model, "llm")
    if settings.embedder:
        store.check(settings.embedder, "embedder")
    services = state.services
    addresses = (services["transformer"].url, services["transformer"].grpc_url or "", services["frontend"].url)
    given: dict[str, tuple[object, object]] = {
        "model": (settings.model, state.llm),
        "models": (settings.models_file, state.models_file),
        "embedder": (settings.embedder, state.embedder),
    }
    for (what, port), where in zip(ports.items(), addresses, strict=True):
        given[what] = (str(port) if port else None, where.rpartition(":")[2])
    changed = [
        f"{what} {asked} instead of {has or 'none'}" for what, (asked, has) in given.items() if asked not in (None, has)
    ]
    address = state.services["transformer"].url
    if changed:
        raise LaunchError(
            f"The graph is running at {address}; you asked for {' and '.join(changed)}. "
            "Stop it first: `kserve-rag down`, then `up` again."
        )
    console.print(f"The graph is running already at {address}", end=" ")
    console.print(f"[dim]({escape(state.llm)}, {escape(state.embedder)})[/]")
    _print_page(state)
    if sources:
        from kserve_rag.cli.progress import ProgressDisplay

        with ProgressDisplay(console) as display:
            index_documents(settings, state, sources, display, yes=yes)
    if question is not None:
        ask_first(address, question)


def _print_page(state: GraphState) -> None:
    reason = no_page(state)
    if reason is None:
        console.print(f"[green]✓[/] the page is at {state.services['frontend'].url}")
    else:
        console.print(f"[yellow]note[/] there is no web page: {escape(reason)}")
