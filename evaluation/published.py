"""Published figures of other systems, for comparison."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from pydantic import BaseModel, Field

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Figure(BaseModel):
    """A published figure."""

    set: str
    metric: str
    value: float
    system: str
    source: str


class _Figures(BaseModel):
    figure: list[Figure] = Field(default_factory=list)


@cache
def figures() -> tuple[Figure, ...]:
    """All figures of published.toml, in order."""
    text = (Path(__file__).parent / "published.toml").read_text(encoding="utf-8")
    return tuple(_Figures.model_validate(tomllib.loads(text)).figure)
