"""`kserve-rag doctor`: checks whether this machine can run the graph, and suggests what to do."""

from __future__ import annotations

import os
import platform
import shutil
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import psutil
import typer
from rich.markup import escape

from kserve_rag.cli.shared import console, format_size, read_settings
from kserve_rag.errors import KserveRagError, LaunchError
from kserve_rag.local.graph import GraphState, running
from kserve_rag.local.graph import status as graph_status
from kserve_rag.settings import HOST, Settings

_ENVIRONMENT_BYTES = 450_000_000
"""Size of Triton's Python environment."""

_MARKS = {"ok": "[green]✓[/]", "note": "[yellow]![/]", "problem": "[red]✗[/]"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    level: Literal["ok", "note", "problem"]
    text: str
    """A note or a problem also says what to do."""


def doctor() -> None:
    """Check this machine: platform, Python, memory, disk, ports, proxies, and the running graph.

    Exits with 0 if the graph can run here, else with 1. Changes nothing.

    [bold]Examples[/]

      kserve-rag doctor
      KSERVE_RAG_HOME=/data/rag kserve-rag doctor
    """
    failed = False
    for finding in examine(read_settings()):
        console.print(f"{_MARKS[finding.level]} {escape(finding.text)}")
        failed |= finding.level == "problem"
    if failed:
        raise typer.Exit(1)


def examine(settings: Settings) -> Iterator[Finding]:
    """Checks whether this machine can run a graph with these settings. Writes nothing."""
    names = ("kserve-rag", "kserve", "httpx", "numpy")
    yield Finding("ok", ", ".join(f"{name} {version(name)}" for name in names))
    yield _platform(settings)
    yield from _proxies()
    home = _home(settings.home)
    yield home
    if home.level == "problem":
        return
    state = running(settings) if settings.run.exists() else None
    if state is None:
        yield from _memory_and_disk(settings)
        yield from _ports(settings)
    yield from _graph(settings, state)


def _platform(settings: Settings) -> Finding:
    from kserve_rag.local.triton import check_platform, find_python

    try:
        check_platform()
        python, release, _ = find_python(settings.triton_python)
    except KserveRagError as error:
        return Finding("problem", error.message)
    libc = " ".join(platform.libc_ver())
    return Finding("ok", f"Python {platform.python_version()}, {libc}; Triton uses Python {release} ({python})")


def _memory_and_disk(settings: Settings) -> Iterator[Finding]:
    from kserve_rag.local.launcher import choose_llm, model_store

    available = psutil.virtual_memory().available
    llm, notice = choose_llm(settings, available)
    yield (
        Finding("note", notice)
        if notice
        else Finding("ok", f"{format_size(available)} of memory are free, enough for {llm}")
    )
    store = model_store(settings)
    embedder = settings.embedder or store.catalogue.defaults["embedder"]
    missing = [name for name in (llm, embedder) if name in store.catalogue.models and not store.cached(name)]
    needed = sum(store.catalogue.models[name].size_bytes or 0 for name in missing)
    if not list(settings.envs.glob("triton-*")):
        needed += _ENVIRONMENT_BYTES
    free = shutil.disk_usage(_existing(settings.home)).free
    fetched = f", of which {format_size(needed)} will be used by {', '.join([*missing, 'Triton'])}" if needed else ""
    if free < needed:
        yield Finding(
            "problem",
            f"{settings.home} has {format_size(free)} of free disk and needs {format_size(needed)}. Free some, or set "
            "KSERVE_RAG_HOME to another folder.",
        )
    else:
        yield Finding("ok", f"{format_size(free)} of disk are free{fetched}")


def _ports(settings: Settings) -> Iterator[Finding]:
    fixed = (
        (settings.port, "the transformer", "--port"),
        (settings.grpc_port, "the transformer's gRPC", "--grpc-port"),
        (settings.page_port, "the web page", "--page-port"),
    )
    return (_port(port, what, option) for port, what, option in fixed if port)


def _port(port: int, what: str, option: str) -> Finding:
    from kserve_rag.local.services import listen

    try:
        listen(port, what, option).close()
    except LaunchError as error:
        return Finding("problem", error.message)
    return Finding("ok", f"port {port} is free for {what}")


def _home(home: Path) -> Finding:
    if os.access(_existing(home), os.W_OK | os.X_OK):
        return Finding("ok", f"{home} can be written")
    return Finding("problem", f"{home} cannot be written. Grant access, or set KSERVE_RAG_HOME to another folder.")


def _proxies() -> Iterator[Finding]:
    proxies = {scheme: url for scheme, url in urllib.request.getproxies().items() if scheme in ("http", "https", "all")}
    if not proxies:
        return
    # The URL of a proxy may contain a password.
    text = f"Downloads go through a proxy ({', '.join(sorted(proxies))})."
    if urllib.request.proxy_bypass(HOST):
        yield Finding("ok", text)
    else:
        yield Finding(
            "note",
            f"{text} So do requests of curl and of other clients to {HOST}: set no_proxy={HOST},localhost. "
            "The graph's own requests on this machine use no proxy.",
        )


def _graph(settings: Settings, state: GraphState | None) -> Iterator[Finding]:
    if state is None:
        yield Finding("ok", "no graph is running: start it with `kserve-rag up`")
        return
    found = graph_status(settings)
    waiting = {name: service for name, service in found.services.items() if not service.ready}
    if not waiting.keys() - {"frontend"}:
        yield Finding("ok", f"the graph answers at {state.services['transformer'].url}")
    for name, service in waiting.items():
        yield Finding(
            "note" if name == "frontend" else "problem",
            f"The {name} is not ready: {(service.reason or 'no reason known').rstrip('.')}. "
            f"`kserve-rag logs {name}` shows more.",
        )


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
