"""Find words that docs/style.md replaces with a standard one: `python -m docsite.wording`."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
STYLE = ROOT / "docs" / "style.md"
SUFFIXES = (".py", ".md", ".ts", ".tsx", ".toml", ".yaml", ".ipynb", ".css", ".Dockerfile", "Makefile", ".pbtxt")
NOT_OURS = ("docs/style.md", "evaluation/sets/", "tests/corpus/", "tests/ingest/files/", "locks/", "LICENSE")
"""The list itself, and documents that tests and evaluations use as data."""

_BREAK = r"(?:[ \t]|\n[ \t]*(?:#|//|\*|>)?)+"
"""White space within a sentence, including the marker of a comment that continues in the next line."""


def rules(style: str) -> list[tuple[re.Pattern[str], str]]:
    """The first list of docs/style.md: patterns, and what to write instead."""
    items = style.split("## Words that have a standard one", 1)[1].split("\n## ", 1)[0]
    found = []
    for line in items.splitlines():
        item = re.fullmatch(r"- (`.*`) → (.*)", line)
        if item is not None:
            found += [
                (re.compile(pattern.replace(" ", _BREAK), re.IGNORECASE), item[2])
                for pattern in re.findall(r"`([^`]+)`", item[1])
            ]
    return found


def findings(text: str, patterns: list[tuple[re.Pattern[str], str]]) -> Iterator[tuple[int, str, str]]:
    """Yields line number, matched words and replacement, in the order of the text."""
    hits = [(match.start(), match[0], instead) for pattern, instead in patterns for match in pattern.finditer(text)]
    for start, words, instead in sorted(hits):
        yield text.count("\n", 0, start) + 1, " ".join(words.split()), instead


def main() -> int:
    """Print findings as `path:line: words → replacement`. Returns 1 if there are any."""
    patterns = rules(STYLE.read_text(encoding="utf-8"))
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    count = 0
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if name.endswith(SUFFIXES) and not name.startswith(NOT_OURS) and path.is_file():
            for line, words, instead in findings(path.read_text(encoding="utf-8"), patterns):
                print(f"{name}:{line}: {words!r} → {instead}")  # noqa: T201
                count += 1
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
