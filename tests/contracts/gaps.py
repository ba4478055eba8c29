"""Declared gaps of an implementation: the failing test, its error, and the reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Gap:
    member: str
    """Name of the entry point."""
    test: str
    """Function of the contract suite that fails."""
    raises: type[BaseException]
    reason: str


def declare(request: pytest.FixtureRequest, member: str, gaps: Iterable[Gap]) -> None:
    """Expects the running test to fail if a gap is declared for it. A test that passes despite its gap fails."""
    for gap in gaps:
        assert hasattr(request.module, gap.test), f"the gap of {gap.member} names no test: {gap.test}"
        if (gap.member, gap.test) == (member, request.node.originalname):
            request.applymarker(pytest.mark.xfail(strict=True, raises=gap.raises, reason=gap.reason))
