"""The embedder as a Python model of Triton: tensors in, tensors out. Importable only inside Triton.

All models of `model_repository` are this class. They differ only in their `config.pbtxt`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from embedder.encoders import Encoder, load_encoder
from embedder.encoders.batches import stack_padded
from embedder.errors import EmbedderError, TextError
from embedder.settings import EncoderSettings, model_dir
from embedder.wire import Embeddings, InputType, SparseVector

_SPARSE = {"sparse_indices", "sparse_weights"}
_MULTI_VECTORS = {"multi_vectors", "multi_vector_count"}
_MAX_MULTI_VECTOR_BYTES = 1 << 30
"""Maximum size of the tensor `multi_vectors` in a response, which is sent in one piece."""


@dataclass(frozen=True, slots=True)
class _Job:
    """One request of a batch."""

    position: int
    texts: list[str]
    input_types: list[InputType]
    outputs: frozenset[str]


class EmbedderModel:
    """Triton's `TritonPythonModel`. It encodes all requests of a batch together."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the encoder, with settings from the model configuration and the environment.

        Raises:
            TritonModelException: the encoder cannot be loaded; the message says what to change.
        """
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        self._encoder: Encoder
        try:
            self._encoder = load_encoder(
                model_dir(parameters, os.environ), EncoderSettings.read(parameters, os.environ)
            )
            self._encoder.encode(["A warm-up: the first pass through a network allocates memory."])
        except EmbedderError as error:
            raise pb_utils.TritonModelException(str(error)) from error
        pb_utils.Logger.log_info(
            f"{self._encoder.fingerprint}: {self._encoder.dimension} dimensions, {self._encoder.max_tokens} tokens"
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response per request, in order. An invalid request fails alone; if the encoder fails, all fail."""
        responses: list[Any] = [None] * len(requests)
        jobs: list[_Job] = []
        for position, request in enumerate(requests):
            if request.is_cancelled():
                responses[position] = _failure("The request was cancelled.", pb_utils.TritonError.CANCELLED)
                continue
            try:
                jobs.append(_read(position, request))
            except TextError as error:
                responses[position] = _failure(str(error), pb_utils.TritonError.INVALID_ARG)
        if jobs:
            try:
                self._answer(jobs, responses)
            except Exception as error:  # every request must get a response
                pb_utils.Logger.log_error(f"Encoding failed: {type(error).__name__}: {error}")
                for job in jobs:
                    responses[job.position] = _failure(
                        "The encoder failed; see the embedder's log.", pb_utils.TritonError.INTERNAL
                    )
        return responses

    def _answer(self, jobs: Sequence[_Job], responses: list[Any]) -> None:
        asked = frozenset().union(*(job.outputs for job in jobs))
        embeddings = self._encoder.encode(
            [text for job in jobs for text in job.texts],
            input_type=[input_type for job in jobs for input_type in job.input_types],
            sparse=bool(asked & _SPARSE),
            multi_vectors=bool(asked & _MULTI_VECTORS),
        )
        start = 0
        for job in jobs:
            rows = slice(start, start + len(job.texts))
            start = rows.stop
            try:
                tensors = _tensors(embeddings, rows, job.outputs)
            except TextError as error:
                responses[job.position] = _failure(str(error), pb_utils.TritonError.INVALID_ARG)
                continue
            responses[job.position] = pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, tensor) for name, tensor in tensors.items()]
            )


def _failure(message: str, code: int) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def _read(position: int, request: Any) -> _Job:
    """Raises TextError: a text is not UTF-8, or an input type is unknown."""
    texts = _strings(request, "text_input")
    input_types = _strings(request, "input_type") or ["query"] * len(texts)
    for row, input_type in enumerate(input_types):
        if input_type not in ("query", "passage"):
            raise TextError(f"input_type[{row}] is {input_type[:40]!r}: send 'query' or 'passage'.")
    return _Job(position, texts, cast("list[InputType]", input_types), frozenset(request.requested_output_names()))


def _strings(request: Any, name: str) -> list[str]:
    """The strings of an input tensor [n, 1]; empty if the request does not have it."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return []
    return [_decode(name, row, value) for row, value in enumerate(tensor.as_numpy().reshape(-1))]


def _decode(name: str, row: int, value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextError(f"{name}[{row}] is not UTF-8: byte {error.start} cannot be read.") from None


def _tensors(embeddings: Embeddings, rows: slice, names: frozenset[str]) -> dict[str, npt.NDArray[Any]]:
    """Output tensors of one request, from its rows of a batch's embeddings."""
    tensors: dict[str, npt.NDArray[Any]] = {
        "embeddings": embeddings.dense[rows],
        "token_count": embeddings.token_counts[rows, None],
        "truncated": embeddings.truncated[rows, None],
        "fingerprint": np.full((rows.stop - rows.start, 1), embeddings.fingerprint.encode(), np.object_),
    }
    if embeddings.sparse is not None and names & _SPARSE:
        tensors |= _sparse_tensors(embeddings.sparse[rows])
    if embeddings.multi_vectors is not None and names & _MULTI_VECTORS:
        tensors |= _multi_vector_tensors(embeddings.multi_vectors[rows])
    return {name: tensors[name] for name in tensors.keys() & names}


def _sparse_tensors(vectors: Sequence[SparseVector]) -> dict[str, npt.NDArray[Any]]:
    width = max(1, *(len(vector.indices) for vector in vectors))
    return {
        "sparse_indices": stack_padded([vector.indices for vector in vectors], -1, width),
        "sparse_weights": stack_padded([vector.weights for vector in vectors], 0, width),
    }


def _multi_vector_tensors(matrices: Sequence[npt.NDArray[np.float32]]) -> dict[str, npt.NDArray[Any]]:
    """Raises TextError if the tensor would be too large."""
    length = max(len(matrix) for matrix in matrices)
    if len(matrices) * length * matrices[0].shape[1] * matrices[0].itemsize > _MAX_MULTI_VECTOR_BYTES:
        raise TextError(
            f"multi_vectors of {len(matrices)} texts of up to {length} tokens are larger than "
            f"{_MAX_MULTI_VECTOR_BYTES >> 20} MiB: send fewer texts in one request."
        )
    counts = np.array([[len(matrix)] for matrix in matrices], np.int32)
    return {"multi_vectors": stack_padded(matrices, 0, length), "multi_vector_count": counts}
