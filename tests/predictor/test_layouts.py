"""The client with every other layout, on a real Triton whose models have exactly those tensors."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from chassis.context import CallContext
from chassis.errors import BadUpstreamError, InvalidRequestError
from predictor.client import PredictorClient
from predictor.servers.base import without_echo
from predictor.wire import GenerationRequest

EVERYTHING = GenerationRequest(
    "a question",
    max_tokens=20,
    temperature=0.5,
    top_k=0,
    top_p=0.25,
    stop=("\n\n", "\t"),  # as JSON, these are other characters
    seed=2**64 - 1,
    repetition_penalty=1.5,
    presence_penalty=-1.0,
)

MakeClient = Callable[[str], PredictorClient]


@pytest_asyncio.fixture
async def client_of(layouts_url: str) -> AsyncIterator[MakeClient]:
    made: list[PredictorClient] = []

    def make(layout: str) -> PredictorClient:
        made.append(PredictorClient(layouts_url, server=layout))
        return made[-1]

    yield make
    for client in made:
        await client.aclose()


async def test_ensemble_has_its_own_tensors_and_its_echo_is_removed(client_of: MakeClient, ctx: CallContext) -> None:
    answer = await client_of("ensemble").generate(EVERYTHING, ctx)
    assert json.loads(answer.text) == {
        "max_tokens": {"shape": [1, 1], "data": [20]},
        "stop_words": {"shape": [1, 2], "data": ["\n\n", "\t"]},
        "top_k": {"shape": [1, 1], "data": [0]},
        "top_p": {"shape": [1, 1], "data": [0.25]},
        "temperature": {"shape": [1, 1], "data": [0.5]},
        "repetition_penalty": {"shape": [1, 1], "data": [1.5]},
        "presence_penalty": {"shape": [1, 1], "data": [-1.0]},
        "random_seed": {"shape": [1, 1], "data": [2**64 - 1]},
    }
    assert answer.finish_reason == "stop"
    assert answer.completion_tokens is None


async def test_bls_of_a_later_version_has_its_switches(client_of: MakeClient, ctx: CallContext) -> None:
    answer = await client_of("tensorrt_llm_bls").generate(EVERYTHING, ctx)
    sent = {name: tensor["data"] for name, tensor in json.loads(answer.text).items()}
    assert sent["seed"] == [2**64 - 1]
    assert sent["exclude_input_in_output"] == [True]
    assert (answer.finish_reason, answer.prompt_tokens, answer.completion_tokens) == ("length", 7, 20)


async def test_greedy_is_top_k_1(client_of: MakeClient, ctx: CallContext) -> None:
    request = GenerationRequest("q", 5, temperature=0, top_k=40, top_p=0.9)
    sent = json.loads((await client_of("ensemble").generate(request, ctx)).text)
    assert set(sent) == {"max_tokens", "top_k"}
    assert sent["top_k"]["data"] == [1]


async def test_log_probabilities_are_returned_on_request(client_of: MakeClient, ctx: CallContext) -> None:
    request = GenerationRequest("<unused>", 5, log_probs=True)
    answer = await client_of("ensemble").generate(request, ctx)
    assert (answer.cumulative_log_prob, answer.output_log_probs) == (-1.5, (-0.5, -1.0))
    sent = json.loads((await client_of("ensemble").generate(GenerationRequest("q", 5, log_probs=True), ctx)).text)
    assert sent["return_log_probs"]["data"] == [True]
    plain = await client_of("ensemble").generate(GenerationRequest("<unused>", 5), ctx)
    assert (plain.cumulative_log_prob, plain.output_log_probs) == (None, ())


async def test_a_parameter_without_an_input_is_refused(client_of: MakeClient, ctx: CallContext) -> None:
    client = client_of("ensemble")
    with pytest.raises(InvalidRequestError, match=r"frequency_penalty is 0\.5.*no input") as refused:
        await client.generate(GenerationRequest("q", 5, frequency_penalty=0.5), ctx)
    assert refused.value.field == "frequency_penalty"
    neutral = await client.generate(GenerationRequest("q", 5, frequency_penalty=0.0), ctx)
    assert set(json.loads(neutral.text)) == {"max_tokens"}


async def test_vllm_streams_deltas_and_reads_sampling_parameters_as_json(
    client_of: MakeClient, ctx: CallContext
) -> None:
    chunks = [chunk async for chunk in client_of("vllm").stream(EVERYTHING, ctx)]
    text = "".join(chunk.text for chunk in chunks)
    assert json.loads(text) == {
        "max_tokens": 20,
        "temperature": 0.5,
        "top_k": -1,
        "top_p": 0.25,
        "stop": ["\n\n", "\t"],
        "seed": 2**64 - 1,
        "repetition_penalty": 1.5,
        "presence_penalty": -1.0,
    }
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert (chunks[-1].finish_reason, chunks[-1].prompt_tokens) == ("length", 3)
    assert chunks[-1].completion_tokens == len(chunks) - 1


async def test_an_aborted_answer_is_cancelled(client_of: MakeClient, ctx: CallContext) -> None:
    assert (await client_of("vllm").generate(GenerationRequest("aborts", 5), ctx)).finish_reason == "cancelled"


async def test_a_stream_without_a_finish_reason_is_incomplete(client_of: MakeClient, ctx: CallContext) -> None:
    with pytest.raises(BadUpstreamError, match="ended its response early"):
        _ = [chunk async for chunk in client_of("vllm").stream(GenerationRequest("ends early", 5), ctx)]


@pytest.mark.parametrize(
    ("text", "prompt", "answer"),
    [
        ("[INST] Why? [/INST] Because.", "[INST] Why? [/INST]", " Because."),
        (" [INST] Why? [/INST] Because.", "<s>[INST] Why? [/INST]", " Because."),
        ("user\nWhy?\nassistant\nBecause.", "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n", "\nBecause."),
        ("Because.", "Why?", "Because."),
        ("", "Why?", ""),
        ("Why", "Why?", "Why"),
        ("Because.", "", "Because."),
    ],
)
def test_echo(text: str, prompt: str, answer: str) -> None:
    assert without_echo(text, prompt) == answer
