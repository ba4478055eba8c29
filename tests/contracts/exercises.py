"""The examples of CONTRIBUTING.md, installed as a reader would: one file and one entry point."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"


@contextmanager
def installed(heading: str, folder: Path) -> Iterator[Path]:
    """Installs the example below a heading of CONTRIBUTING.md into `folder`, and puts that on the import path.

    The section has one Python block, whose first line is a comment with the name of its file (`# memory_store.py`), and
    one TOML block with `[project.entry-points."…"]`.

    Yields:
        `folder`, for the PYTHONPATH of other processes.
    """
    section = CONTRIBUTING.read_text(encoding="utf-8").split(f"\n### {heading}\n", 1)[1]
    section = re.split(r"\n##+ ", section, maxsplit=1)[0]
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    (table,) = re.findall(r"^```toml\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    name = code.split("\n", 1)[0].removeprefix("# ")
    (folder / name).write_text(code, encoding="utf-8")
    info = folder / f"{Path(name).stem}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {Path(name).stem}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(_entry_points(table), encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        yield folder
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(Path(name).stem, None)


def _entry_points(table: str) -> str:
    """The TOML table as the INI file that installers write from it."""
    group, *lines = table.strip().splitlines()
    matched = re.fullmatch(r'\[project\.entry-points\."(.+)"\]', group)
    if matched is None:
        raise ValueError(f"not an entry-point table: {group}")
    return "\n".join([f"[{matched[1]}]", *(re.sub(r'\s*=\s*"(.*)"', r" = \1", line) for line in lines), ""])
