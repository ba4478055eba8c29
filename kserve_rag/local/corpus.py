"""The sources to index locally: the user's own, or this project's documentation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from ingest.sources import kind_of
from kserve_rag.errors import SetupError
from kserve_rag.settings import Settings


def bundled(settings: Settings) -> list[Path]:
    """This project's documentation, from the checkout or from the installed distribution."""
    package = Path(__file__).parents[1]
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "docs").is_dir():
        return [path for path in (checkout / "README.md", checkout / "docs") if path.exists()]
    packaged = package / "corpus"
    if not packaged.is_dir():
        raise SetupError("This installation lacks its documentation. Reinstall kserve-rag, or give --docs.")
    # The distribution carries the README as its description.
    readme = settings.home / "README.md"
    text = metadata.metadata("kserve-rag").json.get("description")
    if isinstance(text, str) and text.strip():
        readme.parent.mkdir(parents=True, exist_ok=True)
        readme.write_text(text, encoding="utf-8")
    return [*([readme] if readme.exists() else []), packaged]


def remembered(settings: Settings) -> list[str]:
    """Locations of the sources that were indexed last; empty if none were."""
    try:
        locations: list[str] = json.loads(_file(settings).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return locations


def remember(settings: Settings, sources: Sequence[str | Path]) -> None:
    """Stores the locations of the indexed sources."""
    file = _file(settings)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".new")
    temporary.write_text(json.dumps([str(source) for source in sources], indent=2) + "\n", encoding="utf-8")
    temporary.replace(file)


def forget(settings: Settings) -> None:
    """Removes the stored locations."""
    _file(settings).unlink(missing_ok=True)


def local_paths(sources: Sequence[str]) -> list[Path]:
    """The files and folders of this machine among the sources."""
    return [Path(source) for source in sources if kind_of(source)[0] == "folder"]


def _file(settings: Settings) -> Path:
    return settings.indexes / f"{settings.index_name}.sources.json"
