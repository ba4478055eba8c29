from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from predictor.client import PredictorClient
from tests.processes import Triton


@pytest.fixture(scope="session")
def predictor_url(predictor_server: Triton) -> str:
    return predictor_server.url


@pytest_asyncio.fixture
async def client(predictor_url: str) -> AsyncIterator[PredictorClient]:
    client = PredictorClient(predictor_url)
    yield client
    await client.aclose()
