"""The code of docs/integrations.md, as a reader runs it: the blocks of a section, one after the other."""

from __future__ import annotations

import contextlib
import gc
import json
import re
import runpy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.with_pages.conftest import PeopleGraph

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"
ADDRESS = "http://127.0.0.1:8080"


def blocks(section: str, language: str) -> list[str]:
    """The blocks of code below a heading of the second level."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(), flags=re.MULTILINE)
    text = dict(zip(parts[1::2], parts[2::2], strict=True))[section]
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@contextlib.contextmanager
def run_section(section: str, url: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Runs the Python of a section; only the graph's address is another. What it has defined, by name."""
    script = folder / "section.py"
    script.write_text("\n".join(blocks(section, "python")).replace(ADDRESS, url))
    defined = runpy.run_path(str(script))
    yield defined
    defined.clear()
    # Both frameworks leave connections open and have no way to close them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def section_fixture(section: str) -> Any:
    """A fixture of a module: the variables that the code blocks of a section define."""

    @pytest.fixture(scope="module")
    def shown(graph: PeopleGraph, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
        with run_section(section, graph.transformer_url, tmp_path_factory.mktemp("section")) as defined:
            yield defined

    return shown


def settings(section: str) -> list[dict[str, Any]]:
    """The JSON of a section."""
    return [json.loads(block) for block in blocks(section, "json")]
