"""OpenAI's completions, responses and embeddings with its own client, and rerank."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from fastapi import FastAPI
from openai import AsyncOpenAI, BadRequestError, NotFoundError
from openai.types.responses import (
    ResponseCompletedEvent,
    ResponseErrorEvent,
    ResponseOutputText,
    ResponseTextDeltaEvent,
)

from chassis.error_mapping import ErrorMapper
from tests.fakes.embedder import DIMENSION, LoopbackEmbedder, embed, embed_tokens
from tests.fakes.upstreams import PASSAGE, WORDS
from tests.transformer.running import Q, Running, events_of, message
from transformer.embeddings import embedder_routes
from transformer.openai import ERROR_SHAPES

TEXT = "".join(WORDS)
USER: Any = {"role": "user", "content": Q}
SENTENCES = ["Records are sent daily.", "The warranty lasts three years.", "How long is a record?"]


@pytest_asyncio.fixture(params=["/v1", "/openai/v1"])
async def openai(service: Running, request: pytest.FixtureRequest) -> AsyncIterator[AsyncOpenAI]:
    url = str(service.client.base_url).rstrip("/") + request.param
    async with AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as client:
        yield client


async def test_completions_answer_each_prompt(openai: AsyncOpenAI) -> None:
    whole = await openai.completions.create(model="rag", prompt=[Q, "And for batteries?"], max_tokens=9)
    assert whole.id.startswith("cmpl-")
    assert [(choice.index, choice.text, choice.finish_reason) for choice in whole.choices] == [
        (0, TEXT, "stop"),
        (1, TEXT, "stop"),
    ]
    assert [choice.model_extra["query"] for choice in whole.choices] == [Q, "And for batteries?"]  # type: ignore[index]
    assert whole.usage is not None
    assert whole.usage.total_tokens == 2 * (50 + len(WORDS))


async def test_a_completion_is_streamed(openai: AsyncOpenAI) -> None:
    stream = await openai.completions.create(model="rag", prompt=Q, stream=True, stream_options={"include_usage": True})
    *chunks, last = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT
    assert chunks[0].choices[0].model_extra["sources"][0]["text"] == PASSAGE["text"]  # type: ignore[index]
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "stop"]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == len(WORDS)


async def test_a_response_cites_its_sources(openai: AsyncOpenAI) -> None:
    response = await openai.responses.create(model="rag", input=Q, instructions="Be brief.", temperature=0)
    assert (response.status, response.output_text, response.error) == ("completed", TEXT, None)
    assert response.model_extra["sources"][0]["number"] == 1  # type: ignore[index]
    assert response.usage is not None
    assert response.usage.output_tokens == len(WORDS)
    assert response.instructions == "Be brief."
    (annotation,) = response.output[0].content[0].annotations  # type: ignore[union-attr]
    assert (annotation.type, annotation.file_id, annotation.index) == ("file_citation", "d", len(TEXT))
    # The next turn, with the output as the client has it.
    conversation: Any = [USER, *(item.to_dict() for item in response.output), {**USER, "content": "And batteries?"}]
    follow_up = await openai.responses.create(model="rag", input=conversation)
    assert follow_up.model_extra["replayed"]["turns"] == 1  # type: ignore[index]


async def test_a_response_is_streamed_as_the_client_accumulates_it(openai: AsyncOpenAI, service: Running) -> None:
    async with openai.responses.stream(model="rag", input=[USER]) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if isinstance(event, ResponseTextDeltaEvent)) == TEXT
    assert final.output_text == TEXT
    part = final.output[0].content[0]
    assert isinstance(part, ResponseOutputText)
    assert len(part.annotations) == 1
    assert final.model_extra["citations"]["statements"]  # type: ignore[index]
    raw = await service.client.post("/v1/responses", json={"model": "rag", "input": Q, "stream": True})
    names = [line[7:] for line in raw.text.splitlines() if line.startswith("event: ")]
    assert names == [event["type"] for event in events_of(raw)] == [event.type for event in events]


async def test_a_response_cut_off_at_its_limit_is_incomplete(service: Running) -> None:
    body = {"model": "rag", "input": Q, "max_output_tokens": 0}
    response = (await service.client.post("/v1/responses", json=body)).raise_for_status().json()
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


async def test_a_stream_that_fails_ends_with_the_error(openai: AsyncOpenAI, service: Running) -> None:
    service.upstreams.predictor = "break"
    events = [event async for event in await openai.responses.create(model="rag", input=Q, stream=True)]
    error = events[-1]
    assert isinstance(error, ResponseErrorEvent)
    assert (error.code, error.sequence_number) == ("bad_upstream", len(events) - 1)
    assert not any(isinstance(event, ResponseCompletedEvent) for event in events)


@pytest.mark.parametrize(
    ("path", "fields", "field", "advice"),
    [
        ("completions", {"prompt": [[1, 2]]}, "prompt", "token ids"),
        ("completions", {"prompt": [Q, Q], "stream": True}, "prompt", "one at a time"),
        ("completions", {"prompt": Q, "best_of": 2}, "best_of", "1 or less"),
        ("completions", {"prompt": Q, "echo": True}, "echo", "False"),
        ("completions", {"prompt": "why " * 20_000}, "prompt", ""),
        ("responses", {"input": Q, "previous_response_id": "resp_1"}, "previous_response_id", "not stored"),
        ("responses", {"input": Q, "store": True}, "store", "False"),
        ("responses", {"input": Q, "tools": [{"type": "web_search"}]}, "tools", "not supported"),
        ("responses", {"input": Q, "text": {"format": {"type": "json_object"}}}, "text.format.type", "'text'"),
        ("responses", {"input": []}, "input", "1 or more"),
        ("responses", {"input": " "}, "input", "empty"),
        ("responses", {"input": [{"role": "assistant", "content": "Yes."}]}, "input", "question last"),
        ("embeddings", {"model": "minilm", "input": [1, 2]}, "input", "token ids"),
        ("embeddings", {"model": "minilm", "input": [Q, ""]}, "input[1]", "empty"),
        ("embeddings", {"model": "minilm", "input": Q, "dimensions": 5}, "dimensions", f"have {DIMENSION}"),
        ("embeddings", {"model": "minilm", "input": [Q, "word " * 300]}, "input[1]", "truncate"),
        ("rerank", {"model": "minilm", "query": "word " * 300, "documents": [Q]}, "query", "shorter"),
        ("rerank", {"model": "minilm", "query": Q, "documents": []}, "documents", "1 or more"),
        ("rerank", {"model": "minilm", "query": Q, "documents": [Q], "top_n": 0}, "top_n", "1 or more"),
    ],
    ids=str,
)
async def test_bad_requests_have_openais_error(
    service: Running, path: str, fields: dict[str, Any], field: str, advice: str
) -> None:
    response = await service.client.post(f"/v1/{path}", json={"model": "rag", **fields})
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", field)
    assert advice in error["message"]


async def test_fields_that_change_nothing_are_accepted(service: Running) -> None:
    for path, fields in {
        "completions": {"prompt": Q, "n": 1, "best_of": 1, "echo": False, "suffix": "", "logit_bias": {}, "user": "u"},
        "responses": {
            "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": Q}]}],
            "tools": [],
            "tool_choice": "auto",
            "store": False,
            "include": ["reasoning.encrypted_content"],
            "reasoning": {"effort": "low"},
            "text": {"format": {"type": "text"}, "verbosity": "low"},
            "metadata": {"k": "v"},
            "truncation": "auto",
            "stream_options": {"include_obfuscation": False},
        },
    }.items():
        response = await service.client.post(f"/v1/{path}", json={"model": "rag", **fields})
        assert response.status_code == 200, response.text


async def test_embeddings_are_the_embedders(openai: AsyncOpenAI) -> None:
    floats = await openai.embeddings.create(model="minilm", input=SENTENCES, encoding_format="float")
    assert floats.usage.prompt_tokens == sum(len(text.split()) + 2 for text in SENTENCES)
    base64 = await openai.embeddings.create(model="minilm", input=SENTENCES)  # the client's default, which it decodes
    for found in (floats, base64):
        np.testing.assert_array_equal(np.array([one.embedding for one in found.data], np.float32), embed(SENTENCES))
    (one,) = (await openai.embeddings.create(model="minilm", input="One text.")).data
    assert len(one.embedding) == DIMENSION
    for model in ("rag", "text-embedding-3-small"):
        with pytest.raises(NotFoundError, match="This route has the model 'minilm'"):
            await openai.embeddings.create(model=model, input="One text.")
    with pytest.raises(BadRequestError, match="longer than the embedder's window"):
        await openai.embeddings.create(model="minilm", input="word " * 300)
    cut = await openai.embeddings.create(model="minilm", input="word " * 300, extra_body={"truncate": True})
    assert len(cut.data) == 1


async def test_rerank_orders_by_similarity(service: Running, embedder: LoopbackEmbedder) -> None:
    body = {"query": Q, "documents": [*SENTENCES[:2], {"text": SENTENCES[2]}]}
    cosines = (embed(SENTENCES) @ embed([Q])[0]).clip(0, 1)
    late = [float((embed_tokens(Q) @ embed_tokens(text).T).max(axis=1).mean()) for text in SENTENCES]
    for whole, scores in ((False, cosines), (True, (embed(SENTENCES) @ embed([Q])[0] + late) / 2)):
        embedder.whole = whole
        for path in ("/v1/rerank", "/v2/rerank", "/openai/v1/rerank"):
            ranked = (await service.client.post(path, json=body)).raise_for_status().json()
            order = np.argsort(-scores, kind="stable").tolist()
            assert [result["index"] for result in ranked["results"]] == order
            np.testing.assert_allclose([r["relevance_score"] for r in ranked["results"]], scores[order], atol=1e-6)
    best = (await service.client.post("/v2/rerank", json={**body, "top_n": 1, "return_documents": True})).json()
    assert [result["document"]["text"] for result in best["results"]] == [SENTENCES[order[0]]]
    long = {"query": Q, "documents": ["word " * 300]}
    assert (await service.client.post("/v2/rerank", json=long)).json()["results"][0]["truncated"] is True


async def test_a_failing_embedder_is_the_upstreams_error(service: Running, embedder: LoopbackEmbedder) -> None:
    embedder.fault = "failure"
    response = await service.client.post("/v1/embeddings", json={"model": "minilm", "input": Q})
    assert (response.status_code, "internals" in response.text) == (502, False)


async def test_without_an_embedder_the_error_names_the_setting() -> None:
    app = FastAPI()
    ErrorMapper(ERROR_SHAPES).register(app)
    app.include_router(embedder_routes(None, model="minilm", timeout_s=5))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://transformer") as client:
        for path, fields in {"/v1/embeddings": {"input": Q}, "/v1/rerank": {"query": Q, "documents": [Q]}}.items():
            response = await client.post(path, json={"model": "minilm", **fields})
            assert response.status_code == 404
            assert "TRANSFORMER_EMBEDDER_URL" in message(response)
