"""The page's server, the services behind it, and a built page."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
SCRIPT = "console.log('a page');\n" * 200


@dataclass(frozen=True)
class Wire:
    """The services behind the page."""

    url: str

    def happens(self, event: str) -> None:
        """Triggers an event there."""
        httpx.post(f"{self.url}/test/{event}", trust_env=False).raise_for_status()

    def wait(self, event: str) -> None:
        """Waits for an event there."""
        httpx.get(f"{self.url}/test/{event}", trust_env=False, timeout=30).raise_for_status()


@dataclass(frozen=True)
class Frontend:
    """The page's server."""

    url: str
    log: Path
    pid: int


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FRONTEND_")}
    return {**kept, "PYTHONPATH": str(ROOT), **variables}


def build(folder: Path) -> Path:
    """A built page."""
    (folder / "assets").mkdir(parents=True, exist_ok=True)
    (folder / "assets" / "index-3f2a.js").write_text(SCRIPT)
    (folder / "assets" / "index-77c1.css").write_text("body { margin: 0 }\n" * 100)
    (folder / "assets" / "index-77c1.css.br").write_bytes(b"what the build made of it")
    (folder / "assets" / "serif-9d.woff2").write_bytes(bytes(2000))
    (folder / "icon.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "index.html").write_text("<!doctype html><script type=module src=./assets/index-3f2a.js></script>")
    return folder


RunFrontend = Callable[..., AbstractContextManager[Frontend]]
"""Variables → the running server."""
