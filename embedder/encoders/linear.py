"""Linear maps and embedding tables of an OpenVINO graph, with weights stored in float32, bfloat16 or int8."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset13 as ops

from embedder.settings import Precision

_LARGEST = np.float32(127)
_LEAST = np.float32(1e-30)
_ROWS_AT_A_TIME = 4096
"""Number of rows converted at a time. Converting a whole table would need a copy of a gigabyte."""


def linear(
    hidden: ov.Node, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], storage: Precision
) -> ov.Node:
    """Hidden @ weight.T + bias, with weight float32[outputs, inputs] and bias float32[outputs].

    `storage` is the precision in which the graph keeps the weights; int8 has a scale per row. The engine chooses the
    precision of the computation.
    """
    if storage == "int8":
        values, scales = quantized(weight)
        factor = ops.multiply(ops.convert(ops.constant(values), np.float32), ops.constant(scales))
    elif storage == "bf16":
        factor = ops.convert(_bfloat16(weight), np.float32)
    else:
        factor = constant(weight)
    return ops.add(ops.matmul(hidden, factor, False, True), constant(bias))


def rows(table: npt.NDArray[np.float32], indices: ov.Node, storage: Precision) -> ov.Node:
    """float32[..., dim]: the rows of `table`, float32[n, dim], at `indices`."""
    axis = np.int64(0)
    if storage == "f32":
        return ops.gather(constant(table), indices, axis)
    if storage == "bf16":
        return ops.convert(ops.gather(_bfloat16(table), indices, axis), np.float32)
    values, scales = quantized(table)
    chosen = ops.convert(ops.gather(ops.constant(values), indices, axis), np.float32)
    return ops.multiply(chosen, ops.gather(ops.constant(scales), indices, axis))


def constant(tensor: npt.NDArray[np.float32]) -> ov.Node:
    """A constant that shares the tensor's memory. The graph keeps it alive."""
    return ov.op.Constant(np.ascontiguousarray(tensor), shared_memory=True)


def quantized(weight: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """int8[n, m] values and float32[n, 1] scales; their product approximates `weight`. Rows of zeros stay zeros."""
    values = np.empty(weight.shape, np.int8)
    scales = np.empty((len(weight), 1), np.float32)
    for start in range(0, len(weight), _ROWS_AT_A_TIME):
        part = slice(start, start + _ROWS_AT_A_TIME)
        scales[part] = np.maximum(np.abs(weight[part]).max(axis=1, keepdims=True), _LEAST) / _LARGEST
        values[part] = np.rint(weight[part] / scales[part])
    return values, scales


def bfloat16_bits(tensor: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """uint16 of the same shape: the nearest bfloat16 numbers, ties to even, as CPUs round."""
    bits = np.ascontiguousarray(tensor).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def _bfloat16(tensor: npt.NDArray[np.float32]) -> ov.Node:
    held = ov.Tensor(ov.Type.bf16, ov.Shape(list(tensor.shape)))
    memory = held.data.view(np.uint16)  # numpy has no bfloat16: OpenVINO shows it as float16
    for start in range(0, len(tensor), _ROWS_AT_A_TIME):
        memory[start : start + _ROWS_AT_A_TIME] = bfloat16_bits(tensor[start : start + _ROWS_AT_A_TIME])
    return ov.op.Constant(held, shared_memory=True)
