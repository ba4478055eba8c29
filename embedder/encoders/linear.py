"""Linear maps and tables of an OpenVINO graph, with their weights in float32, in bfloat16 or in 8 bits.

In 8 bits a weight has a scale per output, a vector in front of it a scale of its own, found while it is encoded:
nothing is calibrated, and a text's embedding depends on no other text's. OpenVINO can quantise by itself, by groups of
a vector; written into the graph as here, its faster kernels for static 8 bits apply. docs/decisions/ compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops

Storage = Literal["f32", "bf16", "int8"]
"""How weights are held. `bf16` halves them; which arithmetic is done is the engine's affair."""

_LARGEST = 127
_LEAST_SCALE = np.float32(1e-6)
"""What smaller vectors are divided by."""
_ROWS_AT_A_TIME = 4096
"""Of a table that is converted: a copy of all of it would be a gigabyte."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """What linear maps read: float vectors, or vectors within -1 and 1 in 255 steps and what each was divided by."""

    values: ov.Node
    scales: ov.Node | None = None


def vectors(hidden: ov.Node, storage: Storage) -> Vectors:
    """Vectors along the last axis, made ready for maps of that storage; several maps may share them."""
    if storage != "int8":
        return Vectors(hidden)
    scales = ops.reduce_max(ops.abs(hidden), np.array([-1], np.int64), True)
    scales = ops.maximum(scales, _LEAST_SCALE)
    low, high = np.float32(-1), np.float32(1)
    return Vectors(ops.fake_quantize(ops.divide(hidden, scales), low, high, low, high, 2 * _LARGEST + 1), scales)


def linear(
    inputs: Vectors, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], storage: Storage
) -> ov.Node:
    """Inputs @ weight.T + bias, for float32[outputs, inputs] and float32[outputs].

    In 8 bits if the inputs are; a weight in `int8` storage behind float inputs stays float32.
    """
    if inputs.scales is None:
        mapped = ops.matmul(inputs.values, _constant(weight, storage), False, True)
    else:
        product = ops.matmul(inputs.values, _times_scales(*quantized(weight)), False, True)
        mapped = ops.multiply(product, inputs.scales)
    return ops.add(mapped, constant(bias))


def rows(table: npt.NDArray[np.float32], indices: ov.Node, storage: Storage) -> ov.Node:
    """float32[..., dim]: the rows of float32[n, dim] that `indices` name."""
    axis = np.int64(0)
    if storage == "f32":
        return ops.gather(constant(table), indices, axis)
    if storage == "bf16":
        return ops.convert(ops.gather(_bfloat16(table), indices, axis), np.float32)
    values, scales = quantized(table)
    chosen = ops.convert(ops.gather(ops.constant(values), indices, axis), np.float32)
    return ops.multiply(chosen, ops.gather(ops.constant(scales), indices, axis))


def constant(tensor: npt.NDArray[np.float32]) -> ov.Node:
    """A constant on the tensor's own memory, which the graph keeps alive."""
    return ov.op.Constant(np.ascontiguousarray(tensor), shared_memory=True)


def quantized(weight: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """int8[n, m] and float32[n, 1], whose product is nearest to float32[n, m]; rows of zeros stay zeros."""
    scales = np.maximum(np.abs(weight).max(axis=1, keepdims=True), np.float32(1e-30)) / np.float32(_LARGEST)
    values = np.empty(weight.shape, np.int8)
    for start in range(0, len(weight), _ROWS_AT_A_TIME):
        part = slice(start, start + _ROWS_AT_A_TIME)
        values[part] = np.rint(weight[part] / scales[part])
    return values, scales


def bfloat16_bits(tensor: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """uint16 of the same shape: the nearest bfloat16 numbers, ties to even, as CPUs round."""
    bits = np.ascontiguousarray(tensor).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def _constant(weight: npt.NDArray[np.float32], storage: Storage) -> ov.Node:
    return ops.convert(_bfloat16(weight), np.float32) if storage == "bf16" else constant(weight)


def _times_scales(values: npt.NDArray[np.int8], scales: npt.NDArray[np.float32]) -> ov.Node:
    return ops.multiply(ops.convert(ops.constant(values), np.float32), ops.constant(scales))


def _bfloat16(tensor: npt.NDArray[np.float32]) -> ov.Node:
    held = ov.Tensor(ov.Type.bf16, ov.Shape(list(tensor.shape)))
    memory = held.data.view(np.uint16)  # numpy has no bfloat16: OpenVINO shows it as float16
    for start in range(0, len(tensor), _ROWS_AT_A_TIME):
        memory[start : start + _ROWS_AT_A_TIME] = bfloat16_bits(tensor[start : start + _ROWS_AT_A_TIME])
    return ov.op.Constant(held, shared_memory=True)
