"""Quantised multi-vectors of the chunks of an index version, and late interaction with them.

A random rotation makes the numbers of each vector similar in size. Each number is then rounded to one of 2^bits evenly
spaced levels around zero, and a factor per vector corrects its product with the exact vector. Queries stay float32.
docs/decisions/0008 compares numbers of bits.

Source: the score is ColBERT's (Khattab and Zaharia, arXiv:2004.12832), as a mean over the query's tokens, as in
BGE M3-Embedding (arXiv:2402.03216, section 3.2). Rotation and factor follow RaBitQ (Gao and Long,
arXiv:2405.12497). Widths of the steps: Max, "Quantizing for Minimum Distortion" (1960), table II, for a normal
distribution.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import orjson

from vectorstore.errors import DamagedIndexError, InvalidContentError
from vectorstore.signals.postings import open_array

Bits = Literal[1, 2, 4, 8]
"""Bits per number of a vector."""

_STEP: Mapping[int, float] = {1: 1.596, 2: 0.9957, 4: 0.3352, 8: 0.0308}
"""Bits → width of a step in standard deviations."""

_TOKENS_AT_A_TIME = 512
"""Number of tokens decoded together: few enough to stay in the CPU's cache."""

_SEED = 20_251_031

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EncodedVectors:
    """The stored multi-vectors of one text."""

    codes: npt.NDArray[np.uint8]
    """uint8[tokens, w] with w = dim * bits / 8. Byte j holds the numbers j, j + w, j + 2w, …, lowest bits first."""
    factors: npt.NDArray[np.float16]
    """float16[tokens]: corrections."""
    bits: int


class Quantiser:
    """Encodes vectors of one dimension. On the same machine, equal arguments give equal quantisers."""

    def __init__(self, dimension: int, bits: Bits, rotation: Matrix | None = None) -> None:
        if bits not in _STEP or dimension * bits % 8:
            raise InvalidContentError(
                f"Multi-vectors of {dimension} dimensions cannot be stored with {bits} bits per number: use 8, 4, 2 or "
                "1, so that a vector fills whole bytes.",
                field="multi_vector_bits",
            )
        self.dimension, self.bits = dimension, bits
        self.rotation = _rotation(dimension) if rotation is None else rotation
        """float32[dim, dim], orthogonal."""
        self._middle = ((1 << bits) - 1) / 2

    def encode(self, vectors: Matrix) -> EncodedVectors:
        """Encodes float32[tokens, dim], rows L2-normalised."""
        turned = vectors @ self.rotation
        steps = _STEP[self.bits] * np.sqrt(np.mean(turned * turned, axis=1, keepdims=True))
        levels = np.clip(np.floor(turned / np.maximum(steps, 1e-30)) + self._middle + 0.5, 0, (1 << self.bits) - 1)
        centred = levels - np.float32(self._middle)
        products = np.maximum((turned * centred).sum(axis=1), 1e-6)
        factors = ((turned * turned).sum(axis=1) / products).astype(np.float16)
        planes = levels.astype(np.uint8).reshape(len(vectors), 8 // self.bits, self.dimension * self.bits // 8)
        codes = planes[:, 0].copy()
        for place in range(1, planes.shape[1]):
            codes |= planes[:, place] << (place * self.bits)
        return EncodedVectors(codes, factors, self.bits)

    def query(self, vectors: Matrix) -> tuple[Matrix, Matrix]:
        """Prepares a query, float32[tokens, dim], for `products`: float32[dim, tokens] and float32[tokens]."""
        turned = np.ascontiguousarray((vectors @ self.rotation).T)
        return turned, turned.sum(axis=0) * np.float32(self._middle)

    def products(
        self, codes: npt.NDArray[np.uint8], factors: npt.NDArray[np.float16], query: tuple[Matrix, Matrix]
    ) -> Matrix:
        """float32[tokens, query tokens]: dot products of stored vectors with the query's vectors."""
        turned, offsets = query
        width = codes.shape[1]
        levels = np.empty((len(codes), self.dimension), np.float32)
        if self.bits == 8:
            levels[:] = codes
        else:
            mask = np.uint8((1 << self.bits) - 1)
            for place in range(8 // self.bits):
                levels[:, place * width : (place + 1) * width] = (codes >> np.uint8(place * self.bits)) & mask
        products: Matrix = (levels @ turned - offsets) * factors[:, None].astype(np.float32)
        return products


@functools.cache
def _rotation(dimension: int) -> Matrix:
    normal = np.random.default_rng(_SEED).standard_normal((dimension, dimension))
    return np.linalg.qr(normal)[0].astype(np.float32)


class MultiVectorWriter:
    """Appends the multi-vectors of rows to files in a folder."""

    def __init__(self, folder: Path, dimension: int, bits: Bits) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._quantiser = Quantiser(dimension, bits)
        self._codes = (folder / "codes.u8").open("wb")
        self._factors = (folder / "factors.f16").open("wb")
        self._ends = (folder / "tokens.i64").open("wb")
        self._end = 0

    def add(self, rows: Sequence[Matrix | EncodedVectors]) -> None:
        """Appends rows: vectors, or encodings from another version. `check` must have accepted them."""
        for row in rows:
            stored = row if isinstance(row, EncodedVectors) else self._quantiser.encode(row)
            self._codes.write(stored.codes.tobytes())
            self._factors.write(stored.factors.astype("<f2").tobytes())
            self._end += len(stored.codes)
            self._ends.write(self._end.to_bytes(8, "little"))

    def check(self, rows: Sequence[Matrix | EncodedVectors]) -> None:
        """Raises InvalidContentError if a dimension or number of bits is wrong, or a value is not finite."""
        dimension, bits = self._quantiser.dimension, self._quantiser.bits
        for number, row in enumerate(rows):
            if isinstance(row, EncodedVectors):
                fits = row.bits == bits and row.codes.shape == (len(row.factors), dimension * bits // 8)
            else:
                fits = row.ndim == 2 and row.shape[1] == dimension and bool(np.isfinite(row).all())
            if not fits:
                raise InvalidContentError(
                    f"Multi-vectors {number} are not finite numbers of {dimension} dimensions: embed its text again.",
                    field="multi_vectors",
                )

    def finish(self) -> None:
        """Completes the folder."""
        self.close()
        self._quantiser.rotation.astype("<f4").tofile(self._folder / "rotation.f32")
        described = {"dimension": self._quantiser.dimension, "bits": self._quantiser.bits}
        (self._folder / "multi_vectors.json").write_bytes(orjson.dumps(described))

    def close(self) -> None:
        """Closes the files."""
        for file in (self._codes, self._factors, self._ends):
            file.close()


class MultiVectorIndex:
    """Scores rows from the files of `MultiVectorWriter`. Reads only the scored rows. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        try:
            described = orjson.loads((folder / "multi_vectors.json").read_bytes())
            dimension, bits = int(described["dimension"]), described["bits"]
            rotation = np.fromfile(folder / "rotation.f32", "<f4").reshape(dimension, dimension)
            self._quantiser = Quantiser(dimension, bits, rotation)
            self._codes = open_array(folder / "codes.u8", "u1").reshape(-1, dimension * bits // 8)
            self._factors = open_array(folder / "factors.f16", "<f2")
            self._starts = np.concatenate([[0], np.fromfile(folder / "tokens.i64", "<i8")])
        except (OSError, ValueError, KeyError, TypeError, InvalidContentError) as error:
            raise DamagedIndexError("The multi-vectors cannot be read: publish again.") from error
        if not self._starts[-1] == len(self._codes) == len(self._factors):
            raise DamagedIndexError("The multi-vectors are incomplete: publish again.")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, row: int) -> EncodedVectors:
        """The stored vectors of the row."""
        span = slice(self._starts[row], self._starts[row + 1])
        return EncodedVectors(self._codes[span].copy(), self._factors[span].copy(), self._quantiser.bits)

    def scores(self, query: Matrix, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """float32[n]: late interaction of a query, float32[tokens, dim], with each of the rows, about -1 … 1.

        The score is the mean over the query's tokens of the greatest dot product with a token of the row; 0 if the row
        or the query has no vectors. It depends on the other rows only by rounding errors.
        """
        scores = np.zeros(len(rows), np.float32)
        if not len(query):
            return scores
        prepared = self._quantiser.query(query)
        firsts, ends = self._starts[rows], self._starts[rows + 1]
        filled = np.flatnonzero(ends > firsts)
        at = 0
        while at < len(filled):
            group = [filled[at]]
            size = ends[filled[at]] - firsts[filled[at]]
            at += 1
            while at < len(filled) and size + ends[filled[at]] - firsts[filled[at]] <= _TOKENS_AT_A_TIME:
                size += ends[filled[at]] - firsts[filled[at]]
                group.append(filled[at])
                at += 1
            codes = np.concatenate([self._codes[firsts[i] : ends[i]] for i in group])
            factors = np.concatenate([self._factors[firsts[i] : ends[i]] for i in group])
            lengths = ends[group] - firsts[group]
            products = self._quantiser.products(codes, factors, prepared)
            best = np.maximum.reduceat(products, np.cumsum(lengths) - lengths, axis=0)
            scores[group] = best.mean(axis=1)
        return scores

    def scores_of_parts(self, query: Matrix, row: int, bounds: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """float32[n]: late interaction of a query with each part of a row's text; empty if either has no vectors.

        Args:
            query: float32[tokens, dim].
            row: the row.
            bounds: float32[n + 1], ascending: where parts begin and end, as fractions of the text. Assumes tokens of
                equal length, because their positions are not stored.
        """
        first, end = self._starts[row], self._starts[row + 1]
        if first == end or not len(query):
            return np.empty(0, np.float32)
        products = self._quantiser.products(
            self._codes[first:end], self._factors[first:end], self._quantiser.query(query)
        )
        firsts = np.minimum(np.floor(bounds[:-1] * len(products)), len(products) - 1).astype(int)
        ends = np.maximum(np.ceil(bounds[1:] * len(products)), firsts + 1).astype(int)
        parts = zip(firsts.tolist(), ends.tolist(), strict=True)
        return np.array([products[one:other].max(axis=0).mean() for one, other in parts], np.float32)
