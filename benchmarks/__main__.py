"""Measure the figures of docs/benchmarks.md on this machine.

Every benchmark is a module with a TITLE and a function `measure`, which returns tables and paragraphs. Its docstring is
the text of its section.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util

from benchmarks.document import Options, measured_on, record

BENCHMARKS = (
    "first_answer",
    "overhead",
    "ingest",
    "search",
    "access",
    "chain",
    "restart",
    "turns",
    "streaming",
    "page",
    "page_server",
    "embedder",
)
NEEDS = {"page": "playwright", "embedder": "FlagEmbedding"}
"""Benchmark → package that only .venv-pages or .venv-torch has."""
LIBRARIES = ("kserve", "aiohttp", "httpx", "chromadb")


def main() -> None:
    """Run the chosen benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)} (default: all that can run)")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    parser.add_argument("--seconds", type=float, default=5, help="length of each measurement under load (default: 5)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to check that a benchmark runs")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"there is no {', '.join(sorted(unknown))}: choose from {', '.join(BENCHMARKS)}")
    can_run = [name for name in BENCHMARKS if name not in NEEDS or importlib.util.find_spec(NEEDS[name])]
    for name in arguments.names or can_run:
        # Imported late, because the measured processes import this module too.
        benchmark = importlib.import_module(f"benchmarks.{name}")
        parts = benchmark.measure(Options(arguments.seconds, arguments.quick))
        libraries = getattr(benchmark, "LIBRARIES", LIBRARIES)
        section = "\n\n".join([benchmark.__doc__.strip(), measured_on(libraries), *parts])
        print(f"## {benchmark.TITLE}\n\n{section}\n", flush=True)
        if arguments.write:
            record(benchmark.TITLE, section)


if __name__ == "__main__":
    main()
