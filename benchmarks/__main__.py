"""All figures, on this machine: `make bench` prints them; `make bench WRITE=1` records them in docs/benchmarks.md."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path

from benchmarks import chain, citations, first_answer, ingest_rate, overhead, search_rate
from kserve_rag.graph import need_running, running
from kserve_rag.models import ModelStore
from kserve_rag.settings import Settings

DOCUMENT = Path(__file__).parent.parent / "docs" / "benchmarks.md"

HEAD = """# Benchmarks

`make bench` prints these tables; `make bench WRITE=1` writes this page. Machines are shared and noisy: what counts are
the ratios, whose two sides were measured in one run.

"""


def machine() -> str:
    """What was measured on."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    libraries = ", ".join(f"{name} {version(name)}" for name in ("kserve", "aiohttp", "httpx", "chromadb"))
    return (
        f"{date.today()}: {os.cpu_count()} × {cpu}, {memory_gib:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, {libraries}."
    )


def main() -> None:
    """Runs the benchmarks that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    known = "first_answer, overhead, ingest, citations, chain"
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{known} (default: all)")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement of the chain (default: 5)")
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
        return ingest_rate.measure(overhead.graph_urls()["embedder"], tokenizer, copies=30)

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
        "chain": ("Chain throughput", chain.__doc__ or "", lambda: chain.measure(prompt_format, arguments.seconds)),
    }
    unknown = set(arguments.names) - benchmarks.keys()
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}: choose from {', '.join(benchmarks)}")
    sections = [HEAD + machine()]
    for name in arguments.names or benchmarks:
        title, told, measure = benchmarks[name]
        sections.append(f"## {title}\n\n{told.strip()}\n\n" + "\n".join(measure()))
        print(sections[-1], flush=True)
    if arguments.write:
        DOCUMENT.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
