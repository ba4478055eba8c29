"""The client against embedders that misbehave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from aiohttp import web

from chassis.context import CallContext
from chassis.errors import BadUpstreamError, DeadlineExceededError, InvalidRequestError, NotReadyError, ServiceError
from embedder.client import EmbedderClient
from tests.fakes.loopback import serving

HEADER = "Inference-Header-Content-Length"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """A server on loopback; each test sets its response to inference requests."""

    def __init__(self) -> None:
        self.url = ""
        self.answer: Handler
        self.requests: list[dict[str, Any]] = []
        self.in_flight = self.most_in_flight = 0

    async def infer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append(json.loads(body[: int(request.headers[HEADER])]))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self.answer(request)
        finally:
            self.in_flight -= 1


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    application = web.Application()
    application.router.add_post("/v2/models/m/infer", server.infer)
    async with serving(application) as server.url:
        yield server


@pytest_asyncio.fixture
async def client(server: Server) -> AsyncIterator[EmbedderClient]:
    client = EmbedderClient(server.url, model="m", rows_per_request=2, requests_in_flight=3)
    yield client
    await client.aclose()


def tensor(name: str, datatype: str, array: Any, shape: list[int] | None = None) -> tuple[dict[str, Any], bytes]:
    if datatype == "BYTES":
        data = b"".join(len(value).to_bytes(4, "little") + value for value in np.ravel(array))
    else:
        data = np.ascontiguousarray(array).tobytes()
    described = {"name": name, "datatype": datatype, "shape": shape or list(np.shape(array))}
    return {**described, "parameters": {"binary_data_size": len(data)}}, data


def good(rows: int, fingerprint: bytes = b"m@sha256:0") -> dict[str, tuple[dict[str, Any], bytes]]:
    return {
        "embeddings": tensor("embeddings", "FP32", np.full((rows, 4), 0.5, np.float32)),
        "token_count": tensor("token_count", "INT32", np.full((rows, 1), 3, np.int32)),
        "truncated": tensor("truncated", "BOOL", np.zeros((rows, 1), np.bool_)),
        "fingerprint": tensor("fingerprint", "BYTES", np.array([[fingerprint]] * rows, np.object_)),
    }


def respond(tensors: dict[str, tuple[dict[str, Any], bytes]], *, cut: int = 0) -> web.Response:
    header = json.dumps({"outputs": [described for described, _ in tensors.values()]}).encode()
    body = header + b"".join(data for _, data in tensors.values())
    return web.Response(body=body[: len(body) - cut], headers={HEADER: str(len(header))})


def always(response: Callable[[], web.Response]) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        return response()

    return answer


def changed(**tensors: tuple[dict[str, Any], bytes]) -> Callable[[], web.Response]:
    return lambda: respond({**good(1), **tensors})


def without(name: str) -> Callable[[], web.Response]:
    return lambda: respond({key: value for key, value in good(1).items() if key != name})


FLOATS = np.full((1, 4), 0.5, np.float32)


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(lambda: web.Response(body=b""), id="nothing"),
        pytest.param(lambda: web.Response(body=b"\xff" * 100), id="garbage"),
        pytest.param(lambda: web.json_response({"outputs": []}), id="no binary header"),
        pytest.param(lambda: web.Response(body=b"{}", headers={HEADER: "99"}), id="header length past the end"),
        pytest.param(lambda: web.Response(body=b"{}", headers={HEADER: "-1"}), id="negative header length"),
        pytest.param(lambda: web.Response(body=b"[1]", headers={HEADER: "3"}), id="header of another type"),
        pytest.param(lambda: web.Response(body=b'{"outputs":[1]}', headers={HEADER: "15"}), id="outputs of numbers"),
        pytest.param(lambda: respond(good(1), cut=3), id="cut off"),
        pytest.param(lambda: respond(good(2)), id="too many rows"),
        pytest.param(lambda: respond(good(0)), id="no rows"),
        pytest.param(without("embeddings"), id="no embeddings"),
        pytest.param(without("fingerprint"), id="no fingerprint"),
        pytest.param(changed(embeddings=tensor("embeddings", "FP32", FLOATS * np.nan)), id="NaN"),
        pytest.param(changed(embeddings=tensor("embeddings", "FP32", FLOATS * np.inf)), id="infinity"),
        pytest.param(changed(embeddings=tensor("embeddings", "FP64", FLOATS.astype("f8"))), id="wrong datatype"),
        pytest.param(changed(embeddings=tensor("embeddings", "FP32", FLOATS, [1, 5])), id="shape without data"),
        pytest.param(changed(embeddings=tensor("embeddings", "FP32", FLOATS, [4])), id="flat"),
        pytest.param(changed(embeddings=tensor("embeddings", "FP32", FLOATS[:, :0])), id="no dimensions"),
        pytest.param(changed(embeddings=tensor("embeddings", "FP32", FLOATS, [1, -4])), id="negative shape"),
        pytest.param(changed(embeddings=tensor("other", "FP32", FLOATS)), id="unknown tensor"),
        pytest.param(changed(fingerprint=tensor("fingerprint", "BYTES", [b"a"], [1, 10**12])), id="endless strings"),
        pytest.param(changed(token_count=tensor("token_count", "INT32", np.zeros((1, 2), "i4"))), id="two counts"),
    ],
)
async def test_invalid_responses(
    server: Server, client: EmbedderClient, ctx: CallContext, response: Callable[[], web.Response]
) -> None:
    server.answer = always(response)
    with pytest.raises(BadUpstreamError, match="embedder's response does not hold embeddings"):
        await client.embed(["a"], ctx)
    server.answer = always(lambda: respond(good(1)))
    assert (await client.embed(["a"], ctx)).dense.tolist() == [[0.5] * 4]


@pytest.mark.parametrize(
    ("status", "reason", "error"),
    [
        (400, "why", InvalidRequestError),
        (400, "Request for unknown model: 'm' is not found", NotReadyError),
        (404, "why", NotReadyError),
        (500, "why", BadUpstreamError),
        (500, "Stub process 'minilm_0_0' is not healthy.", NotReadyError),
        (503, "why", NotReadyError),
    ],
)
async def test_an_error_status(
    server: Server, client: EmbedderClient, ctx: CallContext, status: int, reason: str, error: type[ServiceError]
) -> None:
    server.answer = always(lambda: web.json_response({"error": reason}, status=status))
    with pytest.raises(error, match="embedder"):
        await client.embed(["a"], ctx)


async def test_a_server_that_never_answers(server: Server, client: EmbedderClient) -> None:
    async def never(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    server.answer = never
    with pytest.raises(DeadlineExceededError):
        await client.embed(["a"] * 20, CallContext.start(0.2))


async def test_long_lists_are_pipelined_and_keep_their_order(
    server: Server, client: EmbedderClient, ctx: CallContext
) -> None:
    """Two texts in a request, three requests at a time: none is answered before three are there."""
    three_are_there = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        (rows, _) = server.requests[-1]["inputs"][0]["shape"]
        data = body[int(request.headers[HEADER]) :]
        tensors = good(rows)
        lengths = []
        for _ in range(rows):
            size = int.from_bytes(data[:4], "little")
            lengths.append([float(size)] * 4)
            data = data[4 + size :]
        tensors["embeddings"] = tensor("embeddings", "FP32", np.array(lengths, np.float32))
        if server.in_flight == 3:
            three_are_there.set()
        await three_are_there.wait()
        return respond(tensors)

    server.answer = answer
    texts = ["x" * ((number * 7) % 12) for number in range(12)]
    embeddings = await client.embed(texts, ctx)
    assert embeddings.dense[:, 0].tolist() == [len(text) for text in texts]
    assert server.most_in_flight == 3
    assert [request["inputs"][0]["shape"][0] for request in server.requests] == [2] * 6


async def test_the_first_error_ends_all_requests(server: Server, client: EmbedderClient, ctx: CallContext) -> None:
    server.answer = always(lambda: web.json_response({"error": "why"}, status=500))
    with pytest.raises(BadUpstreamError):
        await client.embed(["a"] * 100, ctx)
    assert len(server.requests) <= 6


async def test_the_model_changes_during_a_call(server: Server, client: EmbedderClient, ctx: CallContext) -> None:
    server.answer = always(lambda: respond(good(2, f"m@sha256:{len(server.requests) > 1}".encode())))
    with pytest.raises(BadUpstreamError, match="model changed"):
        await client.embed(["a"] * 6, ctx)


async def test_queries_overtake_passages_and_expire_with_their_deadline(
    server: Server, client: EmbedderClient, ctx: CallContext
) -> None:
    server.answer = always(lambda: respond(good(1)))
    await client.embed(["a"], ctx, input_type="passage")
    await client.embed(["a"], CallContext.start(20), input_type="query")
    passage, query = (request["parameters"] for request in server.requests)
    assert query["priority"] < passage["priority"]
    assert query["timeout"] <= 20_000_000 < passage["timeout"]
