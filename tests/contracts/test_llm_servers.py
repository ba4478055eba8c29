"""The contract of an LLM server. Every registered server passes these tests, except for its declared gaps.

The real servers are Triton with the CPU model (llmapi), Triton with models that have the tensors of the other layouts,
and llama.cpp for every other protocol. Stand-ins with the wire format replace servers that cannot run here. Faults come
from a proxy in front of all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
import pytest_asyncio

from chassis.context import CallContext
from chassis.errors import (
    BadUpstreamError,
    BusyError,
    DeadlineExceededError,
    ForbiddenError,
    InvalidRequestError,
    NotReadyError,
    ServiceError,
    UnauthorizedError,
)
from predictor.client import LLM_SERVERS, PredictorClient, PromptFormat
from predictor.wire import GenerationChunk, GenerationRequest, Message
from tests.contracts.gaps import Gap, declare
from tests.fakes.bedrock import CHAT_MODEL, CREDENTIALS, Bedrock
from tests.fakes.cml import Cml
from tests.fakes.faulty_proxy import FaultyProxy
from tests.fakes.takeoff import Takeoff

BACKENDS = {
    **dict.fromkeys(("ensemble", "tensorrt_llm_bls", "vllm"), "layouts_url"),
    "llmapi": "predictor_server",
    "bedrock": "bedrock",
    "bedrock_claude_text": "bedrock",
    "cml": "cml",
    "takeoff": "takeoff",
    "takeoff_pro": "takeoff_pro",
}
"""Server → fixture of the server that it is tested with. Any other is tested with llama.cpp."""

MODELS = {"bedrock": CHAT_MODEL}
"""Server → model, if the server has no default."""

OWN_CREDENTIALS = frozenset({"bedrock", "bedrock_claude_text", "cml"})
"""Servers that never get the caller's credentials, so a rejection of credentials is the operator's concern."""

UNDIVIDED = frozenset({"takeoff"})
"""Servers that stream bare text: pieces that arrive together are one chunk."""

MISSING_MODEL = "test_a_missing_model_is_not_ready"
MAX_TOKENS = "test_max_tokens_end_an_answer"
SEED = "test_a_seed_fixes_a_sampled_answer"
TOO_LONG = "test_a_prompt_that_is_too_long_is_the_callers_mistake"
FAULT = "test_a_fault_on_the_wire_becomes_an_error"
NO_COUNTS = "the ensemble of TensorRT-LLM 0.7 returns neither a finish reason nor token counts"

_Row = tuple[str, str, type[BaseException], str]
_ROWS: tuple[_Row, ...] = (
    ("ensemble", MAX_TOKENS, AssertionError, NO_COUNTS),
    ("ensemble", "test_tokens_are_counted", AssertionError, NO_COUNTS),
    (
        "ensemble",
        "test_every_declared_parameter_is_accepted",
        InvalidRequestError,
        "the ensemble of TensorRT-LLM 0.7 has no frequency penalty",
    ),
    ("bedrock bedrock_claude_text", SEED, InvalidRequestError, "Bedrock has no seed"),
    ("cml", MISSING_MODEL, AssertionError, "a model endpoint has one model"),
    ("cml", SEED, InvalidRequestError, "the lab's function has no seed"),
    ("cml", MAX_TOKENS, AssertionError, "the endpoint sends no finish reason"),
    ("cml", TOO_LONG, pytest.fail.Exception, "the lab's function does not check the prompt's length"),
    ("takeoff takeoff_pro", MISSING_MODEL, AssertionError, "Takeoff's port for questions lists no models"),
    ("takeoff takeoff_pro", SEED, InvalidRequestError, "Takeoff has no seed"),
    ("takeoff takeoff_pro", MAX_TOKENS, AssertionError, "Takeoff sends neither finish reasons nor token counts"),
    (
        "takeoff takeoff_pro",
        TOO_LONG,
        pytest.fail.Exception,
        "Takeoff documents no error for a prompt that is too long",
    ),
)
"""Servers, test, error and reason."""

_BARE_TEXT = "text without a frame cannot be told from other text"
GAPS = [
    *(Gap(name, test, error, reason) for names, test, error, reason in _ROWS for name in names.split()),
    *(
        Gap(name, FAULT, pytest.fail.Exception, _BARE_TEXT, {"fault": fault})
        for name, fault in (("takeoff", "html"), ("takeoff", "garbage"), ("takeoff_pro", "garbage"))
    ),
]


def ask(content: str, max_tokens: int = 40, **parameters: Any) -> GenerationRequest:
    return GenerationRequest([{"role": "user", "content": content}], max_tokens, **parameters)


QUESTION = ask("What is the capital of France? Answer in one sentence.", temperature=0)
STORY = ask("Once upon a time", max_tokens=20, temperature=1.5, top_k=0, top_p=1.0, seed=7)
LONG = replace(QUESTION, prompt=STORY.prompt, max_tokens=400)


@pytest.fixture(params=LLM_SERVERS.names())
def name(request: pytest.FixtureRequest) -> str:
    declare(request, request.param, GAPS)
    return str(request.param)


@pytest.fixture
def bedrock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bedrock]:
    for variable, value in CREDENTIALS.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("PREDICTOR_BEDROCK_MAX_ATTEMPTS", "1")
    with Bedrock() as server:
        yield server


@pytest.fixture
def cml() -> Iterator[Cml]:
    with Cml() as server:
        yield server


@pytest.fixture
def takeoff() -> Iterator[Takeoff]:
    with Takeoff() as server:
        yield server


@pytest.fixture
def takeoff_pro() -> Iterator[Takeoff]:
    with Takeoff(pro=True) as server:
        yield server


@pytest.fixture
def url(name: str, request: pytest.FixtureRequest) -> str:
    server = request.getfixturevalue(BACKENDS.get(name, "llama_cpp"))
    return str(server if isinstance(server, str) else server.url)


@pytest_asyncio.fixture
async def client(name: str, url: str, prompts: PromptFormat) -> AsyncIterator[PredictorClient]:
    client = PredictorClient(url, server=name, model=MODELS.get(name), prompt_format=prompts)
    yield client
    await client.aclose()


@pytest_asyncio.fixture
async def proxy(url: str) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(url).running() as proxy:
        yield proxy


@pytest_asyncio.fixture
async def proxied(name: str, proxy: FaultyProxy, prompts: PromptFormat) -> AsyncIterator[PredictorClient]:
    client = PredictorClient(proxy.url, server=name, model=MODELS.get(name), prompt_format=prompts)
    yield client
    await client.aclose()


def story(client: PredictorClient, **changes: Any) -> GenerationRequest:
    """`STORY`, without a seed if the server has none."""
    return replace(STORY, **({} if "seed" in client.capabilities.parameters else {"seed": None}) | changes)


async def collect(
    client: PredictorClient, request: GenerationRequest, ctx: CallContext | None = None
) -> list[GenerationChunk]:
    return [chunk async for chunk in client.stream(request, ctx or CallContext.start(60))]


async def text_of(client: PredictorClient, request: GenerationRequest) -> str:
    return (await client.generate(request, CallContext.start(60))).text


async def test_a_running_server_is_ready(client: PredictorClient, ctx: CallContext) -> None:
    assert await client.not_ready_reason(ctx) is None


async def test_a_missing_model_is_not_ready(name: str, url: str, ctx: CallContext) -> None:
    async with contextlib.aclosing(PredictorClient(url, server=name, model="nowhere")) as client:
        assert "nowhere" in (await client.not_ready_reason(ctx) or "")


async def test_chunks_add_up_to_the_whole_answer(name: str, client: PredictorClient, ctx: CallContext) -> None:
    chunks = await collect(client, QUESTION)
    whole = await client.generate(QUESTION, ctx)
    assert "Paris" in whole.text
    joined = replace(chunks[-1], text="".join(chunk.text for chunk in chunks))
    # The second request finds its prompt in the server's cache.
    assert whole == replace(joined, cached_tokens=whole.cached_tokens)
    assert (joined.cached_tokens is None) == (whole.cached_tokens is None)
    assert [chunk.finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    pieces = await collect(client, story(client))
    least = 1 if name in UNDIVIDED else 5
    assert len(pieces) > least if client.capabilities.streams else len(pieces) == 1


async def test_messages_and_text_are_accepted_as_declared(
    name: str, url: str, client: PredictorClient, prompts: PromptFormat, ctx: CallContext
) -> None:
    plain = PredictorClient(url, server=name, model=MODELS.get(name))
    wrong: GenerationRequest = QUESTION
    if client.capabilities.prompt == "messages":
        wrong = replace(QUESTION, prompt="text")
    else:
        rendered = replace(QUESTION, prompt=prompts.render(cast("Sequence[Message]", QUESTION.prompt)))
        assert await text_of(plain, rendered) == await text_of(client, QUESTION)
    with pytest.raises(InvalidRequestError, match=name) as refused:
        await plain.generate(wrong, ctx)
    assert refused.value.field == "prompt"
    await plain.aclose()


async def test_max_tokens_end_an_answer(client: PredictorClient, ctx: CallContext) -> None:
    answer = await client.generate(replace(QUESTION, max_tokens=3), ctx)
    assert answer.finish_reason == "length"
    if client.capabilities.counts_tokens:
        assert answer.completion_tokens == 3


async def test_nothing_of_a_stop_string_is_sent(client: PredictorClient) -> None:
    text = await text_of(client, QUESTION)
    stop = text[9:23]  # begins and ends inside words
    chunks = await collect(client, replace(QUESTION, stop=("never said", stop)))
    assert "".join(chunk.text for chunk in chunks) == text[:9]
    assert chunks[-1].finish_reason == "stop"


async def test_a_seed_fixes_a_sampled_answer(client: PredictorClient) -> None:
    first, again, other = [await text_of(client, each) for each in (STORY, STORY, replace(STORY, seed=8))]
    assert first == again != other


async def test_temperature_zero_is_greedy(client: PredictorClient) -> None:
    seeds = (7, 8) if "seed" in client.capabilities.parameters else (None, None)
    greedy = [replace(STORY, temperature=0.0, seed=seed) for seed in seeds]
    greedy += [story(client, top_k=1)] if "top_k" in client.capabilities.parameters else []
    assert len({await text_of(client, each) for each in greedy}) == 1


async def test_every_declared_parameter_is_accepted(client: PredictorClient, ctx: CallContext) -> None:
    values = {
        "top_k": 40,
        "top_p": 0.9,
        "seed": 7,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
    }
    taken = {name: value for name, value in values.items() if name in client.capabilities.parameters}
    assert (await client.generate(story(client, **taken), ctx)).text
    for name in values.keys() - taken.keys():
        with pytest.raises(InvalidRequestError) as refused:
            await client.generate(replace(QUESTION, **{name: values[name]}), ctx)  # type: ignore[arg-type]
        assert refused.value.field == name
    neutral = replace(QUESTION, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0)
    assert await text_of(client, neutral) == await text_of(client, QUESTION)


async def test_tokens_are_counted(client: PredictorClient, ctx: CallContext) -> None:
    answer = await client.generate(story(client, max_tokens=5), ctx)
    counts = (answer.prompt_tokens, answer.completion_tokens)
    if client.capabilities.counts_tokens:
        assert (answer.prompt_tokens or 0) > 0
        assert answer.completion_tokens == 5
    else:
        assert counts == (None, None)


async def test_log_probabilities_are_returned_as_declared(client: PredictorClient, ctx: CallContext) -> None:
    request = replace(QUESTION, log_probs=True, max_tokens=5)
    if client.capabilities.log_probs == "none":
        with pytest.raises(InvalidRequestError) as refused:
            await client.generate(request, ctx)
        assert refused.value.field == "log_probs"
        return
    answer = await client.generate(request, ctx)
    assert answer.cumulative_log_prob is not None
    assert -50 < answer.cumulative_log_prob < 0
    assert bool(answer.output_log_probs) == (client.capabilities.log_probs == "tokens")
    plain = await client.generate(QUESTION, ctx)
    assert (plain.cumulative_log_prob, plain.output_log_probs) == (None, ())


async def test_characters_are_whole_however_bytes_are_split(
    client: PredictorClient, proxied: PredictorClient, proxy: FaultyProxy
) -> None:
    proxy.fault = "bytewise"
    for request in (QUESTION, ask("Reply with emoji only: 🙂🦊🙃🦉🙂🦊🙃🦉🙂🦊", max_tokens=30, temperature=0)):
        text = "".join(chunk.text for chunk in await collect(proxied, request))
        assert text == await text_of(client, request)
        assert "\ufffd" not in text


async def test_a_prompt_that_is_too_long_is_the_callers_mistake(client: PredictorClient, ctx: CallContext) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        await client.generate(ask("hello " * 3000), ctx)
    assert refused.value.field == "prompt"


async def test_a_disconnecting_client_frees_the_server(
    proxied: PredictorClient, proxy: FaultyProxy, ctx: CallContext
) -> None:
    if proxied.capabilities.streams:
        proxy.fault = "stall"
        async with contextlib.aclosing(proxied.stream(LONG, ctx)) as chunks:
            assert (await anext(chunks)).finish_reason is None
        await asyncio.wait_for(proxy.left.wait(), 60)
    else:
        proxy.fault = "silent"
        with pytest.raises(DeadlineExceededError):
            await proxied.generate(LONG, CallContext.start(0.2))
    proxy.fault = "none"
    assert "Paris" in await text_of(proxied, QUESTION)


@pytest.mark.parametrize(
    ("status", "reason", "error"),
    [
        (400, "The prompt of 9000 tokens exceeds the context window", InvalidRequestError),
        (400, "CUDA out of memory", BadUpstreamError),
        (401, "", UnauthorizedError),
        (403, "", ForbiddenError),
        (404, "", NotReadyError),
        (429, "", BusyError),
        (500, "CUDA out of memory", BadUpstreamError),
        (503, "", NotReadyError),
        (504, "", DeadlineExceededError),
    ],
)
async def test_a_status_becomes_an_error_without_internals(
    name: str,
    proxied: PredictorClient,
    proxy: FaultyProxy,
    ctx: CallContext,
    status: int,
    reason: str,
    error: type[ServiceError],
) -> None:
    own = name in OWN_CREDENTIALS and status in (401, 403)
    if own:
        error, reason = BadUpstreamError, "the token of the service"
    proxy.fault, proxy.status, proxy.reason = "status", status, reason
    with pytest.raises(error) as failed:
        await proxied.generate(QUESTION, ctx)
    assert not {"CUDA", "token"} & {*failed.value.message.split()}
    assert failed.value.upstream_reason == reason or own or error is not BadUpstreamError
    assert failed.value.field == ("prompt" if error is InvalidRequestError else None)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("html", BadUpstreamError),
        ("garbage", BadUpstreamError),
        ("not_http", BadUpstreamError),
        ("reset", NotReadyError),
    ],
)
async def test_a_fault_on_the_wire_becomes_an_error(
    proxied: PredictorClient, proxy: FaultyProxy, ctx: CallContext, fault: Any, error: type[ServiceError]
) -> None:
    proxy.fault = fault
    with pytest.raises(error):
        await collect(proxied, LONG, ctx)


@pytest.mark.parametrize("fault", ["silent", "stall"])
async def test_a_slow_server_costs_no_more_than_the_deadline(
    proxied: PredictorClient, proxy: FaultyProxy, ctx: CallContext, fault: Any
) -> None:
    await proxied.not_ready_reason(ctx)
    proxy.fault = fault
    with pytest.raises(DeadlineExceededError):
        await collect(proxied, LONG, CallContext.start(0.3))


@pytest.mark.usefixtures("url")  # for the settings
async def test_an_unreachable_server(name: str, prompts: PromptFormat, ctx: CallContext) -> None:
    client = PredictorClient("http://127.0.0.1:9", server=name, model=MODELS.get(name), prompt_format=prompts)
    assert "cannot be reached" in (await client.not_ready_reason(ctx) or "")
    with pytest.raises(NotReadyError, match="cannot be reached"):
        await client.generate(QUESTION, ctx)
    await client.aclose()
