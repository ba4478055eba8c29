from __future__ import annotations

from collections.abc import Iterator

import pytest
from hash_embedder import HashEmbedder


@pytest.fixture
def embedder() -> Iterator[HashEmbedder]:
    with HashEmbedder() as server:
        yield server
