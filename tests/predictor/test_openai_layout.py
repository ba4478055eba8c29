"""The layout `openai` with a fake of trtllm-serve, and with llama.cpp's server, which has the same routes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from chassis.context import CallContext
from chassis.errors import BadUpstreamError, NotReadyError
from predictor.client import PredictorClient, PromptFormat
from predictor.wire import GenerationChunk, GenerationRequest
from tests.fakes.llama_cpp import LlamaCpp
from tests.fakes.trtllm_serve import MODEL, PIECE, TrtllmServe
from tests.processes import free_ports, program

EVERYTHING = GenerationRequest(
    "<s>[INST] a question [/INST]",
    max_tokens=20,
    temperature=0.5,
    top_k=0,
    top_p=0.25,
    stop=("\n\n", "\t"),
    seed=7,
    repetition_penalty=1.5,
    presence_penalty=-1.0,
    frequency_penalty=0.5,
)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[TrtllmServe]:
    async with TrtllmServe().running() as server:
        yield server


@pytest_asyncio.fixture
async def openai(server: TrtllmServe) -> AsyncIterator[PredictorClient]:
    client = PredictorClient(server.url, server="openai")
    yield client
    await client.aclose()


async def collect(client: PredictorClient, request: GenerationRequest, ctx: CallContext) -> list[GenerationChunk]:
    return [chunk async for chunk in client.stream(request, ctx)]


async def test_fields_of_a_request(openai: PredictorClient, ctx: CallContext) -> None:
    """It refuses fields that it does not know."""
    chunks = await collect(openai, EVERYTHING, ctx)
    text = "".join(chunk.text for chunk in chunks)
    assert json.loads(text) == {
        "model": MODEL,
        "prompt": EVERYTHING.prompt,
        "stream": True,
        "stream_options": {"include_usage": True},
        "add_special_tokens": False,
        "max_tokens": 20,
        "temperature": 0.5,
        "top_k": 0,
        "top_p": 0.25,
        "stop": ["\n\n", "\t"],
        "seed": 7,
        "repetition_penalty": 1.5,
        "presence_penalty": -1.0,
        "frequency_penalty": 0.5,
    }
    assert all(len(chunk.text) <= PIECE for chunk in chunks)
    assert [chunk.finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert (chunks[-1].prompt_tokens, chunks[-1].completion_tokens) == (4, len(chunks) - 1)


async def test_unset_parameters_are_not_sent(openai: PredictorClient, ctx: CallContext) -> None:
    sent = json.loads((await openai.generate(GenerationRequest("q", 5), ctx)).text)
    assert set(sent) == {"model", "prompt", "stream", "stream_options", "add_special_tokens", "max_tokens"}


async def test_log_probabilities_are_returned_on_request(openai: PredictorClient, ctx: CallContext) -> None:
    answer = await openai.generate(replace(EVERYTHING, log_probs=True), ctx)
    assert json.loads(answer.text)["logprobs"] == 1
    assert answer.output_log_probs == (-0.5,) * (answer.completion_tokens or 0)
    assert answer.cumulative_log_prob == sum(answer.output_log_probs)
    plain = await openai.generate(EVERYTHING, ctx)
    assert (plain.cumulative_log_prob, plain.output_log_probs) == (None, ())


async def test_greedy_is_temperature_0_and_top_k_1(openai: PredictorClient, ctx: CallContext) -> None:
    request = GenerationRequest("q", 5, temperature=0, top_k=40, top_p=0.9)
    sent = json.loads((await openai.generate(request, ctx)).text)
    assert (sent["temperature"], sent["top_k"]) == (0, 1)
    assert "top_p" not in sent


async def test_the_model_is_looked_up_once_unless_named(server: TrtllmServe, ctx: CallContext) -> None:
    for model, times in ((None, 1), ("another", 0)):
        server.listed = 0
        client = PredictorClient(server.url, server="openai", model=model)
        for _ in range(3):
            answer = json.loads((await client.generate(GenerationRequest("q", 5), ctx)).text)
            assert answer["model"] == (model or MODEL)
        assert server.listed == times
        await client.aclose()


async def test_readiness_needs_health_and_the_model(server: TrtllmServe, ctx: CallContext) -> None:
    for model, expected in ((None, None), (MODEL, None), ("another", f"has no model 'another': it has {MODEL}")):
        client = PredictorClient(server.url, server="openai", model=model)
        reason = await client.not_ready_reason(ctx)
        assert reason is expected is None or expected in (reason or "")
        server.healthy = False
        assert "not ready" in (await client.not_ready_reason(ctx) or "")
        server.healthy = True
        await client.aclose()


async def test_an_aborted_answer_is_cancelled(openai: PredictorClient, ctx: CallContext) -> None:
    assert (await openai.generate(GenerationRequest("aborts", 5), ctx)).finish_reason == "cancelled"


# llama.cpp, with SmolLM2


@pytest_asyncio.fixture
async def real(llama_cpp: LlamaCpp) -> AsyncIterator[PredictorClient]:
    client = PredictorClient(llama_cpp.url, server="openai")
    yield client
    await client.aclose()


@pytest.fixture
def question(prompts: PromptFormat) -> GenerationRequest:
    prompt = prompts.render([{"role": "user", "content": "What is the capital of France? Answer in one sentence."}])
    return GenerationRequest(prompt, max_tokens=40, temperature=0)


async def test_a_real_server_counts_the_tokens_of_the_finished_prompt(
    real: PredictorClient, prompts: PromptFormat, question: GenerationRequest, ctx: CallContext
) -> None:
    assert (await real.generate(question, ctx)).prompt_tokens == prompts.count(question.prompt)


async def test_a_real_server_applies_penalties(real: PredictorClient, ctx: CallContext) -> None:
    cats = GenerationRequest("the cat sat, the cat sat, the cat sat,", max_tokens=12, temperature=0)
    plain, present, frequent = [
        (await real.generate(request, ctx)).text.count("the cat sat")
        for request in (cats, replace(cats, presence_penalty=2.0), replace(cats, frequency_penalty=2.0))
    ]
    assert plain > 2 > max(present, frequent)


def test_the_transformer_answers_through_it(llama_cpp: LlamaCpp, llm_folder: Path) -> None:
    (port,) = free_ports(1)
    settings = {
        "HOST": "127.0.0.1",
        "HTTP_PORT": str(port),
        "ENABLE_GRPC": "false",
        "PREDICTOR_URL": llama_cpp.url,
        "PREDICTOR_LAYOUT": "openai",
        "PROMPT_FORMAT": str(llm_folder),
        "CONTEXT_TOKENS": "1024",
        "MAX_PROMPT_TOKENS": "900",
    }
    environment = {**os.environ, **{f"TRANSFORMER_{name}": value for name, value in settings.items()}}
    url = f"http://127.0.0.1:{port}"
    question = {"text_input": "What is the capital of France?", "context": "Paris is the capital of France."}
    with program([sys.executable, "-m", "transformer"], f"{url}/v2/health/live", environment):
        body = {**question, "temperature": 0, "max_tokens": 20}
        answer = httpx.post(f"{url}/v2/models/rag/generate_stream", json=body, timeout=60)
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    assert "Paris" in "".join(event["text_output"] for event in events if "text_output" in event)
    assert len(events) > 4
    assert events[-1]["usage"]["completion_tokens"] > 0


async def test_a_server_of_another_protocol_is_not_ready(layouts_url: str, ctx: CallContext) -> None:
    client = PredictorClient(layouts_url, server="openai")
    assert await client.not_ready_reason(ctx)
    with pytest.raises((NotReadyError, BadUpstreamError)):
        await client.generate(GenerationRequest("q", 5), ctx)
    await client.aclose()
