"""The program `kserve-rag`: its commands, and how errors become exit statuses."""

from __future__ import annotations

import errno
import io
import os
import sys
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError
from rich.markup import escape

from kserve_rag.cli import access, collections, documents, evaluation, graph, models, questions
from kserve_rag.cli.doctor import doctor
from kserve_rag.cli.shared import console, errors
from kserve_rag.errors import KserveRagError, SetupError, UsageError

app = typer.Typer(
    name="kserve-rag",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Question answering over your documents, as a KServe inference graph on this machine.

[bold]First steps[/]

  kserve-rag up                          start everything, with this project's own documentation
  kserve-rag up --docs ~/handbook        start everything, with your own folder
  kserve-rag ask "How do I roll back?"   stream an answer with its sources
  kserve-rag down                        stop everything

If something does not work, `kserve-rag doctor` says what and what to do.

All data is in ~/.kserve-rag, or in the folder that KSERVE_RAG_HOME names.
""",
)
app.command()(graph.up)
app.command()(questions.ask)
app.command()(documents.ingest)
app.command()(documents.documents)
app.command()(access.access)
app.command()(collections.versions)
app.command()(collections.rollback)
app.command()(collections.export)
app.command("import")(collections.import_)
app.command()(graph.status)
app.command("eval")(evaluation.evaluate)
app.command()(questions.mcp)
app.command()(graph.logs)
app.command()(graph.restart)
app.command()(graph.down)
app.command()(doctor)
app.add_typer(models.app, name="models")
app.add_typer(collections.app, name="collections")


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"kserve-rag {version('kserve-rag')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


_EXTRAS = {"ir_measures": "evaluation", "matplotlib": "evaluation", "scipy": "evaluation", "mcp": "mcp"}
"""Missing module → the extra that installs it. All other modules belong to `local`."""

_CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST)


def main() -> NoReturn:
    """Run the command line. An error is one line on standard error; `kserve_rag.errors` has the exit statuses."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Characters that the terminal cannot show must not crash the program.
        sys.stdout.reconfigure(errors="replace")
    try:
        # Typer returns the status of `typer.Exit` and of an interrupt.
        status = app(standalone_mode=False)
    except KserveRagError as error:
        _exit(error.message, error.exit_code)
    except ValidationError as error:
        prefix = "INGEST_" if error.title == "IngestSettings" else "KSERVE_RAG_"
        for problem in error.errors():
            name = str(problem["loc"][0] if problem["loc"] else error.title)
            _print_error(f"{name if name.isupper() else prefix + name.upper()}: {problem['msg']}")
        sys.exit(UsageError.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(error.name or "", "local")
        _exit(f"{error}. Install it with: pip install 'kserve-rag[{extra}]'", SetupError.exit_code)
    except Exception as error:
        # Click's own errors: a wrong option or argument.
        show, status = getattr(error, "show", None), getattr(error, "exit_code", None)
        if show is not None and status is not None:
            # Remove Pydantic's detail for a value of a wrong type.
            error.message = str(getattr(error, "message", "")).partition(", unable to parse")[0]  # type: ignore[attr-defined]
            show()
            sys.exit(status)
        if os.environ.get("KSERVE_RAG_TRACE"):
            raise
        if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
            reason = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
            _exit(
                f"{reason}. Free some space, grant access, or choose another folder with KSERVE_RAG_HOME.",
                SetupError.exit_code,
            )
        _exit(f"{type(error).__name__}: {error} (set KSERVE_RAG_TRACE=1 for the traceback)", 1)
    sys.exit(status if isinstance(status, int) else 0)


def _exit(message: str, status: int) -> NoReturn:
    _print_error(message)
    sys.exit(status)


def _print_error(message: str) -> None:
    errors.print(f"[red]error:[/] {escape(message)}")
