"""Declared gaps of an implementation: the failing test, its error, and the reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest


@dataclass(frozen=True)
class Gap:
    member: str
    """Name of the entry point."""
    test: str
    """Function of the contract suite that fails."""
    raises: type[BaseException]
    reason: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of the cases that fail. Empty: all cases."""


def declare(request: pytest.FixtureRequest, member: str, gaps: Iterable[Gap]) -> None:
    """Expects the running test to fail if a gap is declared for it. A test that passes despite its gap fails."""
    for gap in gaps:
        assert hasattr(request.module, gap.test), f"the gap of {gap.member} names no test: {gap.test}"
        case = request.node.callspec.params.items()
        if (gap.member, gap.test) == (member, request.node.originalname) and gap.parameters.items() <= case:
            request.applymarker(pytest.mark.xfail(strict=True, raises=gap.raises, reason=gap.reason))
