"""Compressed multi-vectors: the error of late interaction, and bad input."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest

from vectorstore.errors import DamagedIndexError, InvalidContentError
from vectorstore.signals.multivectors import Bits, EncodedVectors, MultiVectorIndex, MultiVectorWriter, Quantiser

DIM = 128
TOLERANCE: dict[Bits, float] = {1: 0.12, 2: 0.05, 4: 0.012, 8: 0.002}
"""Bits → tolerance of a score for random vectors of 128 dimensions. It falls with the root of the dimensions."""


def unit(count: int, seed: int, dim: int = DIM) -> npt.NDArray[np.float32]:
    """Vectors with a few dimensions far larger than the rest, like those of transformers."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, dim)) * np.where(np.arange(dim) % 40, 1, 5)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def exact(query: npt.NDArray[np.float32], rows: list[npt.NDArray[np.float32]]) -> list[float]:
    return [float((row @ query.T).max(axis=0).mean()) if len(row) else 0.0 for row in rows]


def build(folder: Path, rows: list[npt.NDArray[np.float32]], bits: Bits, dim: int = DIM) -> MultiVectorIndex:
    writer = MultiVectorWriter(folder, dim, bits)
    writer.check(rows)
    writer.add(rows)
    writer.finish()
    return MultiVectorIndex(folder)


@pytest.mark.parametrize("bits", get_args(Bits))
def test_scores_are_near_the_exact_ones(tmp_path: Path, bits: Bits) -> None:
    rows = [unit(count, count) for count in (1, 40, 0, 700, 3, 200, 513, 512)]
    index = build(tmp_path, rows, bits)
    query = (unit(12, 5) + unit(200, 200)[:12]).astype(np.float32)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    every = np.arange(len(rows))
    scores = index.scores(query, every)
    np.testing.assert_allclose(scores, exact(query, rows), atol=TOLERANCE[bits])
    assert scores[2] == 0
    assert int(np.argmax(scores)) == 5
    chosen = np.array([5, 2, 0, 7])
    np.testing.assert_allclose(index.scores(query, chosen), scores[chosen], rtol=1e-5, atol=1e-6)
    assert len(index.scores(query, every[:0])) == 0
    assert not index.scores(query[:0], every).any()


def test_scores_of_parts(tmp_path: Path) -> None:
    rows = [unit(40, 1), unit(0, 2)]
    index = build(tmp_path, rows, 8)
    query = unit(12, 5)
    parts = index.scores_of_parts(query, 0, np.array([0, 0.25, 0.25, 1], np.float32))
    expected = exact(query, [rows[0][:10], rows[0][10:11], rows[0][10:]])
    np.testing.assert_allclose(parts, expected, atol=TOLERANCE[8])
    assert len(index.scores_of_parts(query, 1, np.array([0, 1], np.float32))) == 0
    assert len(index.scores_of_parts(query[:0], 0, np.array([0, 1], np.float32))) == 0


@pytest.mark.parametrize("bits", get_args(Bits))
def test_stored_vectors_can_be_stored_again(tmp_path: Path, bits: Bits) -> None:
    rows = [unit(9, 1), unit(0, 2), unit(4, 3)]
    index = build(tmp_path / "a", rows, bits)
    writer = MultiVectorWriter(tmp_path / "b", DIM, bits)
    stored = [index[row] for row in range(3)]
    writer.check(stored)
    writer.add(stored)
    writer.finish()
    for name in ("codes.u8", "factors.f16", "tokens.i64", "rotation.f32"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / "codes.u8").stat().st_size == 13 * DIM * bits // 8


def test_a_stored_vector_keeps_its_product_with_itself() -> None:
    for bits in get_args(Bits):
        quantiser = Quantiser(DIM, bits)
        vectors = unit(50, 4)
        stored = quantiser.encode(vectors)
        products = quantiser.products(stored.codes, stored.factors, quantiser.query(vectors))
        np.testing.assert_allclose(np.diag(products), 1, atol=2e-3)


def test_zero_vectors() -> None:
    quantiser = Quantiser(DIM, 2)
    stored = quantiser.encode(np.zeros((2, DIM), np.float32))
    assert not quantiser.products(stored.codes, stored.factors, quantiser.query(unit(3, 1))).any()


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InvalidContentError, match="fills whole bytes"):
        Quantiser(3, 2)
    writer = MultiVectorWriter(tmp_path, DIM, 2)
    stored = Quantiser(DIM, 4).encode(unit(2, 1))
    for wrong in (unit(2, 1, DIM // 2), unit(2, 1) * np.nan, stored, EncodedVectors(stored.codes, stored.factors, 2)):
        with pytest.raises(InvalidContentError, match="embed its text again"):
            writer.check([wrong])
    writer.close()


def test_damaged_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DamagedIndexError):
        MultiVectorIndex(tmp_path)
    build(tmp_path, [unit(5, 1)], 2)
    codes = (tmp_path / "codes.u8").read_bytes()
    for kept in (len(codes) - 1, DIM // 4):
        (tmp_path / "codes.u8").write_bytes(codes[:kept])
        with pytest.raises(DamagedIndexError):
            MultiVectorIndex(tmp_path)
