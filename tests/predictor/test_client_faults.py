"""The client against servers that answer slowly, nonsense, or not to the end: raw bytes on a loopback socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from chassis.context import CallContext
from chassis.errors import (
    BadUpstreamError,
    BusyError,
    DeadlineExceededError,
    InvalidRequestError,
    NotReadyError,
    ServiceError,
    UnauthorizedError,
)
from predictor.client import PredictorClient
from predictor.wire import GenerationChunk, GenerationRequest

REQUEST = GenerationRequest("a question", max_tokens=5)

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(answer: Answer, layout: str = "llmapi") -> AsyncIterator[PredictorClient]:
    """A client of a server that reads each request whole and then does as `answer` says."""

    handlers = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                lengths = [line.split(b":")[1] for line in head.splitlines() if line.startswith(b"content-length:")]
                await reader.readexactly(int(lengths[0]) if lengths else 0)
                await answer(writer)
                await writer.drain()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    model = "m" if layout == "openai" else None  # else it asks for the list of models first
    client = PredictorClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", server=layout, model=model)
    try:
        yield client
    finally:
        await client.aclose()
        server.close()
        await asyncio.gather(*handlers)


def body(content: bytes, *, status: str = "200 OK", kind: str = "text/event-stream") -> Answer:
    async def write(writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)

    return write


def events(*responses: object, end: bytes = b"\n\n") -> bytes:
    return b"".join(b"data: " + json.dumps(response).encode() + end for response in responses)


async def collect(answer: Answer, layout: str = "llmapi", timeout_s: float = 10) -> list[GenerationChunk]:
    async with serving(answer, layout) as client:
        return [chunk async for chunk in client.stream(REQUEST, CallContext.start(timeout_s))]


def said(text: object, reason: str = "None", **more: object) -> dict[str, object]:
    return {"model_name": "tensorrt_llm", "text_output": text, "finish_reason": reason, **more}


def wrote(text: object, reason: object = None, **more: object) -> dict[str, object]:
    """An event of OpenAI's completions."""
    return {"object": "text_completion", "choices": [{"index": 0, "text": text, "finish_reason": reason}], **more}


COUNTS = {"prompt_tokens": 3, "completion_tokens": 2}
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (events(said("a"), said("ab", "stop", num_output_tokens=2)), [("a", None), ("b", None), ("", "stop")]),
        (events(said(["a"], "length")), [("a", None), ("", "length")]),
        (events(said("a"), said("a", "end_id")), [("a", None), ("", "stop")]),
        (events(said("a"), said("a", "timeout")), [("a", None), ("", "cancelled")]),
        (events(said("a"), {"error": "Request cancelled by client"}), [("a", None), ("", "cancelled")]),
        (events(said("a\ufffd"), said("aé"), said("aé", "stop")), [("a", None), ("é", None), ("", "stop")]),
        (events(said("a\ufffd"), said("a\ufffd", "stop")), [("a", None), ("\ufffd", None), ("", "stop")]),
        (events({"text_output": "a"}), [("a", None), ("", "stop")]),
        (events({"text_output": "a", "num_output_tokens": 5}), [("a", None), ("", "length")]),
        (events(said("a", "stop"), end=b"\r\n\r\n"), [("a", None), ("", "stop")]),
        (b": a comment\n\n" + events(said("a", "stop")), [("a", None), ("", "stop")]),
    ],
)
async def test_streams_of_triton(content: bytes, expected: list[tuple[str, str | None]]) -> None:
    assert [(chunk.text, chunk.finish_reason) for chunk in await collect(body(content))] == expected


@pytest.mark.parametrize(
    "content",
    [
        events(wrote("a"), wrote("b", "stop"), {"choices": [], "usage": COUNTS}) + DONE,
        events(wrote("a"), wrote("b", "stop", usage=COUNTS)) + DONE,
        events(wrote("a", usage={**COUNTS, "completion_tokens": 1}), wrote("b", "stop", usage=COUNTS)),
        events(wrote("a", ""), wrote("b", "eos_token"), {"choices": [], "usage": COUNTS}),
        events(wrote("a", usage=None), wrote("b"), wrote("", "stop", usage=COUNTS), end=b"\r\n\r\n") + DONE,
    ],
)
async def test_streams_of_openai_servers(content: bytes) -> None:
    *pieces, end = await collect(body(content), "openai")
    assert [piece.text for piece in pieces] == ["a", "b"]
    assert end == GenerationChunk("", "stop", 3, 2)


@pytest.mark.parametrize(("details", "cached"), [({"cached_tokens": 2}, 2), ({}, None), (None, None)])
async def test_cached_tokens_of_openai_servers(details: dict[str, int] | None, cached: int | None) -> None:
    usage = {**COUNTS, "prompt_tokens_details": details}
    (*_, end) = await collect(body(events(wrote("a", "stop", usage=usage)) + DONE), "openai")
    assert end.cached_tokens == cached


@pytest.mark.parametrize(
    "content",
    [
        b"",
        DONE,
        b"data: {not json\n\n",
        b"data: null\n\n",
        events([]),
        events({}) + DONE,
        events({"choices": None}) + DONE,
        events({"choices": {}}),
        events({"choices": 5}),
        events({"choices": [5]}),
        events({"choices": [{"index": 0}]}),
        events({"choices": "abc"}),
        events(wrote(None, "stop")),
        events(wrote(7, "stop")),
        events(wrote("a")) + DONE,
        events(wrote("a")),
        events(wrote("a"), wrote("b", "error")) + DONE,
        events(wrote("a", "stop", usage={"prompt_tokens": -1, "completion_tokens": 2})),
        events(wrote("a", "stop", usage={"prompt_tokens": "many"})),
        events(wrote("a", "stop", usage=[1, 2])),
        events(wrote("a"), {"error": {"message": "CUDA error: an illegal memory access was encountered"}}) + DONE,
        events(wrote("a"), {"error": "CUDA out of memory", "error_type": "generation"}),
        events(wrote("a"), {"object": "error", "message": "CUDA error", "code": 500}) + DONE,
        events(wrote("a"), {"error": {"message": None}}) + DONE,
        events(wrote("a", "stop"))[:-9],
    ],
)
async def test_invalid_streams_of_openai_servers_are_a_bad_upstream(content: bytes) -> None:
    with pytest.raises(BadUpstreamError) as failed:
        await collect(body(content), "openai")
    assert "CUDA" not in failed.value.message


@pytest.mark.parametrize(
    ("status", "content", "error", "field"),
    [
        # trtllm-serve
        ("400 Bad Request", {"object": "error", "message": "The sum of prompt length (9000.0), query length (0.0) "
         "should not exceed max_num_tokens (8192)", "type": "BadRequestError", "param": None, "code": 400},
         InvalidRequestError, "prompt"),
        ("400 Bad Request", {"object": "error", "message": "CUDA out of memory", "type": "BadRequestError"},
         BadUpstreamError, None),
        ("400 Bad Request", {"error": "1 validation error:\n  {'loc': ('body', 'top_p'), 'msg': 'a number'}"},
         InvalidRequestError, "top_p"),
        ("503 Service Unavailable", None, NotReadyError, None),
        # vLLM
        ("400 Bad Request", {"error": {"message": "This model's maximum context length is 8192 tokens. However, you "
         "requested 9000 tokens", "type": "BadRequestError", "param": None, "code": 400}},
         InvalidRequestError, "prompt"),
        ("400 Bad Request", {"error": {"message": "temperature must be non-negative, got -1.", "param": "temperature"}},
         InvalidRequestError, "temperature"),
        ("400 Bad Request", {"error": {"message": "It cannot be so.", "param": "seed"}}, InvalidRequestError, "seed"),
        ("404 Not Found", {"error": {"message": "The model `m` does not exist.", "type": "NotFoundError"}},
         NotReadyError, None),
        ("500 Internal Server Error", {"error": {"message": "The prompt broke the engine"}}, BadUpstreamError, None),
        # TGI
        ("422 Unprocessable Entity", {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= "
         "4096. Given: 5000 `inputs` tokens", "error_type": "validation"}, InvalidRequestError, "prompt"),
        ("429 Too Many Requests", {"error": "Model is overloaded", "error_type": "overloaded"}, BusyError, None),
        ("504 Gateway Timeout", None, DeadlineExceededError, None),
        ("401 Unauthorized", {"error": "Unauthorized"}, UnauthorizedError, None),
    ],
)  # fmt: skip
async def test_errors_of_openai_servers(
    status: str, content: object, error: type[ServiceError], field: str | None
) -> None:
    answer = b"" if content is None else json.dumps(content).encode()
    with pytest.raises(error) as failed:
        await collect(body(answer, status=status, kind="application/json"), "openai")
    assert failed.value.field == field
    assert "CUDA" not in failed.value.message


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"[]", b"{}", b'{"data": 5}', b'{"data": [{}]}', b'{"data": ["m"]}', b'{"data": []}']
)
async def test_an_invalid_list_of_models(content: bytes) -> None:
    async with serving(body(content, kind="application/json"), "openai") as client:
        assert await client.not_ready_reason(CallContext.start(5))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"data: {not json\n\n",
        b"data: [1, 2]\n\n",
        b"data: null\n\n",
        events({"model_name": "x"}),
        events(said(None, "stop")),
        events(said(7, "stop")),
        events(said([], "stop")),
        events(said("abc"), said("xyz", "stop")),
        events(said("a"), said("b", "stop")),
        events(said("a")),
        events(said("a", "stop", num_output_tokens="many")),
        events(said("a", "stop", num_output_tokens=-1)),
        events(said("a", "stop", num_input_tokens=1.5)),
        b'data: {"text_output": "a", "finish_reason": "stop", "num_output_tokens": NaN}\n\n',
        b'data: {"text_output": "a',
        events(said("a"), {"error": "CUDA error: an illegal memory access was encountered"}),
    ],
)
async def test_invalid_streams_of_triton_are_a_bad_upstream(content: bytes) -> None:
    with pytest.raises(BadUpstreamError) as failed:
        await collect(body(content))
    assert "CUDA" not in failed.value.message


@pytest.mark.parametrize(
    ("status", "reason", "error"),
    [
        ("400 Bad Request", "Error generating request: The sum of prompt length (9000.0) and max_tokens (5) should "
         "not exceed max_seq_len (8192)", InvalidRequestError),
        ("500 Internal Server Error", "Prompt length (9000) exceeds maximum input length (4096)", InvalidRequestError),
        ("400 Bad Request", "sampling_param_temperature is -1", InvalidRequestError),
        ("400 Bad Request", "Error generating request: CUDA out of memory", BadUpstreamError),
        ("500 Internal Server Error", "'NoneType' object has no attribute 'x'", BadUpstreamError),
        ("400 Bad Request", "Stub process 'tensorrt_llm_0_0' is not healthy.", NotReadyError),
        ("400 Bad Request", "Exceeds maximum queue size", BusyError),
        ("503 Service Unavailable", "4 generations are running and 2 are waiting. Try again in 7 s.", BusyError),
        ("503 Service Unavailable", "", NotReadyError),
        ("404 Not Found", "Request for unknown model: 'x' is not found", NotReadyError),
        ("400 Bad Request", "Request for unknown model: 'x' is not found", NotReadyError),
        ("504 Gateway Timeout", "", DeadlineExceededError),
        ("302 Found", "", BadUpstreamError),
        ("502 Bad Gateway", "", BadUpstreamError),
    ],
)  # fmt: skip
async def test_errors_of_triton(status: str, reason: str, error: type[ServiceError]) -> None:
    for content in (json.dumps({"error": reason}).encode(), events({"error": reason})):
        with pytest.raises(error) as failed:
            await collect(body(content, status=status))
        if error is BadUpstreamError and reason:
            assert reason not in failed.value.message


async def test_an_error_body_in_pieces_is_read_whole() -> None:
    content = json.dumps({"error": "Error generating request: CUDA out of memory"}).encode()

    async def in_pieces(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(content))
        for part in (content[:20], content[20:]):
            writer.write(part)
            for _ in range(100):  # the client's turn
                await asyncio.sleep(0)

    with pytest.raises(BadUpstreamError) as failed:
        await collect(in_pieces)
    assert failed.value.upstream_reason.endswith("out of memory")


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b"[]",
        b"nonsense",
        b'{"inputs": [{}], "outputs": []}',
        b'{"inputs": [], "outputs": []}',
        b'{"inputs": 5, "outputs": 6}',
    ],
)
async def test_invalid_model_metadata(content: bytes) -> None:
    with pytest.raises((BadUpstreamError, InvalidRequestError)):
        await collect(body(content, kind="application/json"), "ensemble")
