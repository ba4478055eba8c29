"""Questions and answers as tensors of KServe's v2 protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from kserve import InferRequest
from kserve.protocol.infer_type import to_http_parameters
from pydantic import ValidationError

from chassis.errors import InvalidRequestError
from chassis.routes import encode
from chassis.tensors import per_row, read_columns
from chassis.validation import invalid_request
from transformer.wire import INPUT_TENSORS, MAX_INSTANCES, OUTPUT_TENSORS, Answer, Instance, Usage

_JSON_INPUTS: Mapping[str, tuple[type, str]] = {
    "filters": (dict, 'object. Send for example {"lang": "en"}'),
    "collections": (list, 'array. Send for example ["default"]'),
}
_DTYPES: Mapping[str, Any] = {"BYTES": object, "BOOL": np.bool_, "INT32": np.int32, "FP32": np.float32}
_TEXTS = {"answered_by", *(name for name, one in Answer.model_fields.items() if one.annotation in (str, str | None))}


def read_instances(request: InferRequest) -> list[Instance]:
    """The questions of a request with their parameters, one per row.

    Raises:
        InvalidRequestError: a tensor is missing, unknown, of another datatype, or has a value out of range.
    """
    if not request.inputs:
        raise InvalidRequestError("inputs: is empty. Send a tensor 'input' of datatype BYTES.", field="inputs")
    columns = read_columns(request, {name: datatype for name, (datatype, _) in INPUT_TENSORS.items()})
    for name, value in to_http_parameters(request.parameters or {}).items():
        if name in INPUT_TENSORS and name != "input":
            columns.setdefault(name, [value])
    questions = columns.pop("input", [])
    if not questions:
        raise InvalidRequestError("input: is missing. Send a tensor 'input' of datatype BYTES.", field="input")
    rows = len(questions)
    if rows > MAX_INSTANCES:
        raise InvalidRequestError(f"input: {rows} questions, at most {MAX_INSTANCES} at a time.", field="input")
    parameters = {name: per_row(columns, name, rows) or [] for name in columns}
    instances = []
    for row, question in enumerate(questions):
        fields = {name: values[row] for name, values in parameters.items()}
        # An empty string means absent, because a tensor cannot omit a row.
        for name in _JSON_INPUTS.keys() & fields:
            fields[name] = _parsed(name, fields[name])
        for name in ("answers", "citations", "model", "template", "turns"):
            fields[name] = fields.get(name) or None
        try:
            instances.append(Instance.model_validate({"input": question, **fields}))
        except ValidationError as error:
            raise invalid_request(error, Instance) from None
    return instances


def _parsed(name: str, text: str) -> Any:
    kind, expected = _JSON_INPUTS[name]
    try:
        value = orjson.loads(text) if text else None
    except orjson.JSONDecodeError:
        value = text
    if value is not None and not isinstance(value, kind):
        raise InvalidRequestError(f"{name}: is not a JSON {expected}.", field=name)
    return value


def answer_tensors(answers: Sequence[Answer]) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of `OUTPUT_TENSORS`, one row per answer."""
    tensors = {}
    for name, (datatype, _) in OUTPUT_TENSORS.items():
        array = np.empty((len(answers), 1), _DTYPES[datatype])
        array[:, 0] = [_element(name, datatype, answer) for answer in answers]
        tensors[name] = array
    return tensors


def _element(name: str, datatype: str, answer: Answer) -> Any:
    value = getattr(answer.usage if name in Usage.model_fields else answer, name)
    if datatype != "BYTES":
        return -1 if value is None else value
    if isinstance(value, str):
        return value.encode()
    return b"" if name in _TEXTS else encode(value)
