"""The routes of earlier LLM servers, with exact payloads of their clients, and with Takeoff's official client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from takeoff_client import TakeoffClient
from takeoff_client.exceptions import TakeoffError

from chassis.settings import SettingError, read_settings
from tests.fakes.upstreams import WORDS, Upstreams
from tests.transformer.running import Q, transformer
from transformer.__main__ import build
from transformer.drop_in import drop_in_routes
from transformer.settings import TransformerSettings

TEXT = "".join(WORDS)
PROMPT = f"<s>[INST] Answer from the press release. {Q} [/INST]"
CHAINLIT: dict[str, Any] = {
    "text": PROMPT,
    "generate_max_length": 300,
    "no_repeat_ngram_size": 0,
    "sampling_topk": 50,
    "sampling_topp": 0.95,
    "sampling_temperature": 0.3,
    "repetition_penalty": 1.0,
}
"""The body of the press-release page."""


@pytest.fixture(scope="module")
def prompts() -> Iterator[tuple[Upstreams, str]]:
    """Upstreams, and the URL of a transformer that takes prompts."""
    with Upstreams() as upstreams, transformer(upstreams.url, upstreams.url, DROP_IN="takeoff,cml") as url:
        yield upstreams, url


@pytest.fixture
def upstreams(prompts: tuple[Upstreams, str]) -> Upstreams:
    prompts[0].reset()
    return prompts[0]


@pytest_asyncio.fixture
async def client(prompts: tuple[Upstreams, str]) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=prompts[1], timeout=60) as client:
        yield client


@pytest.fixture
def takeoff(prompts: tuple[Upstreams, str]) -> TakeoffClient:
    host, port = prompts[1].rsplit(":", 1)
    return TakeoffClient(host, int(port))


def predictor_body(upstreams: Upstreams) -> dict[str, Any]:
    """The only request that arrived: the LLM's."""
    ((service, _, body),) = upstreams.seen
    assert service == "predictor"
    return dict(body)


async def test_the_press_release_page_streams_bare_text(upstreams: Upstreams, client: httpx.AsyncClient) -> None:
    async with client.stream("POST", "/generate_stream", json=CHAINLIT) as response:
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        assert "".join([text async for text in response.aiter_text()]) == TEXT
    sent = predictor_body(upstreams)
    assert sent["text_input"] == PROMPT
    expected = {"max_tokens": 300, "top_k": 50, "top_p": 0.95, "temperature": 0.3, "repetition_penalty": 1.0}
    assert {name: sent[f"sampling_param_{name}"] for name in expected} == expected


async def test_one_text_and_several_are_answered_at_once(upstreams: Upstreams, client: httpx.AsyncClient) -> None:
    one = await client.post("/generate", json={"text": PROMPT})
    assert one.json() == {"status": "success", "message": TEXT}
    sent = predictor_body(upstreams)
    assert (sent["sampling_param_max_tokens"], sent["sampling_param_temperature"]) == (128, 0.0)
    several = await client.post("/generate", json={"text": [PROMPT, PROMPT]})
    assert several.json() == {"status": "success", "message": [TEXT, TEXT]}


async def test_takeoffs_client_gets_answers_and_events(upstreams: Upstreams, takeoff: TakeoffClient) -> None:
    upstreams.words = ("Three", " years:\n", "\n- one", " more")
    text = "".join(upstreams.words)
    whole = await asyncio.to_thread(takeoff.generate, PROMPT, max_new_tokens=50, sampling_temperature=0.0)
    assert whole == {"text": text}
    events = await asyncio.to_thread(lambda: list(takeoff.generate_stream(PROMPT, max_new_tokens=50)))
    assert "".join(event.data for event in events) == text


async def test_takeoffs_client_gets_takeoffs_errors(upstreams: Upstreams, takeoff: TakeoffClient) -> None:
    upstreams.predictor = "busy"
    for call in (takeoff.generate, takeoff.generate_stream):
        with pytest.raises(TakeoffError) as failed:
            await asyncio.to_thread(call, PROMPT)
        assert failed.value.status_code == 503
    with pytest.raises(TakeoffError, match="regex_string"):
        await asyncio.to_thread(takeoff.generate, PROMPT, regex_string="a+")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/generate", {"text": ""}, "text"),
        ("/generate", {"text": Q, "no_repeat_ngram_size": 3}, "no_repeat_ngram_size"),
        ("/generate_stream", {"text": [Q, Q]}, "text"),
        ("/generate_stream", {"text": Q, "sampling_topp": 2}, "sampling_topp"),
    ],
)
async def test_a_wrong_field_is_named(client: httpx.AsyncClient, path: str, body: dict[str, Any], field: str) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 400
    assert response.json()["detail"].startswith(field)


async def test_a_stream_that_fails_is_not_a_whole_answer(upstreams: Upstreams, client: httpx.AsyncClient) -> None:
    upstreams.predictor = "break"
    with pytest.raises(httpx.RemoteProtocolError):
        await client.post("/generate_stream", json=CHAINLIT)


async def test_the_labs_client_cuts_the_prompt_off(upstreams: Upstreams, client: httpx.AsyncClient) -> None:
    asked = {"prompt": PROMPT, "temperature": 0.5, "max_new_tokens": 250, "repetition_penalty": 1.0}
    response = await client.post("/model?accessKey=mn3", json={"accessKey": "mn3", "request": asked})
    text = response.json()["response"]["prediction"]["response"]
    assert text[len(PROMPT) - 6 :] == TEXT
    assert response.json()["success"] is True
    sent = predictor_body(upstreams)
    assert (sent["text_input"], sent["sampling_param_max_tokens"]) == (PROMPT, 250)
    wrong = await client.post("/model", json={"request": {**asked, "max_new_tokens": -1}})
    assert wrong.status_code == 400
    assert wrong.json()["field"] == "request.max_new_tokens"


async def test_questions_are_answered_from_the_documents(upstreams: Upstreams) -> None:
    service = build(
        TransformerSettings(
            vectorstore_url=upstreams.url,
            predictor_url=upstreams.url,
            predictor_layout="openai_chat",
            context_tokens=2048,
            answers="write",
        )
    )
    app = FastAPI()
    app.include_router(drop_in_routes(service, {"takeoff"}, "question", timeout_s=60))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://transformer") as client:
        assert (await client.post("/generate", json={"text": Q})).json()["message"] == TEXT
        assert (await client.post("/generate_stream", json={"text": Q})).text == TEXT
        assert (await client.post("/model", json={"request": {"prompt": Q}})).status_code == 404
    await service.aclose()
    assert {service for service, _, _ in upstreams.seen} == {"vectorstore", "predictor"}


def test_an_unknown_server_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMER_DROP_IN", "takeoff,tgi")
    with pytest.raises(SettingError, match="TRANSFORMER_DROP_IN"):
        read_settings(TransformerSettings)
