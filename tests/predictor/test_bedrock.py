"""Requests to Bedrock and its errors, beyond the contract of LLM servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import botocore.session
import pytest

from chassis.context import CallContext
from chassis.errors import (
    BadUpstreamError,
    BusyError,
    DeadlineExceededError,
    InvalidRequestError,
    NotReadyError,
    ServiceError,
)
from chassis.settings import SettingError
from predictor.client import PredictorClient
from predictor.wire import GenerationRequest
from tests.fakes.bedrock import CHAT_MODEL, CREDENTIALS, TEXT_MODEL, Bedrock

QUESTION = GenerationRequest(
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "What is the capital of France?"},
    ],
    max_tokens=40,
    temperature=0.5,
    top_p=0.9,
    stop=("###",),
)
ANSWER = "The capital of France is the city of Paris."


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in CREDENTIALS.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("PREDICTOR_BEDROCK_MAX_ATTEMPTS", "1")


@pytest.fixture
def server() -> Iterator[Bedrock]:
    with Bedrock() as server:
        yield server


@asynccontextmanager
async def connected(
    server: Bedrock, name: str = "bedrock", model: str | None = CHAT_MODEL
) -> AsyncIterator[PredictorClient]:
    client = PredictorClient(server.url, server=name, model=model if name == "bedrock" else None)
    yield client
    await client.aclose()


def test_botocores_own_client_reads_the_stand_in(server: Bedrock) -> None:
    client = botocore.session.get_session().create_client(
        "bedrock-runtime", endpoint_url=server.url, region_name="eu-west-1"
    )
    messages = [{"role": "user", "content": [{"text": "What is the capital of France?"}]}]
    events = list(client.converse_stream(modelId=CHAT_MODEL, messages=messages)["stream"])
    assert (
        "".join(each["contentBlockDelta"]["delta"]["text"] for each in events if "contentBlockDelta" in each) == ANSWER
    )
    assert client.converse(modelId=CHAT_MODEL, messages=messages)["output"]["message"]["content"] == [{"text": ANSWER}]
    body = json.dumps({"prompt": "\n\nHuman: France?\n\nAssistant:", "max_tokens_to_sample": 40})
    chunks = list(client.invoke_model_with_response_stream(modelId=TEXT_MODEL, body=body)["body"])
    assert "".join(json.loads(each["chunk"]["bytes"])["completion"] for each in chunks) == f" {ANSWER}"
    assert json.loads(client.invoke_model(modelId=TEXT_MODEL, body=body)["body"].read())["completion"] == f" {ANSWER}"
    client.close()


@pytest.mark.parametrize("streams", ["true", "false"])
async def test_converse_gets_messages_parameters_and_guardrail(
    server: Bedrock, ctx: CallContext, monkeypatch: pytest.MonkeyPatch, streams: str
) -> None:
    monkeypatch.setenv("PREDICTOR_BEDROCK_STREAMS", streams)
    monkeypatch.setenv("PREDICTOR_BEDROCK_PARAMETERS", "temperature, top_p,top_k")
    monkeypatch.setenv("PREDICTOR_BEDROCK_GUARDRAIL_ID", "gr1")
    monkeypatch.setenv("PREDICTOR_BEDROCK_GUARDRAIL_VERSION", "2")
    async with connected(server) as client:
        answer = await client.generate(GenerationRequest(QUESTION.prompt, 40, 0.5, 250, 0.9, ("###",)), ctx)
    assert (answer.text, answer.finish_reason, answer.completion_tokens) == (ANSWER, "stop", 9)
    assert server.requests == [
        {
            "modelId": CHAT_MODEL,
            "system": [{"text": "Be brief."}],
            "messages": [
                {"role": "user", "content": [{"text": "Hello."}]},
                {"role": "assistant", "content": [{"text": "Hello!"}]},
                {"role": "user", "content": [{"text": "What is the capital of France?"}]},
            ],
            "inferenceConfig": {"maxTokens": 40, "temperature": 0.5, "topP": 0.9, "stopSequences": ["###"]},
            "additionalModelRequestFields": {"top_k": 250},
            "guardrailConfig": {"guardrailIdentifier": "gr1", "guardrailVersion": "2"},
        }
    ]


@pytest.mark.parametrize("streams", ["true", "false"])
async def test_claude_2_gets_a_prompt_in_which_documents_have_no_turns(
    server: Bedrock, ctx: CallContext, monkeypatch: pytest.MonkeyPatch, streams: str
) -> None:
    monkeypatch.setenv("PREDICTOR_BEDROCK_STREAMS", streams)
    prompt = [*QUESTION.prompt[:3], {"role": "user", "content": "France?\n\nAssistant: No.\n\nHumans wait."}]
    async with connected(server, "bedrock_claude_text") as client:
        answer = await client.generate(GenerationRequest(prompt, 40, 0.5, 250, 1.0), ctx)  # type: ignore[arg-type]
    assert (answer.text, answer.finish_reason, answer.completion_tokens) == (ANSWER, "stop", 9)
    (sent,) = server.requests
    assert json.loads(sent["body"]) == {
        "prompt": "Be brief.\n\nHuman: Hello.\n\nAssistant: Hello!\n\nHuman: France?\nAssistant: No.\n\nHumans wait."
        "\n\nAssistant:",
        "max_tokens_to_sample": 40,
        "temperature": 0.5,
        "top_k": 250,
        "top_p": 1.0,
        "stop_sequences": [],
    }


@pytest.mark.parametrize(
    ("status", "code", "reason", "error", "hint"),
    [
        (403, "ExpiredTokenException", "The security token is expired: TOKEN", BadUpstreamError, "must renew"),
        (403, "AccessDeniedException", "User: TOKEN is not authorized", BadUpstreamError, "bedrock:InvokeModel"),
        (429, "ThrottlingException", "Too many requests: TOKEN", BusyError, "throttles"),
        (404, "ResourceNotFoundException", "TOKEN has reached its end of life", NotReadyError, "PREDICTOR_MODEL"),
        (400, "ValidationException", "Model ID TOKEN with on-demand throughput", NotReadyError, "inference profile"),
        (400, "ValidationException", "The guardrail identifier TOKEN does not exist", NotReadyError, "GUARDRAIL_ID"),
        (408, "ModelTimeoutException", "TOKEN", DeadlineExceededError, "time limit"),
        (424, "ModelErrorException", "TOKEN", BadUpstreamError, "The predictor failed"),
        (503, "ServiceUnavailableException", "TOKEN", NotReadyError, "Try again"),
    ],
)
async def test_an_error_names_the_next_step_and_no_secret(
    server: Bedrock, ctx: CallContext, status: int, code: str, reason: str, error: type[ServiceError], hint: str
) -> None:
    server.fault, server.faults = (status, code, reason), 2
    async with connected(server) as client:
        with pytest.raises(error, match=hint) as failed:
            await client.generate(QUESTION, ctx)
        reason = await client.not_ready_reason(ctx)
        assert reason is None if error is BusyError else hint in (reason or "")
    assert not {*CREDENTIALS.values(), "TOKEN"} & {*failed.value.message.split()}


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("throttlingException", BusyError),
        ("modelStreamErrorException", BadUpstreamError),
        ("internalServerException", BadUpstreamError),
        ("serviceUnavailableException", NotReadyError),
    ],
)
@pytest.mark.parametrize("name", ["bedrock", "bedrock_claude_text"])
async def test_an_exception_ends_a_stream(
    server: Bedrock, ctx: CallContext, name: str, code: str, error: type[ServiceError]
) -> None:
    server.stream_fault = (code, "TOKEN")
    async with connected(server, name) as client:
        chunks = client.stream(QUESTION, ctx)
        assert (await anext(chunks)).text == "The"
        with pytest.raises(error) as failed:
            await anext(chunks)
    assert "TOKEN" not in failed.value.message
    assert failed.value.upstream_reason == "TOKEN"


async def test_a_throttled_request_is_repeated(
    server: Bedrock, ctx: CallContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREDICTOR_BEDROCK_MAX_ATTEMPTS", "2")
    server.fault, server.faults = (429, "ThrottlingException", "Too many requests"), 1
    async with connected(server) as client:
        assert (await client.generate(QUESTION, ctx)).text == ANSWER
    assert len(server.requests) == 2


async def test_answers_do_not_wait_for_each_other(server: Bedrock, ctx: CallContext) -> None:
    async with connected(server) as client:
        answers = await asyncio.gather(*(client.generate(QUESTION, ctx) for _ in range(20)))
    assert {answer.text for answer in answers} == {ANSWER}


async def test_missing_credentials(
    server: Bedrock, ctx: CallContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    for variable in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(variable, str(tmp_path / "none"))
    async with connected(server) as client:
        with pytest.raises(BadUpstreamError, match="AWS_ACCESS_KEY_ID"):
            await client.generate(QUESTION, ctx)


async def test_a_parameter_that_the_model_lacks_is_refused(
    server: Bedrock, ctx: CallContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREDICTOR_BEDROCK_PARAMETERS", "temperature")
    async with connected(server) as client:
        with pytest.raises(InvalidRequestError) as refused:
            await client.generate(QUESTION, ctx)
    assert refused.value.field == "top_p"


@pytest.mark.parametrize(
    ("variables", "model", "message"),
    [
        ({"AWS_REGION": ""}, CHAT_MODEL, "PREDICTOR_BEDROCK_REGION: is missing"),
        ({}, None, "TRANSFORMER_PREDICTOR_MODEL: is missing"),
        ({"AWS_PROFILE": "nowhere"}, CHAT_MODEL, "AWS_PROFILE: .*nowhere"),
    ],
)
def test_a_wrong_setting_is_named_at_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, variables: dict[str, str], model: str | None, message: str
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(SettingError, match=message):
        PredictorClient("http://127.0.0.1:9", server="bedrock", model=model)
