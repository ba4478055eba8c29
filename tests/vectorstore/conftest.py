from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.embedder import LoopbackEmbedder


@pytest.fixture
def embedder() -> Iterator[LoopbackEmbedder]:
    with LoopbackEmbedder() as server:
        yield server
