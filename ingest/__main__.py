"""Builds an index version from files and folders: `python -m ingest PATH…`, a Job in a cluster.

Settings come from `INGEST_…` environment variables (see ingest/README.md). Exit status: 0 if a version was published or
nothing had changed, 1 if the run failed or nothing was usable, 2 if arguments or settings are wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable

from rich.console import Console

from chassis import tracing
from chassis.settings import load_settings
from ingest import pipeline, progress
from ingest.errors import IngestError
from ingest.executor import Executor, LocalExecutor
from ingest.settings import IngestSettings
from ingest.telemetry import INGESTION

OpenExecutor = Callable[[IngestSettings], contextlib.AbstractContextManager[Executor]]


def _local(settings: IngestSettings) -> contextlib.AbstractContextManager[Executor]:
    return contextlib.nullcontext(LocalExecutor(settings))


def main(
    arguments: list[str] | None = None, *, prog: str = "python -m ingest", open_executor: OpenExecutor = _local
) -> int:
    """Runs once and returns the exit status.

    Args:
        arguments: command-line arguments; by default this process's.
        prog: name of the program in its help.
        open_executor: provides the executor for the duration of the run.
    """
    parser = argparse.ArgumentParser(prog=prog, description="Builds an index version from documents.")
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="file, folder, web address, or NAME:LOCATION of another source"
    )
    parser.add_argument(
        "--yes",
        action="store_true",
        help="remove more than half of the documents without an error, if their files are no longer under the paths",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the summary, with every skipped file, as JSON on standard output"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("ingest").setLevel(logging.INFO)
    tracing.configure("ingest", os.environ)
    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    settings = load_settings(IngestSettings)
    try:
        settings.chunks()
    except IngestError as error:
        console.print(str(error))
        return 2
    try:
        with tracing.program(INGESTION), open_executor(settings) as executor, progress.shown(console) as on_progress:
            summary = asyncio.run(
                pipeline.run(settings, options.paths, on_progress, executor=executor, allow_removal=options.yes)
            )
    except IngestError as error:
        console.print(str(error))
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted. The index is unchanged.")
        return 1
    progress.report(summary, console)
    if options.json:
        sys.stdout.write(json.dumps(summary.as_dict()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
