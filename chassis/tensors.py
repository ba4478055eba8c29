"""Conversion of v2 tensors between KServe's types and Python values."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from kserve import InferInput, InferOutput, InferRequest, InferResponse
from kserve.errors import InvalidInput
from kserve.utils.utils import generate_uuid

from chassis.errors import InvalidRequestError

_KINDS = {"BYTES": "O", "BOOL": "b", "INT32": "iu", "INT64": "iu", "UINT64": "iu", "FP32": "fiu", "FP64": "fiu"}
"""Declared datatype → accepted `dtype.kind`s: integers of any width, and integers for floats."""


def read_columns(request: InferRequest, declared: Mapping[str, str]) -> dict[str, list[Any]]:
    """The tensors of a request as flat Python lists: str, int, float or bool, in row-major order.

    `declared`: the datatype of each tensor.

    Raises:
        InvalidRequestError: a tensor is unknown or repeated, has another datatype, does not fit its shape, or has text
            that is not UTF-8, NaN or infinity. The error names the tensor.
    """
    columns: dict[str, list[Any]] = {}
    for tensor in request.inputs:
        if not isinstance(tensor.name, str):
            raise InvalidRequestError("inputs: the name of a tensor is not a text.", field="inputs")
        if tensor.name not in declared:
            raise InvalidRequestError(
                f"inputs: unknown tensor {tensor.name!r}. This model takes {', '.join(declared)}.", field=tensor.name
            )
        if tensor.name in columns:
            raise InvalidRequestError(f"inputs: tensor {tensor.name!r} is repeated. Send it once.", field=tensor.name)
        columns[tensor.name] = _values(tensor, declared[tensor.name])
    return columns


def _values(tensor: InferInput, datatype: str) -> list[Any]:
    name = tensor.name
    if not all(isinstance(size, int) for size in tensor.shape):
        raise InvalidRequestError(f"{name}: shape {list(tensor.shape)} is not a list of sizes.", field=name)
    if any(size < 0 for size in tensor.shape):
        raise InvalidRequestError(f"{name}: shape {list(tensor.shape)} has a negative size.", field=name)
    try:
        array = tensor.as_numpy()
    except (InvalidInput, ValueError, TypeError, OverflowError, IndexError, struct.error) as error:
        raise InvalidRequestError(
            f"{name}: the data does not fit shape {list(tensor.shape)} and datatype {tensor.datatype!r}. "
            f"This tensor is {datatype}, one value for each element of its shape.",
            field=name,
        ) from error
    if array.dtype.kind not in _KINDS[datatype]:
        raise InvalidRequestError(f"{name}: datatype is {tensor.datatype}, expected {datatype}.", field=name)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidRequestError(f"{name}: NaN and infinity are not allowed.", field=name)
    values: list[Any] = array.ravel().tolist()
    return [_text(value, name) for value in values] if datatype == "BYTES" else values


def _text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        raise InvalidRequestError(f"{name}: a BYTES element is a text, not {type(value).__name__}.", field=name)
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{name}: the text is not valid UTF-8.", field=name) from error


def per_row(columns: Mapping[str, list[Any]], name: str, rows: int) -> list[Any] | None:
    """A parameter's value for each of `rows` rows; a single value applies to all. None if it was not sent."""
    values = columns.get(name)
    if values is None or len(values) == rows:
        return values
    if len(values) == 1:
        return values * rows
    raise InvalidRequestError(f"{name}: {len(values)} values for {rows} inputs. Send 1 or {rows}.", field=name)


def respond(request: InferRequest, model: str, outputs: Mapping[str, npt.NDArray[Any]]) -> InferResponse:
    """The response with the requested outputs (all by default), binary if requested.

    `outputs`: arrays by name. Object arrays of str or bytes become BYTES.
    """
    tensors = {
        name: InferOutput(name, list(array.shape), _DATATYPES[array.dtype], array) for name, array in outputs.items()
    }
    requested = request.request_outputs or ()
    for output in requested:
        if output.name not in tensors:
            raise InvalidRequestError(
                f"outputs: unknown tensor {output.name!r}. This model has {', '.join(tensors)}.", field=output.name
            )
    if request.from_grpc:  # for REST, KServe selects and encodes them
        if requested:
            tensors = {output.name: tensors[output.name] for output in requested}
        for tensor in tensors.values():
            tensor.set_data_from_numpy(outputs[tensor.name], binary_data=request.use_binary_outputs)
    return InferResponse(
        response_id=request.id or generate_uuid(),
        model_name=model,
        infer_outputs=list(tensors.values()),
        use_binary_outputs=request.use_binary_outputs,
        requested_outputs=None if request.from_grpc else request.request_outputs,
    )


_DATATYPES = {
    np.dtype("object"): "BYTES",
    np.dtype("float32"): "FP32",
    np.dtype("int32"): "INT32",
    np.dtype("bool"): "BOOL",
}


def metadata(tensors: Mapping[str, tuple[str, list[int]]]) -> list[dict[str, Any]]:
    """Tensor declarations in the format of KServe's model metadata."""
    return [{"name": name, "datatype": datatype, "shape": shape} for name, (datatype, shape) in tensors.items()]
