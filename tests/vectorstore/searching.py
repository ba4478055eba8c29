"""Searches without HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from chassis.context import CallContext
from embedder.client import EmbedderClient
from tests.fakes.embedder import MODEL, LoopbackEmbedder
from vectorstore.service import VectorstoreService
from vectorstore.versions import IndexRoot
from vectorstore.wire import Prediction, SearchInstance


@contextlib.asynccontextmanager
async def serving(
    path: Path, embedder: LoopbackEmbedder, *names: str, **more: Any
) -> AsyncIterator[VectorstoreService]:
    """A service that reads the pointers of the named indexes only on `refresh`."""
    roots = [IndexRoot(path, name) for name in names or ("default",)]
    options = {"reload_interval_s": 3600, "probe_timeout_s": 60, **more}
    service = VectorstoreService(roots, EmbedderClient(embedder.url, model=MODEL), **options)
    async with service.running():
        yield service


def within(seconds: float = 60) -> CallContext:
    return CallContext.start(seconds)


async def find(service: VectorstoreService, text: str, **more: Any) -> Prediction:
    (found,) = await service.search([SearchInstance(input=text, **more)], within())
    return Prediction.model_validate_json(found.json())


def ids(found: Prediction) -> list[str]:
    return [passage.chunk_id for passage in found.passages]
