"""The CPU model on a real Triton, through the client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import psutil
import pytest

from chassis.context import CallContext
from chassis.errors import BusyError, DeadlineExceededError, InvalidRequestError, NotReadyError
from predictor.client import PredictorClient, PromptFormat
from predictor.wire import GenerationChunk, GenerationRequest
from tests.processes import Triton, until

ENDLESS = GenerationRequest("1, 2, 3, 4, 5, 6,", max_tokens=1900)
RUNNING = "predictor_running_requests"


@pytest.fixture
def question(prompts: PromptFormat) -> GenerationRequest:
    prompt = prompts.render([{"role": "user", "content": "What is the capital of France? Answer in one sentence."}])
    return GenerationRequest(prompt, max_tokens=40, temperature=0)


async def collect(chunks: AsyncIterator[GenerationChunk]) -> list[GenerationChunk]:
    return [chunk async for chunk in chunks]


async def test_token_counts_match_the_tokenizer(
    client: PredictorClient, prompts: PromptFormat, question: GenerationRequest, ctx: CallContext
) -> None:
    answer = await client.generate(question, ctx)
    assert answer.prompt_tokens == prompts.count(question.prompt)
    assert answer.completion_tokens == prompts.count(answer.text)


async def test_the_context_window_ends_the_answer(client: PredictorClient, ctx: CallContext) -> None:
    prompt = "word " * 2046
    answer = await client.generate(GenerationRequest(prompt, max_tokens=1000), ctx)
    assert (answer.finish_reason, answer.completion_tokens) == ("length", 2048 - (answer.prompt_tokens or 0))


async def test_greedy_is_deterministic(client: PredictorClient, question: GenerationRequest, ctx: CallContext) -> None:
    texts = {(await client.generate(question, ctx)).text for _ in range(3)}
    texts.add((await client.generate(replace(question, temperature=None), ctx)).text)
    texts.add((await client.generate(replace(question, temperature=1.0, top_k=1), ctx)).text)
    texts.add((await client.generate(replace(question, temperature=1.0, top_p=0.0), ctx)).text)
    assert len(texts) == 1


async def test_answers_without_a_seed_differ(client: PredictorClient, ctx: CallContext) -> None:
    request = GenerationRequest("Once upon a time", max_tokens=12, temperature=1.5)
    assert len({(await client.generate(request, ctx)).text for _ in range(3)}) > 1


async def test_penalties_change_a_repetitive_answer(client: PredictorClient, ctx: CallContext) -> None:
    request = GenerationRequest("the cat sat, the cat sat, the cat sat,", max_tokens=16, temperature=0)
    plain = (await client.generate(request, ctx)).text
    assert plain.count("the cat sat") > 2
    for penalty in ({"repetition_penalty": 1.8}, {"presence_penalty": 2.0}, {"frequency_penalty": 2.0}):
        assert (await client.generate(replace(request, **penalty), ctx)).text.count("the cat sat") < 3


async def test_a_partial_stop_string_is_sent(
    client: PredictorClient, question: GenerationRequest, ctx: CallContext
) -> None:
    text = (await client.generate(question, ctx)).text
    chunks = await collect(client.stream(replace(question, stop=(text[5:12] + "#", text[-6:] + "#")), ctx))
    assert "".join(chunk.text for chunk in chunks) == text


async def test_characters_of_several_tokens_stay_whole(client: PredictorClient, ctx: CallContext) -> None:
    prompt = "🙂🦊🙃🦉🙂🦊🙃🦉🙂🦊🙃🦉🙂🦊🙃🦉"
    chunks = await collect(client.stream(GenerationRequest(prompt, max_tokens=60, temperature=0), ctx))
    text = "".join(chunk.text for chunk in chunks)
    assert not text.isascii()
    assert "\ufffd" not in text
    for max_tokens in range(1, 6):
        assert "\ufffd" not in (await client.generate(GenerationRequest(prompt, max_tokens), ctx)).text


async def test_control_tokens_of_the_prompt_are_single_tokens(
    client: PredictorClient, prompts: PromptFormat, question: GenerationRequest, ctx: CallContext
) -> None:
    answer = await client.generate(question, ctx)
    assert answer.prompt_tokens is not None
    assert prompts.count(prompts.escape(question.prompt)) > answer.prompt_tokens


async def test_eight_concurrent_requests(client: PredictorClient, predictor_server: Triton) -> None:
    ctx = CallContext.start(86_400)  # none is refused
    requests = [replace(ENDLESS, prompt=f"{i}, " + ENDLESS.prompt, max_tokens=60) for i in range(8)]
    answers = [asyncio.create_task(client.generate(request, ctx)) for request in requests]
    await asyncio.to_thread(until, lambda: predictor_server.metric(RUNNING) == 8)
    assert {(await answer).finish_reason for answer in answers} <= {"length", "stop"}
    await asyncio.to_thread(until, lambda: predictor_server.metric(RUNNING) == 0)


async def test_a_disconnecting_client_ends_its_generation(
    client: PredictorClient, predictor_server: Triton, ctx: CallContext
) -> None:
    done = predictor_server.metric("predictor_completion_tokens_total")
    async with contextlib.aclosing(client.stream(ENDLESS, ctx)) as chunks:
        assert [(await anext(chunks)).finish_reason for _ in range(3)] == [None] * 3
        await asyncio.to_thread(until, lambda: predictor_server.metric(RUNNING) == 1)
    # What it held of the cache is free a step later.
    cache = "predictor_kv_cache_usage_ratio"
    await asyncio.to_thread(until, lambda: predictor_server.metric(RUNNING) == 0 == predictor_server.metric(cache))
    assert predictor_server.metric("predictor_completion_tokens_total") - done < ENDLESS.max_tokens / 2


async def test_a_cancelled_call_ends_its_generation(
    client: PredictorClient, predictor_server: Triton, ctx: CallContext
) -> None:
    call = asyncio.create_task(client.generate(ENDLESS, ctx))
    await asyncio.to_thread(until, lambda: predictor_server.metric(RUNNING) == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.to_thread(until, lambda: predictor_server.metric(RUNNING) == 0)


async def test_a_deadline_ends_its_generation(client: PredictorClient, predictor_server: Triton) -> None:
    with pytest.raises(DeadlineExceededError):
        await client.generate(ENDLESS, CallContext.start(0.5))
    await asyncio.to_thread(until, lambda: predictor_server.metric(RUNNING) == 0)


async def test_a_full_queue_refuses_and_recovers(
    client: PredictorClient, predictor_server: Triton, question: GenerationRequest, ctx: CallContext
) -> None:
    requests = [replace(ENDLESS, prompt=f"{i}, " + ENDLESS.prompt) for i in range(20)]
    patient = CallContext.start(86_400)
    calls = [asyncio.create_task(client.generate(request, patient)) for request in requests]
    await asyncio.to_thread(until, lambda: sum(call.done() for call in calls) == 6)
    refused = [call.exception() for call in calls if call.done()]
    assert all(isinstance(error, BusyError) and "4 are waiting" in error.message for error in refused)
    # The gauges are set step by step: until they show the load, their zero is that of before it.
    await asyncio.to_thread(until, lambda: predictor_server.metric("predictor_waiting_requests") > 0)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await asyncio.to_thread(
        until, lambda: predictor_server.metric(RUNNING) == 0 == predictor_server.metric("predictor_waiting_requests")
    )
    assert "Paris" in (await client.generate(question, ctx)).text


def kill_model(server: Triton) -> None:
    """Kills the process that has the model, and waits until it has ended."""
    (model,) = (
        child for child in server.process.children(recursive=True) if "predictor.engines" in str(child.cmdline())
    )
    model.kill()
    until(lambda: not model.is_running() or model.status() == psutil.STATUS_ZOMBIE)


async def test_a_killed_model_is_loaded_again(
    client: PredictorClient, predictor_server: Triton, question: GenerationRequest
) -> None:
    ctx = CallContext.start(600)
    await client.generate(question, ctx)
    await asyncio.to_thread(kill_model, predictor_server)
    assert (await client.generate(question, ctx)).text  # it ran nothing, so no request fails
    async with contextlib.aclosing(client.stream(ENDLESS, ctx)) as chunks:
        await anext(chunks)
        await asyncio.to_thread(kill_model, predictor_server)
        with pytest.raises(NotReadyError):
            await collect(chunks)
    assert (await client.generate(question, ctx)).text


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"max_tokens": 0}, "max_tokens", "from 1"),
        ({"max_tokens": 2**31}, "max_tokens", "to 2147483647"),
        ({"temperature": -0.1}, "temperature", "from 0"),
        ({"temperature": float("nan")}, "temperature", "nan"),
        ({"temperature": float("inf")}, "temperature", "inf"),
        ({"top_k": -1}, "top_k", "from 0"),
        ({"top_p": 1.1}, "top_p", "from 0 to 1"),
        ({"seed": -1}, "seed", "from 0"),
        ({"seed": 2**64}, "seed", "to 18446744073709551615"),
        ({"repetition_penalty": 0.0}, "repetition_penalty", "from 0.01"),
        ({"presence_penalty": 2.5}, "presence_penalty", "from -2 to 2"),
        ({"frequency_penalty": -2.5}, "frequency_penalty", "from -2 to 2"),
        ({"stop": ("a", "")}, "stop", "empty"),
        ({"stop": ("a",) * 33}, "stop", "at most 32"),
        ({"prompt": ""}, "prompt", "empty"),
        ({"prompt": "\ud800"}, "prompt", "surrogate"),
        ({"prompt": "hello " * 3000}, "prompt", "3001 tokens.*2048"),
    ],
)
async def test_invalid_parameters_are_named(
    client: PredictorClient,
    question: GenerationRequest,
    ctx: CallContext,
    change: dict[str, object],
    field: str,
    message: str,
) -> None:
    with pytest.raises(InvalidRequestError, match=message) as refused:
        await client.generate(replace(question, **change), ctx)  # type: ignore[arg-type]
    assert refused.value.field == field
