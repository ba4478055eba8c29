"""Options of benchmarks, the documentation as a corpus, and updates of docs/benchmarks.md."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

from evaluation.results import machine

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "benchmarks.md"
WORDS = ("red", "green", "blue", "north", "south", "alpha", "beta", "gamma", "delta", "stone", "river", "field")
"""Words that make copies of a text different."""

HEAD = """# Benchmarks

`make bench` and `make bench-embedder` print these tables; with `WRITE=1` they write them here. Machines are shared and
noisy: what counts are the ratios, whose two sides were measured in one run."""

_SECTION = re.compile(r"^## (.+)\n(?s:(.*?))(?=^## |\Z)", re.MULTILINE)


@dataclass(frozen=True)
class Options:
    """Amount of measurement."""

    seconds: float = 5
    """Length of each measurement under load."""
    quick: bool = False
    """Whether to use small sizes, to check that the benchmark runs."""


def documentation() -> list[str]:
    """The pages of this project's documentation."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("docs/**/*.md")]
    return [page.read_text(encoding="utf-8") for page in sorted(pages)]


def measured_on(libraries: Sequence[str]) -> str:
    """The date, the machine, and the versions of these libraries."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in libraries)
    return f"{date.today()}: {machine()}, {memory_gib:.0f} GiB, Linux {platform.release()}, {versions}."


def record(title: str, section: str) -> None:
    """Replace the section with this title, or append it."""
    old = DOCUMENT.read_text("utf-8") if DOCUMENT.is_file() else ""
    sections = {title: content.strip() for title, content in _SECTION.findall(old)} | {title: section.strip()}
    parts = [HEAD, *(f"## {title}\n\n{content}" for title, content in sections.items())]
    DOCUMENT.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
