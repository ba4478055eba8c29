"""Figures that others have published, to stand beside ours."""

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
    """One figure."""

    set: str
    metric: str
    value: float
    system: str
    source: str


class _Figures(BaseModel):
    figure: list[Figure] = Field(default_factory=list)


@cache
def figures() -> tuple[Figure, ...]:
    """All of published.toml, in its order."""
    text = (Path(__file__).parent / "published.toml").read_text(encoding="utf-8")
    return tuple(_Figures.model_validate(tomllib.loads(text)).figure)
