"""Adds pages to the documentation site that are not under `docs/`.

- the reference, generated from the programs (reference.py);
- pages that only the site has (`pages/`), and the quick start, a part of the README;
- every file of the repository that a page links to: Markdown as a page, other files unchanged.

So a link leads to the same text in the site as on GitHub, and the site needs no other host.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

ELSEWHERE = {"README.md": "quick-start.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""File of the repository → its page."""

_LINK = re.compile(r"\]\((?P<target>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_CELL = re.compile(r"<td.*?</td>", re.DOTALL)
_DRAWING = re.compile(r'<p><img alt="(?P<alt>[^"]*)" src="[^"]*?(?P<file>[\w-]+)\.drawing\.svg" ?/?></p>')


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Watches the sources for `make docs-serve`."""
    sys.path[:0] = [str(HERE), str(ROOT)]
    config.watch.extend(str(ROOT / each) for each in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docsite"))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds pages from outside `docs/`."""
    import reference

    for path in sorted((HERE / "pages").rglob("*.md")):
        files.append(File.generated(config, path.relative_to(HERE / "pages").as_posix(), abs_src_path=str(path)))
    for name, make in reference.PAGES.items():
        files.append(File.generated(config, name, content=make()))
    quick_start = part_of_readme("Quick start", "Linux (glibc", "## Where things are")
    files.append(File.generated(config, "quick-start.md", content=quick_start))
    rooms = part_of_readme("Rooms", "| folder |", "[CONTRIBUTING.md]")
    files.append(File.generated(config, "rooms/README.md", content=rooms))
    for name, uri in ELSEWHERE.items():
        if name != "README.md":
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / name)))
    files.append(File.generated(config, "assets/icon.svg", abs_src_path=str(ROOT / "frontend/chart/icon.svg")))
    _add_linked(files, config)
    config.nav = _expanded(config.nav, [file.src_uri for file in files], _named(config.nav))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites links into the repository as links into the site."""
    here = page.file.src_uri

    def rewritten(found: re.Match[str]) -> str:
        target = _in_repository(here, found["target"])
        uri = _uri(target)
        if uri is None or files.get_file_from_path(uri) is None:
            return found.group()
        return f"]({posixpath.relpath(uri, posixpath.dirname(here))}{found['anchor'] or ''})"

    return "".join(part if part.startswith("```") else _LINK.sub(rewritten, part) for part in _FENCE.split(markdown))


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Inlines drawings, so that they follow the colour scheme, and renders cells as GitHub does."""

    def drawn(found: re.Match[str]) -> str:
        text = (ROOT / "docs" / f"{found['file']}.drawing.svg").read_text(encoding="utf-8")
        return f'<figure class="drawing-frame">{text[text.index("<svg") :]}</figure>'

    # GitHub renders `\\|` in the code of a cell as `|`, Python-Markdown keeps the backslash.
    html = _CELL.sub(lambda cell: cell.group().replace("\\|", "|"), html)
    return _DRAWING.sub(drawn, html)


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """Names the dialog of the theme's search, for screen readers."""
    return output.replace(
        'data-md-component="search" role="dialog"', 'data-md-component="search" role="dialog" aria-label="Search"'
    )


def part_of_readme(title: str, first: str, last: str) -> str:
    """A page with the part of the README from `first` to before `last`."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    begin, end = readme.find(first), readme.find(last)
    if not 0 <= begin < end:
        raise PluginError(f"README.md has no part from {first!r} to {last!r}, which is in the site.")
    return f"# {title}\n\n{readme[begin:end]}"


def _add_linked(files: Files, config: MkDocsConfig) -> None:
    """Adds every file of the repository that a page links to, directly or through other pages."""
    waiting = [file for file in files if file.is_documentation_page()]
    while waiting:
        page = waiting.pop()
        for found in _LINK.finditer(_FENCE.sub("", page.content_string)):
            target = _in_repository(page.src_uri, found["target"])
            uri = _uri(target)
            if uri is not None and files.get_file_from_path(uri) is None and (ROOT / target).is_file():
                added = File.generated(config, uri, abs_src_path=str(ROOT / target))
                files.append(added)
                waiting += [added] if added.is_documentation_page() else []


def _in_repository(here: str, target: str) -> str:
    """The target of a link in the page `here`, as a path in the repository; begins with `..` if outside."""
    back = {uri: name for name, uri in ELSEWHERE.items()}
    if here in back:
        folder = ""
    elif here.startswith("rooms/"):
        folder = posixpath.dirname(here.removeprefix("rooms/"))
    else:
        folder = posixpath.dirname(f"docs/{here}")
        if target.startswith("../rooms/"):  # in a generated page
            return target.removeprefix("../rooms/")
    path = posixpath.normpath(posixpath.join(folder, target))
    return f"{path}/README.md" if (ROOT / path / "README.md").is_file() else path


def _uri(path: str) -> str | None:
    """The page for a path of the repository; None if there is none."""
    if path.startswith(".."):
        return None
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return ELSEWHERE.get(path, f"rooms/{path}")


def _expanded(nav: Any, uris: list[str], named: set[str]) -> Any:
    """Replaces the patterns of the navigation by their pages, except pages with their own entry."""
    if isinstance(nav, dict):
        return {title: _expanded(entry, uris, named) for title, entry in nav.items()}
    if not isinstance(nav, list):
        return nav
    expanded = []
    for entry in nav:
        if isinstance(entry, str) and "*" in entry:
            depth = entry.count("/")
            found = (uri for uri in uris if fnmatch.fnmatch(uri, entry) and uri.count("/") == depth)
            expanded += sorted(uri for uri in found if uri not in named)
        else:
            expanded.append(_expanded(entry, uris, named))
    return expanded


def _named(nav: Any) -> set[str]:
    if isinstance(nav, str):
        return {nav}
    return {name for entry in (nav.values() if isinstance(nav, dict) else nav) for name in _named(entry)}
