"""All figures, on this machine: `make bench` prints them; `make bench WRITE=1` records them in docs/benchmarks.md."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import Callable

from benchmarks import (
    chain,
    citations,
    first_answer,
    ingest_rate,
    overhead,
    page,
    page_server,
    restart,
    search_rate,
    telemetry,
)
from benchmarks.document import machine, record
from kserve_rag.local.graph import need_running, running
from kserve_rag.models.store import ModelStore
from kserve_rag.settings import Settings

LIBRARIES = ("kserve", "aiohttp", "httpx", "chromadb")


def main() -> None:
    """Runs the benchmarks that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    known = "first_answer, overhead, ingest, search, citations, telemetry, chain, page, page_server, restart"
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{known} (default: all)")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement under load (default: 5)")
    arguments = parser.parse_args()
    settings = Settings()
    models = ModelStore(settings.models)
    prompt_format = models.materialise("smollm2-135m", "llm").path

    def on_graph(measure: Callable[[], list[str]]) -> list[str]:
        if running(settings) is None:
            subprocess.run([sys.executable, "-m", "kserve_rag", "up", "--detach"], check=True)
        return measure()

    def ingest() -> list[str]:
        tokenizer = need_running(settings).tokenizer
        assert tokenizer is not None
        return ingest_rate.measure(overhead.graph_urls()["embedder"], tokenizer, copies=3)

    benchmarks: dict[str, tuple[str, str, Callable[[], list[str]]]] = {
        "first_answer": ("First answer", first_answer.__doc__ or "", first_answer.measure),
        "overhead": (
            "Overhead and retrieval",
            overhead.__doc__ or "",
            lambda: on_graph(lambda: asyncio.run(overhead.measure(overhead.graph_urls(), prompt_format, 10))),
        ),
        "ingest": ("Ingestion", ingest_rate.__doc__ or "", lambda: on_graph(ingest)),
        "search": ("Search at 100,000 chunks", search_rate.__doc__ or "", search_rate.measure),
        "citations": ("Citations", citations.__doc__ or "", citations.measure),
        "telemetry": (
            "Tracing",
            telemetry.__doc__ or "",
            lambda: telemetry.measure(prompt_format, arguments.seconds),
        ),
        "chain": ("Chain throughput", chain.__doc__ or "", lambda: chain.measure(prompt_format, arguments.seconds)),
        "restart": ("Restarts under load", restart.__doc__ or "", restart.measure),
        "page": ("The page", page.__doc__ or "", page.measure),
        "page_server": (
            "The page's server",
            page_server.__doc__ or "",
            lambda: page_server.measure(arguments.seconds),
        ),
    }
    unknown = set(arguments.names) - benchmarks.keys()
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}: choose from {', '.join(benchmarks)}")
    # A browser is driven from the environment of the pages alone (.venv-pages).
    here = [name for name in benchmarks if name != "page" or importlib.util.find_spec("playwright")]
    for name in arguments.names or here:
        title, told, measure = benchmarks[name]
        section = f"{told.strip()}\n\n{machine(LIBRARIES)}\n\n" + "\n".join(measure())
        print(f"## {title}\n\n{section}\n", flush=True)
        if arguments.write:
            record({title: section})


if __name__ == "__main__":
    main()
