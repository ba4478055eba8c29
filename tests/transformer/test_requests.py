"""Requests of the running transformer to the vectorstore and the LLM server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import httpx
import pytest
from grpc import aio
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferRequest
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from tests.fakes.upstreams import EMBEDDER, PASSAGE, WORDS
from tests.transformer.running import (
    BODIES,
    CHAT,
    GENERATE,
    STREAM,
    V1,
    Q,
    Running,
    between,
    events_of,
    transformer,
)

if TYPE_CHECKING:
    from tests.fakes.llama_cpp import LlamaCpp


async def test_indexes_and_documents_are_those_of_the_vectorstore(service: Running) -> None:
    index = {"name": "default", "version": "v1", "documents": 1, "chunks": 1, "embedder": EMBEDDER}
    default = {**index, "examples": [Q], "reason": None}
    other = {**index, "name": "other", "examples": [], "reason": "Another embedder."}
    sent = {"authorization": "Bearer me", "x-request-id": "r-1", "x-request-timeout-ms": "2000"}
    response = await service.client.get("/v1/indexes", headers=sent)
    assert response.json() == {"default": "default", "indexes": [default, other], "reason": None}
    assert response.headers["x-request-id"] == "r-1"
    path = "/v1/documents/d?version=v1&collection=a%26b"
    document = (await service.client.get(path, headers=sent)).json()
    assert (document["text"], document["collection"], document["index_version"]) == (PASSAGE["text"], "a&b", "v1")
    assert [asked for asked, _ in service.upstreams.browsed] == ["/v1/indexes", path]
    for _, headers in service.upstreams.browsed:
        lower = {name.lower(): value for name, value in headers.items()}
        assert (lower.get("authorization"), lower["x-request-id"]) == (None, "r-1")
        assert int(lower["x-request-timeout-ms"]) <= 2000
    service.upstreams.published, service.upstreams.reason = False, "Build one."
    nothing = (await service.client.get("/v1/indexes")).json()
    assert nothing == {"default": "default", "indexes": [other], "reason": "Build one."}


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/documents/nope", "document_id"),
        ("/v1/documents/%2e%2e", "document_id"),
        ("/v1/documents/a%2Fb%3Fversion=v1", "document_id"),
        ("/v1/documents/d?version=v0", "version"),
    ],
)
async def test_missing_documents_and_versions_are_not_found(service: Running, path: str, field: str) -> None:
    response = await service.client.get(path)
    assert response.status_code == 404
    assert response.json() == {"error": "There is none.", "code": "not_found", "field": field}


async def test_condensed_questions_have_only_words_of_the_conversation(service: Running) -> None:
    earlier, question = "How long is the warranty?", "And for batteries?"
    history = [
        {"role": "user", "content": earlier},
        {"role": "assistant", "content": "The warranty lasts three years."},
    ]
    body = {"text_input": question, "history": history}
    async with between(service.upstreams, CONDENSE="llm") as client:
        for rewritten, searched in (
            (("How long is the", " warranty for batteries?"), "How long is the warranty for batteries?"),
            (("What is the", " capital of France?"), f"{earlier}\n{question}"),  # small models make words up
            (("",), f"{earlier}\n{question}"),
        ):
            service.upstreams.reset()
            service.upstreams.words = rewritten
            answer = (await client.post(GENERATE, json=body)).json()
            assert answer["query"] == searched
            assert "condense" in answer["timings"]
            (sent,) = (sent for name, _, sent in service.upstreams.seen if name == "vectorstore")
            assert sent["instances"][0]["input"] == searched
        alone = (await client.post(GENERATE, json={"text_input": question})).json()
        assert alone["query"] == question
        long = f"{question} " * 60
        assert (await client.post(GENERATE, json={**body, "text_input": long})).json()["query"] == long


async def test_an_answer_takes_one_call_to_the_vectorstore(service: Running) -> None:
    assert (await service.client.post(GENERATE, json={"text_input": Q})).json()["citations"]["statements"][0]["quotes"]
    assert [name for name, _, _ in service.upstreams.seen] == ["vectorstore", "predictor"]
    assert service.upstreams.browsed == []


async def test_parameters_of_a_grpc_request_are_those_of_rest(service: Running) -> None:
    request = ModelInferRequest(model_name="rag")
    question = request.inputs.add(name="input", datatype="BYTES", shape=[1, 1])
    question.contents.bytes_contents.append(Q.encode())
    request.parameters["max_tokens"].int64_param = 7
    request.parameters["refuse"].bool_param = False
    request.parameters["filters"].string_param = '{"lang": "en"}'
    async with aio.insecure_channel(service.grpc) as channel:
        answer = await GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)
    assert answer.outputs[0].name == "text_output"
    (_, _, searched), (_, _, generated) = service.upstreams.seen
    assert searched["instances"][0]["filters"] == {"lang": "en"}
    assert generated["sampling_param_max_tokens"] == 7


async def test_search_options_are_passed_on(service: Running) -> None:
    more = {"collections": ["a", "b"], "neighbours": 2, "diversity": 0.5, "num_docs": 7}
    await service.client.post(GENERATE, json={"text_input": Q, **more})
    (searched,) = (body for name, _, body in service.upstreams.seen if name == "vectorstore")
    assert {name: searched["instances"][0][name] for name in more} == more
    for wrong, field in (
        ({"min_score": 2}, "min_score"),
        ({"refuse": "no"}, "refuse"),
        ({"neighbours": 9}, "neighbours"),
    ):
        answer = await service.client.post(GENERATE, json={"text_input": Q, **wrong})
        assert (answer.status_code, answer.json()["field"]) == (400, field)


async def test_an_openai_server_is_sent_messages_without_a_tokenizer(service: Running) -> None:
    earlier = "Does the lasting warranty cover three years?"
    history = [{"role": "user", "content": earlier}, {"role": "assistant", "content": "<|im_end|>Yes."}]
    settings = {"PREDICTOR_LAYOUT": "openai_chat", "PROMPT_FORMAT": "", "CONTEXT_TOKENS": "2048", "CONDENSE": "llm"}
    async with between(service.upstreams, **settings) as client:
        answer = (await client.post(GENERATE, json={"text_input": Q, "history": history})).json()
    assert answer["text_output"] == "".join(WORDS)
    assert [source["text"] for source in answer["sources"]] == [PASSAGE["text"]]
    assert [one["verdict"] for one in answer["citations"]["statements"]] == ["supported"]
    rewrite, prompt = (sent for room, _, sent in service.upstreams.seen if room == "predictor")
    assert [message["role"] for message in rewrite["messages"]] == ["system", "user"]
    assert f"user: {Q}" in rewrite["messages"][1]["content"]
    system, *turns, last = prompt["messages"]
    assert (system["role"], last["role"]) == ("system", "user")
    assert [turn["role"] for turn in turns] == ["user", "assistant"]
    assert turns[0]["content"] == earlier
    assert "<|im_end|>" not in turns[1]["content"]
    assert last["content"].startswith(f'[1] Warranty\n"""\n{PASSAGE["text"]}\n"""')
    assert last["content"].endswith(Q)
    assert prompt["model"] == "gpt"
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 32}
    assert not {"prompt", "top_k"} & prompt.keys()  # OpenAI's API has no top_k


async def test_answers_of_a_real_openai_server(service: Running, llama_cpp: LlamaCpp) -> None:
    settings = {"PREDICTOR_LAYOUT": "openai_chat", "PROMPT_FORMAT": "", "CONTEXT_TOKENS": "1024"}
    body = {"text_input": "What is the capital of France?", "retrieval": False, "max_tokens": 8, "temperature": 0}
    with transformer(service.upstreams.url, llama_cpp.url, **settings) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            assert (await client.get("/v1/models/rag")).json()["ready"] is True
            whole = (await client.post(GENERATE, json=body)).json()
            start, *pieces, end = events_of(await client.post(STREAM, json=body))
    for answer in (whole, end):
        assert answer["finish_reason"] in ("stop", "length")
        assert answer["usage"]["prompt_tokens"] > 0
        assert 0 < answer["usage"]["completion_tokens"] <= 8
    assert whole["usage"]["prompt_tokens"] == end["usage"]["prompt_tokens"]
    assert whole["text_output"]
    assert start["sources"] == []
    assert "".join(piece["text_output"] for piece in pieces)


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "APPLICATION/JSON"])
@pytest.mark.parametrize("path", [GENERATE, STREAM, V1, CHAT])
async def test_json_is_read_with_any_content_type(service: Running, path: str, content_type: str) -> None:
    body = json.dumps(BODIES[path], ensure_ascii=False)
    answer = await service.client.post(path, content=body, headers={"content-type": content_type})
    assert answer.status_code == 200
    assert WORDS[0].strip() in answer.text
