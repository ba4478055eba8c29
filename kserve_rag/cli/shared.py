"""Helpers of several commands: consoles, settings, checks of arguments, signals."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from kserve_rag.errors import UsageError
from kserve_rag.local.graph import SERVICES, ServiceName
from kserve_rag.settings import INDEX_NAME, Settings

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


def read_settings(**options: Any) -> Settings:
    """Settings from the environment, overridden by options of the command line that are not None."""
    return Settings(**{name: value for name, value in options.items() if value is not None})


CollectionOption = Annotated[
    str | None, typer.Option("--collection", "-c", metavar="NAME", help="Name of a collection. [default: default]")
]


def collection_settings(collection: str | None) -> Settings:
    """Settings from the environment, for this collection."""
    if collection is not None and not re.fullmatch(INDEX_NAME, collection):
        raise UsageError(
            f"{collection[:80]!r} cannot name a collection: use 1 to 63 letters, digits, '.', '_' and '-', and begin "
            "with a letter or digit."
        )
    return read_settings(index_name=collection)


def service_names(given: list[str]) -> list[ServiceName]:
    """The named services in start order, or all services if none is named."""
    for name in given:
        if name not in SERVICES:
            raise UsageError(f"There is no service {name!r}. Choose from: {', '.join(SERVICES)}.")
    return [name for name in SERVICES if name in given or not given]


def source_locations(sources: list[str], links: list[str]) -> list[str]:
    """Locations that are valid in any working directory: of files and folders, which must exist, and other sources.

    `links`: paths and URLs of lists of links.
    """
    # Imported late, because importing it takes a while.
    from ingest.errors import SourceNotFoundError
    from ingest.sources import kind_of, open_source

    locations = []
    for source in (*sources, *(f"links:{each}" for each in links)):
        if kind_of(source)[0] == "folder":
            path = Path(source).expanduser()
            if not path.exists():
                raise UsageError(f"There is no file or folder {source}.")
            locations.append(str(path.resolve()))
        else:
            try:
                locations.append(open_source(source).location)
            except SourceNotFoundError as error:
                raise UsageError(str(error)) from error
    return locations


def format_size(size_bytes: float | None) -> str:
    """A size in GB or MB; `?` if it is unknown."""
    if size_bytes is None:
        return "?"
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"


class _Interrupted(KeyboardInterrupt):
    """A subclass, so that `python -m` exits with our status.

    If a plain KeyboardInterrupt passes through code that is compiled at run time, such as a dataclass, CPython ends the
    process with SIGINT instead (`unhandled_keyboard_interrupt`).
    """


@contextlib.contextmanager
def exit_on_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and SIGINT, so that everything started in the block is stopped.

    SIGINT needs a handler too: shells ignore it in background jobs of scripts.
    """

    def interrupt(*_: Any) -> NoReturn:
        raise _Interrupted

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
