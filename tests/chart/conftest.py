"""Every values file is rendered once, by every Helm that is here."""

from __future__ import annotations

import pytest

from tests.chart.rendering import NAMES, Document, helms, render, values_of


@pytest.fixture(scope="session", params=helms() or [""])
def program(request: pytest.FixtureRequest) -> str:
    """Path of a Helm."""
    if not request.param:
        pytest.skip("there is no helm: `make chart` fetches it on x86_64; elsewhere put it on the PATH")
    return str(request.param)


@pytest.fixture(scope="session", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Each values file; `defaults` has none."""
    return str(request.param)


@pytest.fixture(scope="session")
def documents(program: str, name: str) -> list[Document]:
    """The chart rendered with a values file."""
    return render(program, *values_of(name))
