"""Writes docs/benchmarks.md: one section per benchmark, replaced when that benchmark runs."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

DOCUMENT = Path(__file__).parent.parent / "docs" / "benchmarks.md"

HEAD = """# Benchmarks

`make bench` and `make bench-embedder` print these tables; with `WRITE=1` they write them here. Machines are shared and
noisy: what counts are the ratios, whose two sides were measured in one run."""

_SECTION = re.compile(r"^## (.+)\n(?s:(.*?))(?=^## |\Z)", re.MULTILINE)


def machine(libraries: Sequence[str]) -> str:
    """The machine, and the versions of these libraries."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = ", ".join(f"{name} {version(name)}" for name in libraries)
    return (
        f"{date.today()}: {os.cpu_count()} × {cpu}, {memory_gib:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, {versions}."
    )


def record(sections: Mapping[str, str], document: Path = DOCUMENT) -> None:
    """Replace the sections with these titles; new ones go to the end."""
    old = document.read_text("utf-8") if document.is_file() else ""
    kept = {title: content.strip() for title, content in _SECTION.findall(old)}
    kept.update({title: content.strip() for title, content in sections.items()})
    parts = [HEAD, *(f"## {title}\n\n{content}" for title, content in kept.items())]
    document.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
