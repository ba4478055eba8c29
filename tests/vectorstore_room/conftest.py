from __future__ import annotations

from collections.abc import Iterator

import pytest
from loopback_embedder import LoopbackEmbedder


@pytest.fixture
def embedder() -> Iterator[LoopbackEmbedder]:
    with LoopbackEmbedder() as server:
        yield server
