"""Client of the embedder: texts in, embeddings out, as binary tensors of KServe's v2 protocol."""

from __future__ import annotations

import asyncio
import itertools
import re
import struct
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import orjson

from chassis import tracing
from chassis.context import CallContext
from chassis.errors import BadUpstreamError, InvalidRequestError, NotReadyError
from chassis.http import HttpUpstream
from embedder.tokens import compatible
from embedder.wire import Embeddings, InputType, SparseVector

EMBEDDINGS = tracing.SpanType(
    "embeddings {gen_ai.request.model}",
    "client",
    "Texts sent to the embedder; many texts take several requests.",
    (
        "gen_ai.operation.name",
        "gen_ai.request.model",
        "gen_ai.usage.input_tokens",
        "gen_ai.embeddings.dimension.count",
        "kserve_rag.texts",
        "kserve_rag.texts.truncated",
    ),
)

_HEADER = "Inference-Header-Content-Length"
"""Source: Triton's binary tensor data extension of the KServe v2 protocol."""

_MAX_RESPONSE_BYTES = 1024**3
"""Twice the vectors of 16 texts of 8,192 tokens, with 1,024 dimensions."""

_PRIORITY = {"query": 1, "passage": 2}
"""Triton's queue priorities. Queries overtake the passages of an ingestion, because a user waits for them."""

_OUTPUTS = ("embeddings", "token_count", "truncated", "fingerprint")
_SPARSE_OUTPUTS = ("sparse_indices", "sparse_weights")
_MULTI_VECTOR_OUTPUTS = ("multi_vectors", "multi_vector_count")

_DTYPES: dict[str, tuple[str, str | None]] = {
    "embeddings": ("FP32", "<f4"),
    "token_count": ("INT32", "<i4"),
    "truncated": ("BOOL", "?"),
    "fingerprint": ("BYTES", None),
    "sparse_indices": ("INT32", "<i4"),
    "sparse_weights": ("FP32", "<f4"),
    "multi_vectors": ("FP32", "<f4"),
    "multi_vector_count": ("INT32", "<i4"),
}

_RESTARTING = re.compile("Stub process|Server is stopping|unknown model", re.IGNORECASE)
"""Triton's errors while it exits, loads its model, or waits for a restart after the model's process ended."""


Tensors = dict[str, npt.NDArray[Any]]


class EmbedderClient:
    """Embeds texts with one model of an embedder. Safe for any number of concurrent calls.

    A long list is split into requests of `rows_per_request` texts of similar length. `requests_in_flight` of them run
    in parallel, so that the embedder never waits for the next one.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        rows_per_request: int = 16,
        requests_in_flight: int = 4,
        forward_authorization: bool = False,
    ) -> None:
        """A client of `model` at `base_url`. `rows_per_request` must not exceed the model's max_batch_size.

        `forward_authorization`: whether the embedder gets the callers' Authorization header.
        """
        self.model = model
        self._upstream = HttpUpstream(
            base_url,
            name="embedder",
            honours_sampling=False,
            forward_authorization=forward_authorization,
            max_response_bytes=_MAX_RESPONSE_BYTES,
        )
        self._path = f"/v2/models/{quote(model, safe='')}"
        self._rows_per_request = rows_per_request
        self._requests_in_flight = requests_in_flight

    async def embed(
        self,
        texts: Sequence[str],
        ctx: CallContext,
        *,
        input_type: InputType = "query",
        sparse: bool = False,
        multi_vectors: bool = False,
    ) -> Embeddings:
        """Embeddings of any number of texts, in the same order. No texts give arrays with no rows.

        Texts are sent in NFKC (`compatible`), a lone surrogate as a question mark, because UTF-8 cannot encode it.

        Args:
            texts: n texts of any length; `Embeddings.truncated` marks those that were too long for the model.
            ctx: deadline and headers of the caller's request.
            input_type: chooses the prefix that the model puts before the texts.
            sparse: also return learned token weights (bge_m3).
            multi_vectors: also return one vector per token.

        Raises:
            InvalidRequestError: the embedder refuses the request, for example an output that the model does not have.
            NotReadyError: the embedder cannot be reached, or the model is not loaded.
            DeadlineExceededError: the deadline passed.
            BadUpstreamError: the embedder failed, or its response does not hold embeddings of these texts.
        """
        with ctx.span(EMBEDDINGS, f"embeddings {self.model}") as span:
            embeddings = await self._embed(
                texts, span.ctx, input_type=input_type, sparse=sparse, multi_vectors=multi_vectors
            )
            if span.recording:
                span.set("gen_ai.operation.name", "embeddings")
                span.set("gen_ai.request.model", self.model)
                span.set("gen_ai.usage.input_tokens", int(embeddings.token_counts.sum()))
                span.set("gen_ai.embeddings.dimension.count", embeddings.dense.shape[1])
                span.set("kserve_rag.texts", len(texts))
                span.set("kserve_rag.texts.truncated", int(embeddings.truncated.sum()))
        return embeddings

    async def _embed(
        self, texts: Sequence[str], ctx: CallContext, *, input_type: InputType, sparse: bool, multi_vectors: bool
    ) -> Embeddings:
        encoded = [compatible(text).encode("utf-8", "replace") for text in texts]
        names = _OUTPUTS + (_SPARSE_OUTPUTS if sparse else ()) + (_MULTI_VECTOR_OUTPUTS if multi_vectors else ())
        order = sorted(range(len(encoded)), key=lambda position: -len(encoded[position]))
        step = self._rows_per_request
        waiting = iter([order[start : start + step] for start in range(0, len(order), step)] or [[]])
        answers: list[tuple[Sequence[int], Tensors]] = []

        async def work() -> None:
            for positions in waiting:
                # For an empty list, embed one empty text: the dimension and the fingerprint come with a response.
                part = [encoded[position] for position in positions] or [b""]
                answers.append((positions, await self._infer(part, names, input_type, ctx)))

        count = min(self._requests_in_flight, max(1, -(-len(order) // step)))
        workers = [asyncio.create_task(work()) for _ in range(count)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return _embeddings(answers, len(encoded), names)

    async def fingerprint(self, ctx: CallContext) -> str:
        """`<model id>@sha256:<hash>` of the weights being served. Raises what `embed` raises."""
        return (await self.embed([], ctx)).fingerprint

    async def outputs(self, ctx: CallContext) -> frozenset[str]:
        """Names of the model's output tensors. Raises what `embed` raises."""
        answer = await self._upstream.get_json(self._path, ctx)
        try:
            return frozenset(str(output["name"]) for output in answer["outputs"])
        except (LookupError, TypeError) as error:
            raise BadUpstreamError("The embedder's response is not the metadata of a model.") from error

    async def aclose(self) -> None:
        """Closes the pooled connections."""
        await self._upstream.aclose()

    async def _infer(
        self, texts: Sequence[bytes], names: Sequence[str], input_type: InputType, ctx: CallContext
    ) -> Tensors:
        left_s = ctx.check("the embedder was called")
        inputs = {"text_input": _pack(texts), "input_type": _pack([input_type.encode()] * len(texts))}
        header = orjson.dumps(
            {
                "id": ctx.request_id,
                # Triton drops a request that is still queued when the deadline has passed.
                "parameters": {"priority": _PRIORITY[input_type], "timeout": max(1, int(left_s * 1e6))},
                "inputs": [
                    {
                        "name": name,
                        "shape": [len(texts), 1],
                        "datatype": "BYTES",
                        "parameters": {"binary_data_size": len(data)},
                    }
                    for name, data in inputs.items()
                ],
                "outputs": [{"name": name, "parameters": {"binary_data": True}} for name in names],
            }
        )
        try:
            body, headers = await self._upstream.post_bytes(
                f"{self._path}/infer",
                b"".join((header, *inputs.values())),
                {_HEADER: str(len(header)), "content-type": "application/octet-stream"},
                ctx,
            )
        except (InvalidRequestError, BadUpstreamError) as error:
            if _RESTARTING.search(error.upstream_reason):
                raise NotReadyError(f"The embedder is not ready: {error.upstream_reason}") from error
            raise
        try:
            return _decode(body, headers.get(_HEADER), names, len(texts))
        except (LookupError, TypeError, ValueError) as error:
            raise BadUpstreamError(f"The embedder's response does not hold embeddings: {error}") from error


def _pack(values: Sequence[bytes]) -> bytes:
    """Encodes BYTES elements: each has its length (4 bytes, little-endian) and its content."""
    return b"".join(itertools.chain.from_iterable((struct.pack("<I", len(value)), value) for value in values))


def _unpack(data: memoryview, count: int) -> list[bytes]:
    values: list[bytes] = []
    start = 0
    for _ in range(count):
        if start + 4 > len(data):
            raise ValueError("a string is missing")
        (length,) = struct.unpack_from("<I", data, start)
        start += 4 + length
        values.append(bytes(data[start - length : start]))
    if start != len(data):
        raise ValueError("strings do not match their sizes")
    return values


def _decode(body: bytes, header_length: str | None, names: Sequence[str], rows: int) -> Tensors:
    """The output tensors of a binary response, without copying. Raises LookupError, TypeError or ValueError."""
    if header_length is None or not header_length.isdigit() or int(header_length) > len(body):
        raise ValueError("the binary header is missing")
    view = memoryview(body)
    header = orjson.loads(view[: int(header_length)])
    start = int(header_length)
    tensors: Tensors = {}
    for output in header["outputs"]:
        name, shape = output["name"], tuple(output["shape"])
        size = output["parameters"]["binary_data_size"]
        datatype, dtype = _DTYPES[name]
        if output["datatype"] != datatype:
            raise ValueError(f"{name} is {output['datatype']}, not {datatype}")
        if any(type(length) is not int or length < 0 for length in (*shape, size)) or start + size > len(view):
            raise ValueError(f"{name} ends early")
        if len(shape) != (3 if name == "multi_vectors" else 2) or shape[0] != rows:
            raise ValueError(f"{name} has the shape {list(shape)} for {rows} texts")
        data = view[start : start + size]
        start += size
        if dtype is None:
            tensors[name] = np.array(_unpack(data, rows * shape[1]), np.object_).reshape(shape)
        else:
            tensors[name] = np.frombuffer(data, dtype).reshape(shape)
    missing = set(names) - tensors.keys()
    if missing:
        raise ValueError(f"{', '.join(sorted(missing))} is missing")
    _check(tensors)
    return tensors


def _check(tensors: Tensors) -> None:
    """Raises ValueError: the tensors contradict each other, or hold numbers that no embedder returns."""
    if tensors["embeddings"].shape[1] == 0:
        raise ValueError("embeddings have no dimensions")
    for name in ("token_count", "truncated", "fingerprint", "multi_vector_count"):
        if name in tensors and tensors[name].shape[1] != 1:
            raise ValueError(f"{name} has {tensors[name].shape[1]} values per text")
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise ValueError(f"{name} holds NaN or infinity")
    if len(set(tensors["fingerprint"].flat)) > 1:
        raise ValueError("texts of one request have different fingerprints")
    if "sparse_indices" in tensors and tensors["sparse_indices"].shape != tensors["sparse_weights"].shape:
        raise ValueError("sparse_indices and sparse_weights differ in shape")
    if "multi_vectors" in tensors:
        counts = tensors["multi_vector_count"]
        if counts.min() < 0 or counts.max() > tensors["multi_vectors"].shape[1]:
            raise ValueError("multi_vector_count exceeds the rows of multi_vectors")


def _embeddings(answers: Sequence[tuple[Sequence[int], Tensors]], count: int, names: Sequence[str]) -> Embeddings:
    """Puts the responses of all requests into the caller's order."""
    first = answers[0][1]
    fingerprint, dimension = first["fingerprint"][0, 0], first["embeddings"].shape[1]
    if any(a["fingerprint"][0, 0] != fingerprint or a["embeddings"].shape[1] != dimension for _, a in answers):
        raise BadUpstreamError("The embedder's model changed while it encoded these texts. Send them again.")
    dense = np.empty((count, dimension), np.float32)
    token_counts = np.empty(count, np.int32)
    truncated = np.empty(count, np.bool_)
    sparse: list[SparseVector] = [None] * count  # type: ignore[list-item]
    multi_vectors: list[npt.NDArray[np.float32]] = [None] * count  # type: ignore[list-item]
    for positions, tensors in answers:
        at = np.asarray(positions, np.intp)
        dense[at] = tensors["embeddings"][: len(at)]
        token_counts[at] = tensors["token_count"][: len(at), 0]
        truncated[at] = tensors["truncated"][: len(at), 0]
        for row, position in enumerate(positions):
            if "sparse_indices" in names:
                used = tensors["sparse_indices"][row] >= 0
                sparse[position] = SparseVector(
                    tensors["sparse_indices"][row][used], tensors["sparse_weights"][row][used]
                )
            if "multi_vectors" in names:
                multi_vectors[position] = tensors["multi_vectors"][row, : int(tensors["multi_vector_count"][row, 0])]
    return Embeddings(
        dense,
        token_counts,
        truncated,
        fingerprint.decode("utf-8", "replace"),
        tuple(sparse) if "sparse_indices" in names else None,
        tuple(multi_vectors) if "multi_vectors" in names else None,
    )
