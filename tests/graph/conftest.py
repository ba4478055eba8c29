from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from tests.conftest import RunningGraph


@pytest.fixture(scope="session")
def rag(graph: RunningGraph) -> Iterator[httpx.Client]:
    """A client of the transformer with one connection, so that tests notice when it is dropped."""
    # Kept for almost as long as the service keeps it: who closes it is then the service.
    limits = httpx.Limits(max_connections=1, keepalive_expiry=60)
    with httpx.Client(base_url=graph.transformer, timeout=60, limits=limits) as client:
        yield client


@pytest.fixture
async def async_rag(graph: RunningGraph) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=graph.transformer, timeout=60) as client:
        yield client
