"""bge_m3 on a real Triton: what FlagEmbedding's BGEM3FlagModel gives for the same small random weights.

The reference values and the versions that made them are in tiny_bge_m3/expected.json, written by
tests/with_torch/tiny_bge_m3.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chassis.context import CallContext
from embedder.client import EmbedderClient

TOLERANCE = 1e-4
"""Largest absolute difference in fp32."""


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return dict(json.loads((Path(__file__).parent / "tiny_bge_m3" / "expected.json").read_text("utf-8")))


async def test_parity_with_flag_embedding(bge_m3: EmbedderClient, ctx: CallContext, expected: dict[str, Any]) -> None:
    embeddings = await bge_m3.embed(expected["texts"], ctx, sparse=True, multi_vectors=True)
    assert embeddings.sparse is not None
    assert embeddings.multi_vectors is not None
    np.testing.assert_allclose(embeddings.dense, expected["dense"], atol=TOLERANCE, rtol=0)
    for vector, weights in zip(embeddings.sparse, expected["sparse"], strict=True):
        assert vector.indices.dtype == np.int32
        assert dict(zip(map(str, vector.indices), vector.weights, strict=True)) == pytest.approx(weights, abs=TOLERANCE)
        assert np.all(np.diff(vector.indices) > 0)
    for matrix, rows in zip(embeddings.multi_vectors, expected["multi_vectors"], strict=True):
        np.testing.assert_allclose(matrix, rows, atol=TOLERANCE, rtol=0)


async def test_batch_equals_single(bge_m3: EmbedderClient, ctx: CallContext, expected: dict[str, Any]) -> None:
    together = await bge_m3.embed(expected["texts"], ctx, sparse=True, multi_vectors=True)
    for row, text in enumerate(expected["texts"]):
        alone = await bge_m3.embed([text], ctx, sparse=True, multi_vectors=True)
        assert together.sparse is not None
        assert alone.sparse is not None
        assert together.multi_vectors is not None
        assert alone.multi_vectors is not None
        np.testing.assert_allclose(alone.dense[0], together.dense[row], atol=1e-5)
        np.testing.assert_array_equal(alone.sparse[0].indices, together.sparse[row].indices)
        np.testing.assert_allclose(alone.multi_vectors[0], together.multi_vectors[row], atol=1e-5)


async def test_only_requested_outputs_are_sent(bge_m3: EmbedderClient, ctx: CallContext) -> None:
    dense = await bge_m3.embed(["a"], ctx)
    assert dense.sparse is None
    assert dense.multi_vectors is None
    sparse = await bge_m3.embed(["a"], ctx, sparse=True)
    assert sparse.sparse is not None
    assert sparse.multi_vectors is None
    none = await bge_m3.embed([], ctx, sparse=True, multi_vectors=True)
    assert none.sparse == none.multi_vectors == ()


async def test_the_fingerprint_is_of_all_three_weight_files(bge_m3: EmbedderClient, ctx: CallContext) -> None:
    assert await bge_m3.fingerprint(ctx) == (
        "tiny_bge_m3@sha256:24869364c4f23c9075ce83c08b9e2530578ef8b8018b7305b588db9a3c4da461"
    )
