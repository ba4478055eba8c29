"""Requests to Takeoff, beyond the contract of LLM servers."""

from __future__ import annotations

import pytest
from takeoff_client import TakeoffClient

from chassis.context import CallContext
from chassis.errors import BadUpstreamError, InvalidRequestError
from predictor.client import PredictorClient
from predictor.wire import GenerationRequest
from tests.fakes.replies import answering, replying
from tests.fakes.takeoff import Takeoff

ANSWER = "The capital of France is the city of Paris."


def test_the_official_client_reads_the_stand_in() -> None:
    with Takeoff(pro=True) as server:
        host, port = server.url.rsplit(":", 1)
        client = TakeoffClient(host, int(port))
        assert client.generate("France?")["text"] == ANSWER
        assert "".join(event.data for event in client.generate_stream("France?", max_new_tokens=40)) == ANSWER


@pytest.mark.parametrize(
    ("name", "model", "limit"),
    [
        ("takeoff", None, {"generate_max_length": 40}),
        ("takeoff_pro", "mistral", {"max_new_tokens": 40, "consumer_group": "mistral"}),
    ],
)
async def test_parameters_have_takeoffs_names(
    ctx: CallContext, name: str, model: str | None, limit: dict[str, object]
) -> None:
    request = GenerationRequest("France?", 40, 0.3, 50, 0.95, repetition_penalty=1.0)
    with Takeoff(pro=name == "takeoff_pro") as server:
        client = PredictorClient(server.url, server=name, model=model)
        assert (await client.generate(request, ctx)).text == ANSWER
        await client.aclose()
    parameters = {"sampling_temperature": 0.3, "sampling_topk": 50, "sampling_topp": 0.95, "repetition_penalty": 1.0}
    assert server.requests == [{"text": "France?", **parameters, **limit}]


async def test_temperature_0_is_sent_as_greedy(ctx: CallContext) -> None:
    with Takeoff() as server:
        client = PredictorClient(server.url, server="takeoff")
        await client.generate(GenerationRequest("France?", 40, 0.0, 50, 0.95), ctx)
        await client.aclose()
    assert server.requests == [{"text": "France?", "generate_max_length": 40, "sampling_topk": 1}]


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (422, b'{"detail": [{"msg": "field required"}]}', InvalidRequestError),
        (400, b'{"detail": "sampling_topk must be less than 1000"}', InvalidRequestError),
        (200, "gefüllt".encode("latin-1"), BadUpstreamError),
    ],
)
async def test_refused_requests_and_text_that_is_not_utf_8(
    ctx: CallContext, status: int, body: bytes, error: type[Exception]
) -> None:
    with replying(answering(status, body)) as url:
        client = PredictorClient(url, server="takeoff")
        with pytest.raises(error):
            await client.generate(GenerationRequest("France?", 40), ctx)
        await client.aclose()
