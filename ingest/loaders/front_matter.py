"""Front matter of Markdown files: YAML between `---`, or TOML between `+++`."""

from __future__ import annotations

import re
import sys
from typing import Any

import yaml

from ingest.loaders.document import flat_values

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_MOST_CHARS = 65_536
_LINE = re.compile(r"([A-Za-z_][\w. -]*?)\s*[:=]\s+(.*)$")
_CONTINUES = (" ", "\t", "-", "#", "[", "]", "}")


def split_front_matter(text: str) -> tuple[dict[str, Any], str]:
    """The values of the front matter, and the text below it.

    Names are in lower case; `flat_values` flattens tables and lists. A text that begins with a thematic break instead
    is returned unchanged.
    """
    fence = text[:3]
    if fence not in ("---", "+++") or text[3:4] != "\n":
        return {}, text
    closing = re.compile(r"^(?:---|\.\.\.)$" if fence == "---" else r"^\+\+\+$", re.MULTILINE)
    end = closing.search(text, 4, _MOST_CHARS)
    values = None if end is None else _values(text[4 : end.start()], is_toml=fence == "+++")
    if end is None or values is None:
        return {}, text
    return {name.lower(): value for name, value in flat_values(values).items()}, text[end.end() :].strip("\n")


def _values(block: str, *, is_toml: bool) -> dict[str, Any] | None:
    """The values of a block between fences; None if it is not front matter."""
    try:
        # The base loader does not convert dates, versions and codes.
        values = tomllib.loads(block) if is_toml else yaml.load(block, yaml.BaseLoader)  # noqa: S506
    except (yaml.YAMLError, tomllib.TOMLDecodeError, ValueError, RecursionError):
        return _lines(block)
    if not values and not block.strip():
        return {}
    return values if isinstance(values, dict) else None


def _lines(block: str) -> dict[str, Any] | None:
    """The scalars of a block with a syntax error, such as a colon in a plain value; None if it is not front matter."""
    values = {}
    for line in block.split("\n"):
        match = _LINE.match(line)
        if match is not None:
            value = match[2].strip()
            if value[:1] not in ("", "[", "{", "|", ">", "&", "*"):
                values[match[1]] = value.strip(value[0]) if value[0] in "\"'" else value
        elif line.strip() and not line.rstrip().endswith(":") and not line.startswith(_CONTINUES):
            return None
    return values
