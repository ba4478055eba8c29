"""Settings of the OpenAI servers, checked by the requests that arrive at trtllm-serve's routes."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from chassis.context import CallContext
from chassis.errors import BadUpstreamError, NotReadyError
from predictor.client import LLM_SERVERS, PredictorClient
from predictor.servers.openai import OpenAiSettings
from predictor.wire import GenerationRequest
from tests.fakes.trtllm_serve import TrtllmServe

KEY = "sk-of-the-server"
REQUEST = GenerationRequest("q", max_tokens=5)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[TrtllmServe]:
    async with TrtllmServe().running() as server:
        yield server


@pytest.fixture
def from_caller(ctx: CallContext) -> CallContext:
    return dataclasses.replace(ctx, headers={"authorization": "Bearer of-the-caller"})


async def ask(server: TrtllmServe, ctx: CallContext, *, forwarded: bool = False) -> None:
    client = PredictorClient(server.url, server="openai", forward_authorization=forwarded)
    try:
        await client.generate(REQUEST, ctx)
        assert await client.not_ready_reason(ctx) is None
    finally:
        await client.aclose()


@pytest.mark.parametrize(
    ("key", "forwarded", "sent"),
    [(KEY, True, KEY), (KEY, False, KEY), (None, True, "of-the-caller"), (None, False, None)],
)
async def test_the_key_replaces_the_callers_authorization(
    server: TrtllmServe,
    from_caller: CallContext,
    monkeypatch: pytest.MonkeyPatch,
    key: str | None,
    forwarded: bool,
    sent: str | None,
) -> None:
    if key is not None:
        monkeypatch.setenv("PREDICTOR_OPENAI_API_KEY", key)
    await ask(server, from_caller, forwarded=forwarded)
    assert set(server.authorizations) == {
        (path, sent and f"Bearer {sent}") for path in ("/v1/models", "/v1/completions", "/health")
    }


async def test_without_key_and_caller_nothing_is_sent(server: TrtllmServe, ctx: CallContext) -> None:
    await ask(server, ctx)
    assert {authorization for _, authorization in server.authorizations} == {None}


async def test_a_refused_key_is_the_operators_matter_and_in_no_error_and_no_log(
    server: TrtllmServe, ctx: CallContext, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server's own message repeats the key that it refuses."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("PREDICTOR_OPENAI_API_KEY", KEY)
    server.api_key = "another"
    client = PredictorClient(server.url, server="openai")
    with pytest.raises(BadUpstreamError, match=r"operator must correct PREDICTOR_OPENAI_API_KEY") as refused:
        await client.generate(REQUEST, ctx)
    reason = await client.not_ready_reason(ctx)
    assert reason == refused.value.message
    shown = [refused.value.message, refused.value.upstream_reason, caplog.text]
    await client.aclose()
    assert server.authorizations == [("/v1/models", f"Bearer {KEY}"), ("/health", f"Bearer {KEY}")]
    assert not [text for text in [*shown, repr(OpenAiSettings())] if KEY in text]


@pytest.mark.parametrize(("extensions", "taken"), [("false", False), ("true", True)])
async def test_chat_takes_the_extensions_of_openais_api_if_the_server_has_them(
    server: TrtllmServe, ctx: CallContext, monkeypatch: pytest.MonkeyPatch, extensions: str, taken: bool
) -> None:
    monkeypatch.setenv("PREDICTOR_OPENAI_CHAT_EXTENSIONS", extensions)
    client = PredictorClient(server.url, server="openai_chat")
    assert ({"top_k", "repetition_penalty"} <= client.capabilities.parameters) is taken
    await client.aclose()


@pytest.mark.parametrize("path", ["/ready", ""])
async def test_the_health_path_is_requested_unless_it_is_empty(
    path: str, ctx: CallContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREDICTOR_OPENAI_HEALTH_PATH", path)
    async with TrtllmServe(health_path="/ready").running() as server:
        client = LLM_SERVERS.get("openai")(server.url, None)
        await client.health(ctx)
        assert [path for path, _ in server.authorizations] == [*filter(None, [path]), "/v1/models"]
        server.healthy = False
        if path:
            with pytest.raises(NotReadyError):
                await client.health(ctx)
        else:
            await client.health(ctx)
        await client.aclose()
