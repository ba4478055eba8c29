"""Requests to a Cloudera model endpoint, beyond the contract of LLM servers."""

from __future__ import annotations

import dataclasses

import pytest

from chassis.context import CallContext
from chassis.errors import BadUpstreamError
from predictor.client import PredictorClient
from predictor.wire import GenerationRequest
from tests.fakes.cml import Cml

REQUEST = GenerationRequest("<s>[INST] Where is France's capital? [/INST]", 40, 0.5, repetition_penalty=1.0)


@pytest.fixture
def from_caller(ctx: CallContext) -> CallContext:
    return dataclasses.replace(ctx, headers={**ctx.headers, "authorization": "Bearer of-the-caller"})


@pytest.mark.parametrize(("api_key", "sent"), [(None, None), ("of-the-service", "Bearer of-the-service")])
async def test_the_keys_are_the_services_own(
    from_caller: CallContext, monkeypatch: pytest.MonkeyPatch, api_key: str | None, sent: str | None
) -> None:
    monkeypatch.setenv("PREDICTOR_CML_ACCESS_KEY", "mn3")
    if api_key is not None:
        monkeypatch.setenv("PREDICTOR_CML_API_KEY", api_key)
    with Cml(access_key="mn3") as server:
        client = PredictorClient(server.url, server="cml")
        assert (
            await client.generate(REQUEST, from_caller)
        ).text.strip() == "The capital of France is the city of Paris."
        await client.aclose()
    arguments = {"prompt": REQUEST.prompt, "max_new_tokens": 40, "temperature": 0.5, "repetition_penalty": 1.0}
    assert server.requests == [(sent, {"accessKey": "mn3", "request": arguments})]


async def test_a_wrong_key_is_the_operators_concern(ctx: CallContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREDICTOR_CML_ACCESS_KEY", "secret-key")
    with Cml(access_key="another") as server:
        client = PredictorClient(server.url, server="cml")
        with pytest.raises(BadUpstreamError, match="PREDICTOR_CML_ACCESS_KEY") as failed:
            await client.generate(REQUEST, ctx)
        await client.aclose()
    assert "secret-key" not in failed.value.message + failed.value.upstream_reason


async def test_a_function_that_fails(ctx: CallContext) -> None:
    with Cml() as server:
        server.failing = True
        client = PredictorClient(server.url, server="cml")
        with pytest.raises(BadUpstreamError) as failed:
            await client.generate(REQUEST, ctx)
        await client.aclose()
    assert failed.value.upstream_reason == "CUDA out of memory"
    assert "CUDA" not in failed.value.message
