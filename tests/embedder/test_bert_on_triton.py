"""`bert` on a real Triton compared with a forward pass in numpy, prefixes included."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from chassis.context import CallContext
from embedder.client import EmbedderClient
from kserve_rag.local.triton import TritonEnvironment, package_folder
from tests.processes import triton
from tests.tiny_bert import HIDDEN, TEXTS, Weights, embed, write_folder


@dataclass(frozen=True)
class Served:
    """A folder that Triton serves."""

    url: str
    folder: Path
    weights: Weights


@pytest.fixture(scope="module")
def served(triton_environment: TritonEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, run_dir = tmp_path_factory.mktemp("roberta"), tmp_path_factory.mktemp("triton")
    card = {"id": "tiny", "pooling": "cls", "query_prefix": "query: ", "passage_prefix": "passage: "}
    weights = write_folder(folder, "roberta", card)
    repository = package_folder("embedder") / "model_repository"
    with triton(triton_environment, repository, "bert", run_dir, EMBEDDER_MODEL_DIR=str(folder)) as server:
        yield Served(server.url, folder, weights)


@pytest_asyncio.fixture
async def bert(served: Served) -> AsyncIterator[EmbedderClient]:
    client = EmbedderClient(served.url, model="bert", rows_per_request=3)
    yield client
    await client.aclose()


async def test_parity_with_numpy(bert: EmbedderClient, served: Served, ctx: CallContext) -> None:
    for input_type in ("query", "passage"):
        embeddings = await bert.embed(TEXTS, ctx, input_type=input_type)
        expected = [embed(served.folder, "roberta", served.weights, f"{input_type}: {text}", "cls") for text in TEXTS]
        assert embeddings.dense.shape == (len(TEXTS), HIDDEN)
        np.testing.assert_allclose(embeddings.dense, expected, atol=1e-5)
    assert embeddings.fingerprint.startswith("tiny@sha256:")
