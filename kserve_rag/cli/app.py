"""`kserve-rag`: the whole graph from the command line."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional, cast, get_args

import typer
from pydantic import SecretStr, ValidationError
from rich.console import Console

from kserve_rag.errors import KserveRagError, LaunchError, SetupError, UsageError
from kserve_rag.local.graph import ANSWERING, SERVICES, GraphState, ServiceName, follow, need_running, no_page, running
from kserve_rag.local.graph import logs as written_logs
from kserve_rag.local.graph import status as graph_status
from kserve_rag.local.graph import stop as stop_graph
from kserve_rag.settings import HOST, Settings

if TYPE_CHECKING:
    from kserve_rag.cli.console import ProgressDisplay
    from kserve_rag.local.launcher import Graph
    from transformer.answerability import Error

app = typer.Typer(
    name="kserve-rag",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Question answering over your documents, as a KServe inference graph on this machine.

[bold]First steps[/]

  kserve-rag up                          start everything, over this project's own documentation
  kserve-rag up --docs ~/handbook        … over your own folder
  kserve-rag ask "How do I roll back?"   a streamed answer with its sources
  kserve-rag down                        stop everything

Everything is kept in ~/.kserve-rag, or in the folder that KSERVE_RAG_HOME names.
""",
)
models_app = typer.Typer(help="The models that are known by name.", invoke_without_command=True)
app.add_typer(models_app, name="models")

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

_MOST_REPLICAS = 16
_SINGLE: ServiceName = "ingest"

DocsOption = Annotated[
    Optional[list[Path]],  # noqa: UP045 - typer reads this at run time, on 3.10 too
    typer.Option("--docs", help="File or folder to index; may be given several times. By default the last ones given."),
]


@app.command()
def up(
    docs: DocsOption = None,
    model: Annotated[
        Optional[str], typer.Option(help="LLM: a name of `kserve-rag models`, or a GGUF file.")  # noqa: UP045
    ] = None,
    embedder: Annotated[
        Optional[str], typer.Option(help="Embedder: a name of `kserve-rag models`, or a folder.")  # noqa: UP045
    ] = None,
    port: Annotated[Optional[int], typer.Option(help="HTTP port of the transformer. [default: 8080]")] = None,  # noqa: UP045
    grpc_port: Annotated[Optional[int], typer.Option(help="Its gRPC port. [default: 8081]")] = None,  # noqa: UP045
    page_port: Annotated[Optional[int], typer.Option(help="Port of the web page. [default: 8088]")] = None,  # noqa: UP045
    replicas: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            metavar="[SERVICE=]N", help="Processes of a service, or of each but ingest; may be given several times."
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave it running in the background.")] = False,
    question: Annotated[
        Optional[str], typer.Option("--ask", metavar="QUESTION", help="Ask this once it is up.")  # noqa: UP045
    ] = None,
) -> None:
    """Start the whole graph: fetch the models, index the documents, run every service.

    Without --docs it indexes what it indexed last, and the first time this project's own documentation.
    Stays in the foreground, where Ctrl-C ends everything, unless --detach is given.

    [bold]Examples[/]

      kserve-rag up --docs ./handbook --docs ./faq.csv
      kserve-rag up --detach --ask "What is the retention period?"
      kserve-rag up --model qwen2.5-1.5b --embedder bge-m3
      kserve-rag up --model ~/models/mine.gguf --port 9080
      kserve-rag up --replicas transformer=2 --replicas vectorstore=2
    """
    settings = _settings(model=model, embedder=embedder, port=port, grpc_port=grpc_port, page_port=page_port)
    paths, counts = _existing(docs or []), _replica_counts(replicas or [])
    state = running(settings)
    if state is not None:
        ports = {"port": port, "gRPC port": grpc_port, "page port": page_port}
        _already_up(settings, state, paths, counts, ports, question)
        return
    _start(settings, paths, counts, detach=detach, question=question)


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="In your own words.")],
    num_docs: Annotated[Optional[int], typer.Option(help="Passages to answer from.")] = None,  # noqa: UP045
    max_tokens: Annotated[int, typer.Option(help="Most tokens of the answer.")] = 256,
    temperature: Annotated[Optional[float], typer.Option(help="0: always the likeliest words.")] = None,  # noqa: UP045
    retrieval: Annotated[bool, typer.Option(help="Whether to answer from the documents at all.")] = True,
    url: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Transformer to ask, here or in a cluster. By default the graph that runs here."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON.")] = False,
) -> None:
    """Ask a question: the answer as it is made, then the sources that it rests on.

    [bold]Examples[/]

      kserve-rag ask "Which ports does the graph listen on?"
      kserve-rag ask --num-docs 8 --temperature 0 "What changed in the last version?"
      kserve-rag ask --url https://rag.example.org --json "Who approves travel?"

    A graph in a cluster gets its token from the variable KSERVE_RAG_TOKEN.
    """
    settings = _settings()
    url = url or need_running(settings).services["transformer"].url
    _ask(
        url,
        question,
        token=settings.token,
        as_json=as_json,
        num_docs=num_docs,
        max_tokens=max_tokens,
        temperature=temperature,
        retrieval=retrieval,
    )


@app.command()
def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders.", metavar="PATH…")],
    add: Annotated[bool, typer.Option("--add", help="Keep what the index holds already, and add this.")] = False,
) -> None:
    """Make the index hold what is under these paths: new and changed files are read, deleted ones forgotten.

    Markdown, text, HTML, PDF, CSV, JSON and JCR content. Unchanged files cost nothing. The new version of the index is
    served as soon as it is whole; until then the one before answers.

    [bold]Examples[/]

      kserve-rag ingest ./handbook
      kserve-rag ingest --add ./press-releases
    """
    settings = _settings()
    state = need_running(settings)
    from kserve_rag.cli.console import ProgressDisplay

    with ProgressDisplay(console) as display:
        _index(settings, state, _existing(paths), display, add=add)


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Show each service: where it is, whether it is ready, and if not, why; and the index that is served.

    Exits with 0 if everything is ready, with 1 if not. The web page may be absent.
    """
    settings = _settings()
    found = graph_status(settings)
    if as_json:
        sys.stdout.write(found.model_dump_json(indent=2) + "\n")
    else:
        from kserve_rag.cli.console import print_status

        state = running(settings)
        print_status(console, found, llm=state.llm if state else None, embedder=state.embedder if state else None)
    if not all(service.ready for name, service in found.services.items() if name != "frontend"):
        raise typer.Exit(1)


@app.command("eval")
def evaluate(
    datasets: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(help="Names of datasets, or folders in the layout of BEIR. By default `docs`.", metavar="SET…"),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every dataset that is known by name.")] = False,
    questions: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Your own questions about the documents that the graph has indexed: CSV or JSON Lines."),
    ] = None,
    generate: Annotated[
        int, typer.Option(metavar="N", help="Make N questions from the documents that the graph has indexed.")
    ] = 0,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of datasets, for those named; or KSERVE_RAG_DATA."),
    ] = None,
    modes: Annotated[
        str, typer.Option(help="Ways of searching: served (as it is set up), dense, lexical, fused, rescored; or all.")
    ] = "served,dense,lexical",
    answers: Annotated[
        int, typer.Option(metavar="N", help="Have N questions of each set answered as well; half without an answer.")
    ] = 0,
    depth: Annotated[int, typer.Option(min=20, max=100, help="Passages asked for per question.")] = 100,
    seed: Annotated[int, typer.Option(help="Of samples, generated questions and tests.")] = 0,
    calibrate: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            min=0.001, max=0.999, help="Set the threshold of refusals of the index so that this error rate is kept."
        ),
    ] = None,
    error: Annotated[
        str,
        typer.Option(help="Which error that is: answerable_refused, unanswerable_answered, or risk (of the answered)."),
    ] = "answerable_refused",
    baseline: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="results.json of an earlier run, to compare with, question by question."),
    ] = None,
    gate: Annotated[
        bool, typer.Option("--gate", help="Exit with 1 where anything is significantly worse than the baseline.")
    ] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out records that cannot be used.")] = False,
    start: Annotated[bool, typer.Option("--up", help="Start the graph for this run if none is running.")] = False,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Folder for results.json, report.md and plots. By default below ~/.kserve-rag/evaluation/results."
        ),
    ] = None,
    page: Annotated[Optional[Path], typer.Option(help="Write the tables into this page too.", hidden=True)] = None,  # noqa: UP045
) -> None:
    """Measure how well the graph finds, answers, refuses and cites.

    A dataset is indexed by the running graph's embedder, under a name of its own that is kept: only
    the first run takes long. What the graph serves stays as it is. With --questions or --generate the
    graph's own index is measured.

    Measured are nDCG@10, MRR@10, MAP@10 and recall@k; how well a score tells questions that have no
    answer; and with --answers EM and F1, refusals and citations. With --baseline each difference gets
    the p of a paired test.

    [bold]Examples[/]

      kserve-rag eval                                        this project's own questions, in seconds
      kserve-rag eval --questions faq.csv --answers 50       columns: question, document, answer
      kserve-rag eval --generate 200                         no questions at hand: made from your documents
      kserve-rag eval scifact --data ~/beir --modes all      stage by stage
      kserve-rag eval --questions faq.csv --calibrate 0.05   refuse at most 5 % of the answerable
      kserve-rag eval docs --baseline before/results.json    better or worse than before?
    """
    settings = _settings()
    if gate and baseline is None:
        raise UsageError("--gate needs --baseline: the results.json of the run that must not be fallen behind.")
    with _evaluation_errors(), _stopped_by_signals():
        from kserve_rag.cli.evaluating import Run, evaluate

        outcome = evaluate(
            Run(
                settings=settings,
                datasets=datasets or [],
                every=every,
                questions=questions,
                generate=generate,
                data=data,
                modes=modes,
                answers=answers,
                depth=depth,
                seed=seed,
                calibrate=calibrate,
                error=_error_kind(error),
                baseline=baseline,
                skip_bad=skip_bad,
                start=start,
                out=out,
                page=page,
            ),
            console,
        )
    for dropped in outcome.dropped:
        errors.print(f"[red]significantly worse:[/] {_plain(dropped)}")
    if gate and outcome.dropped:
        raise typer.Exit(1)


@app.command()
def mcp(
    url: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Transformer to ask, here or in a cluster. By default the graph of this machine."),
    ] = None,
    http: Annotated[bool, typer.Option("--http", help="Serve over streamable HTTP in place of stdio.")] = False,
    host: Annotated[str, typer.Option(help="With --http: address to listen on.")] = HOST,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="With --http: port to listen on.")] = 8089,
    allow_host: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="NAME", help="With --http: a host name that callers address it by, beside localhost."),
    ] = None,
) -> None:
    """Give assistants the graph as tools: an MCP server with `search` and `ask`.

    Without --http the assistant starts this command by itself, and speaks to it
    on standard input and output. Its settings name it, most often so:

      {"mcpServers": {"kserve-rag": {
        "command": "/path/to/kserve-rag", "args": ["mcp"]}}}

    A graph in a cluster gets its token from the variable KSERVE_RAG_TOKEN.

    With --http every caller's own Authorization header is passed on, and none is
    kept; KSERVE_RAG_TOKEN is not used. Only this machine reaches it, unless
    --host and --allow-host say otherwise.

    [bold]Examples[/]

      kserve-rag mcp
      kserve-rag mcp --url https://rag.example.org
      kserve-rag mcp --http                     at http://127.0.0.1:8089/mcp
      kserve-rag mcp --http --host 0.0.0.0 --allow-host mcp.example.org
    """
    settings = _settings()
    names = allow_host or []
    from kserve_rag.mcp import LOOPBACK, GraphTools, need_port, serve_http, serve_stdio

    if host not in LOOPBACK and not names:
        raise UsageError(
            f"With --host {host} others reach this server. Name what they address it by: --allow-host mcp.example.org."
        )
    state = running(settings) if url is None else None
    address = url or (state.services["transformer"].url if state else f"http://{HOST}:{settings.port}")
    tools = GraphTools(address, token=settings.token)
    if not http:
        serve_stdio(tools)
        return
    need_port(host, port)
    errors.print(f"MCP at http://{host}:{port}/mcp, from the graph at {address} · Ctrl-C stops it.")
    serve_http(tools, host=host, port=port, names=names)


@app.command()
def logs(
    service: Annotated[
        Optional[str], typer.Argument(help=f"One of {', '.join(SERVICES)}. By default all.")  # noqa: UP045
    ] = None,
    follow_on: Annotated[bool, typer.Option("--follow", "-f", help="Go on as more is written, until Ctrl-C.")] = False,
) -> None:
    """Show what the services say. Questions, documents and prompts are not in their logs."""
    settings = _settings()
    names = _services([service] if service is not None else [])
    processes = written_logs(settings.run, names)
    if not processes:
        raise UsageError(f"There are no logs in {settings.run}: the graph was never started there.")
    width = max(map(len, processes))
    with contextlib.suppress(KeyboardInterrupt):
        for name, line in follow(settings.run, names, until=lambda: not follow_on):
            sys.stdout.write(f"{name:<{width}} │ {line}\n" if len(processes) > 1 else f"{line}\n")
            if follow_on:
                sys.stdout.flush()


@app.command()
def restart(
    services: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(help=f"Of {', '.join(SERVICES)}. By default all.", metavar="SERVICE…"),
    ] = None,
) -> None:
    """Put a new process in the place of each of a service's, while it goes on answering.

    The new one is started with the arguments and the environment of the one before, and gets the
    connections when it is ready; the one before answers what it was asked, and ends. One that does not
    become ready changes nothing. A service that has ended is started again.

    [bold]Examples[/]

      kserve-rag restart predictor
      kserve-rag restart
    """
    settings = _settings()
    names = _services(services or [])
    state = need_running(settings)
    from kserve_rag.cli.console import ProgressDisplay
    from kserve_rag.local.replicas import replicas

    with _stopped_by_signals(), ProgressDisplay(console) as display, replicas(settings, state, display) as processes:
        for name in names:
            processes.restart(name)
            console.print(f"The {name} is restarted.")


@app.command()
def down() -> None:
    """Stop the graph. Models, indexes and environments stay for the next time."""
    if stop_graph(_settings()):
        console.print("The graph is stopped.")
    else:
        console.print("The graph was not running.")


@models_app.callback()
def models(context: typer.Context) -> None:
    """List the models that are known by name, with size and licence, and whether they are on this machine already.

    [bold]Examples[/]

      kserve-rag models
      kserve-rag models fetch qwen2.5-0.5b
      kserve-rag up --model qwen2.5-0.5b
    """
    if context.invoked_subcommand is not None:
        return
    from rich.padding import Padding

    from kserve_rag.cli.console import size
    from kserve_rag.local.launcher import model_store

    store = model_store(_settings())
    defaults = set(store.catalogue.defaults.values())
    names = max(map(len, store.catalogue.models))
    for name, model in store.catalogue.models.items():
        here = "[green]here[/]" if store.cached(name) else "    "
        default = ", the default" if name in defaults else ""
        console.print(f"[bold]{name:<{names}}[/]  {size(model.size_bytes):>6}  {here}  {model.kind}{default}")
        what = Padding(f"{model.what} [dim]({model.licence})[/]", (0, 0, 0, 4), expand=False)
        console.print(what, soft_wrap=False)


@models_app.command()
def fetch(name: Annotated[str, typer.Argument(help="A name of `kserve-rag models`.")]) -> None:
    """Fetch a model now, so that `up` needs no network."""
    from kserve_rag.cli.console import ProgressDisplay
    from kserve_rag.local.launcher import model_store

    with ProgressDisplay(console) as display:
        store = model_store(_settings(), display)
        model = store.catalogue.models.get(name)
        if model is None:
            raise UsageError(f"There is no model {name!r}. `kserve-rag models` lists them.")
        folder = store.materialise(name, model.kind)
    console.print(f"{name} is in {_plain(str(folder.path))}")


_EXTRAS = {"ir_measures": "evaluation", "matplotlib": "evaluation", "scipy": "evaluation", "mcp": "mcp"}
"""Module that is missing → extra that brings it, where that is not `local`."""

_NOT_KEPT = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST)
"""What a folder says in which nothing can be kept."""


def main() -> NoReturn:
    """The program. Errors are one line on standard error; the exit status says of what kind (kserve_rag/errors.py)."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # No character, and no name of a file, that it cannot tell ends the program.
        sys.stdout.reconfigure(errors="replace")
    try:
        # typer hands the status of `typer.Exit`, and of an interrupt, back as a value.
        code = app(standalone_mode=False)
    except KserveRagError as error:
        errors.print(f"[red]error:[/] {_plain(error.message)}")
        sys.exit(error.exit_code)
    except ValidationError as error:
        prefix = "INGEST_" if error.title == "IngestSettings" else "KSERVE_RAG_"
        for problem in error.errors():
            name = str(problem["loc"][0] if problem["loc"] else error.title)
            variable = name if name.isupper() else f"{prefix}{name.upper()}"
            errors.print(f"[red]error:[/] {variable}: {_plain(problem['msg'])}")
        sys.exit(UsageError.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "", "local")
        errors.print(f"[red]error:[/] {_plain(str(error))}. Install it with: pip install 'kserve-rag\\[{extra}]'")
        sys.exit(SetupError.exit_code)
    except Exception as error:
        # Click's own: a wrong option or argument.
        show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
        if show is None or code is None:
            if os.environ.get("KSERVE_RAG_TRACE"):
                raise
            if isinstance(error, OSError) and error.errno in _NOT_KEPT:
                told = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
                errors.print(
                    f"[red]error:[/] {_plain(told)}. Make room or grant access there, "
                    "or name another folder with KSERVE_RAG_HOME."
                )
                sys.exit(SetupError.exit_code)
            told = f"{type(error).__name__}: {error}"
            errors.print(f"[red]error:[/] {_plain(told)} (KSERVE_RAG_TRACE=1 shows where)")
            sys.exit(1)
        show()
        sys.exit(code)
    sys.exit(code if isinstance(code, int) else 0)


# ── up ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _start(
    settings: Settings, paths: list[Path], counts: dict[ServiceName, int], *, detach: bool, question: str | None
) -> None:
    from kserve_rag.cli.console import ProgressDisplay
    from kserve_rag.local.launcher import launch

    with _stopped_by_signals(), contextlib.ExitStack() as stack:
        with ProgressDisplay(console) as display:
            graph: Graph = stack.enter_context(launch(settings, progress=display))
            graph.wait_ready("embedder")
            _index(settings, graph.state, paths, display)
            graph.wait_ready(*ANSWERING)
        address = graph.url("transformer")
        console.print(f"[green]✓[/] the graph answers at {address}")
        if question is not None:
            _ask_first(address, question)
            console.print()
        with ProgressDisplay(console) as display:
            graph.progress = display
            graph.wait_ready()
            graph.scale(counts)
        _tell_page(graph.state)
        if detach:
            graph.detach()
            console.print("[dim]kserve-rag ask …, status, logs, ingest; `kserve-rag down` stops it.[/]")
            return
        console.print("[dim]Ask from another terminal: kserve-rag ask … · Ctrl-C stops everything.[/]")
        try:
            graph.watch()
        except KeyboardInterrupt:
            console.print("Stopping.")


def _already_up(
    settings: Settings,
    state: GraphState,
    paths: list[Path],
    counts: dict[ServiceName, int],
    ports: dict[str, int | None],
    question: str | None,
) -> None:
    services = state.services
    addresses = (services["transformer"].url, services["transformer"].grpc_url or "", services["frontend"].url)
    given = {"model": (settings.model, state.llm), "embedder": (settings.embedder, state.embedder)}
    for (what, port), where in zip(ports.items(), addresses, strict=True):
        given[what] = (str(port) if port else None, where.rpartition(":")[2])
    changed = [f"{what} {asked} instead of {has}" for what, (asked, has) in given.items() if asked not in (None, has)]
    address = state.services["transformer"].url
    if changed:
        raise LaunchError(
            f"The graph is running at {address}; you asked for {' and '.join(changed)}. "
            "Stop it first: `kserve-rag down`, then `up` again."
        )
    console.print(f"The graph is running already at {address}", end=" ")
    console.print(f"[dim]({_plain(state.llm)}, {_plain(state.embedder)})[/]")
    _tell_page(state)
    from kserve_rag.cli.console import ProgressDisplay
    from kserve_rag.local.replicas import scale

    with ProgressDisplay(console) as display:
        scale(settings, state, counts, display)
        if paths:
            _index(settings, state, paths, display)
    if question is not None:
        _ask_first(address, question)


def _tell_page(state: GraphState) -> None:
    reason = no_page(state)
    if reason is None:
        console.print(f"[green]✓[/] the page is at {state.services['frontend'].url}")
    else:
        console.print(f"[yellow]note[/] there is no web page: {_plain(reason)}")


def _index(
    settings: Settings, state: GraphState, paths: list[Path], display: ProgressDisplay, *, add: bool = False
) -> None:
    from kserve_rag.local.corpus import bundled, remember, remembered
    from kserve_rag.local.indexing import index, wait_until_served

    before = remembered(settings)
    if add or not paths:
        gone = [path for path in before if not path.exists()]
        if gone and paths:
            raise UsageError(f"{gone[0]}, which the index follows, is not there. Leave --add away to forget it.")
        if gone:
            # A drive that is not mounted must not empty the index.
            console.print(f"[yellow]note[/] {_plain(str(gone[0]))} is not there: the index stays as it is")
            return
        paths = [*(path for path in before if path not in paths), *paths]
    summary = index(state, paths or bundled(settings), display.ingest)
    if paths != before:
        remember(settings, paths)
    display.ingested(summary)
    if summary.version is not None:
        wait_until_served(state, summary.version)


class _Interrupted(KeyboardInterrupt):
    """A kind of its own, because Python remembers that a KeyboardInterrupt went through code made at run time.

    Dataclasses make such code, so it is met while modules are imported. Under `python -m` the program would then end by
    SIGINT, whatever status it chose (CPython, `unhandled_keyboard_interrupt`).
    """


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGINT end this program as a Ctrl-C does: with everything stopped.

    SIGINT has to be asked for too: a shell has it ignored in the programs that its scripts run in the background.
    """

    def interrupt(*_: Any) -> NoReturn:
        raise _Interrupted

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ── ask ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _ask_first(url: str, question: str) -> None:
    console.print(f"\n[bold]{_plain(question)}[/]")
    _ask(url, question, as_json=False, max_tokens=256)


def _ask(url: str, question: str, *, as_json: bool, token: SecretStr | None = None, **parameters: Any) -> None:
    from kserve_rag.client import Client

    with Client(url, token=None if token is None else token.get_secret_value()) as client:
        if as_json:
            sys.stdout.write(client.ask(question, **parameters).model_dump_json(indent=2) + "\n")
            return
        from kserve_rag.cli.console import print_answer

        print_answer(console, client.stream(question, **parameters))


# ── eval ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def _evaluation_errors() -> Iterator[None]:
    """What goes wrong in an evaluation, as this package's own errors."""
    from chassis.errors import ServiceError
    from evaluation.errors import EvaluationError
    from transformer.answerability import CalibrationError

    try:
        yield
    except EvaluationError as error:
        raise UsageError(error.message) from error
    except CalibrationError as error:
        raise UsageError(f"{error} No results are written.") from error
    except ServiceError as error:
        raise LaunchError(f"{error.message} `kserve-rag status` shows the graph. No results are written.") from error


def _error_kind(name: str) -> Error:
    from transformer.answerability import Error

    for kind in get_args(Error):
        if kind == name:
            return cast("Error", kind)
    raise UsageError(f"There is no error {name!r}. Choose from: {', '.join(get_args(Error))}.")


# ── arguments ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _settings(**overrides: Any) -> Settings:
    return Settings(**{name: value for name, value in overrides.items() if value is not None})


def _services(names: list[str]) -> list[ServiceName]:
    """The services of these names; all where none is named."""
    for name in names:
        if name not in SERVICES:
            raise UsageError(f"There is no service {name!r}. Choose from: {', '.join(SERVICES)}.")
    return [name for name in SERVICES if name in names or not names]


def _replica_counts(given: list[str]) -> dict[ServiceName, int]:
    """What `--replicas` says: `2`, or `embedder=2`."""
    counts: dict[ServiceName, int] = {}
    for each in given:
        service, _, count = each.rpartition("=")
        if not count.isdigit() or not 1 <= int(count) <= _MOST_REPLICAS:
            raise UsageError(
                f"--replicas {each}: give a number of 1 to {_MOST_REPLICAS}, as in `--replicas embedder=2`."
            )
        if service == _SINGLE and int(count) > 1:
            raise UsageError(f"--replicas {each}: {_SINGLE} has one process, which alone writes to the indexes.")
        named = _services([service]) if service else [name for name in SERVICES if name != _SINGLE]
        counts.update(dict.fromkeys(named, int(count)))
    return counts


def _existing(paths: list[Path]) -> list[Path]:
    for path in paths:
        if not path.expanduser().exists():
            raise UsageError(f"There is no file or folder {path}.")
    return [path.expanduser().resolve() for path in paths]


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


if __name__ == "__main__":
    main()
