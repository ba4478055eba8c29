"""Conversations on every route of the running transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from grpc import aio
from kserve import InferResponse
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferRequest
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from tests.fakes.upstreams import PASSAGE
from tests.transformer.running import CHAT, GENERATE, STREAM, V1, Q, Running, events_of
from transformer.wire import MAX_TURNS_CHARS

INFER = "/v2/models/rag/infer"
FOLLOW_UP = "How many years does the warranty last?"


def body(route: str, question: str, turns: str | None) -> dict[str, Any]:
    more = {} if turns is None else {"turns": turns}
    if route == V1:
        return {"instances": [{"input": question, **more}]}
    if route == INFER:
        texts = {"input": question, **more}
        inputs = [{"name": n, "datatype": "BYTES", "shape": [1, 1], "data": [text]} for n, text in texts.items()]
        return {"inputs": inputs}
    if route in (GENERATE, STREAM):
        return {"text_input": question, **more}
    message = {"role": "user", "content": question}
    return {"model": "rag", "messages": [message], "stream": route == "stream", **more}


async def ask(service: Running, route: str, question: str, turns: str | None = None) -> httpx.Response:
    path = CHAT if route == "stream" else route
    return await service.client.post(path, json=body(route, question, turns))


def turns_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    if response.headers["content-type"].startswith("text/event-stream"):
        return str(events_of(response)[-1]["turns"])
    content = response.json()
    for prediction in content.get("predictions", ()):
        content = prediction
    for tensor in content.get("outputs", ()):
        if tensor["name"] == "turns":
            return str(tensor["data"][0])
    return str(content["turns"])


def prompts(service: Running) -> list[str]:
    return [sent["text_input"] for room, _, sent in service.upstreams.seen if room == "predictor"]


@pytest.mark.parametrize("route", [GENERATE, STREAM, V1, INFER, CHAT, "stream"])
async def test_turns_continue_a_conversation(service: Running, route: str) -> None:
    turns = turns_of(await ask(service, route, Q))
    turns_of(await ask(service, route, FOLLOW_UP, turns))
    first, second = prompts(service)
    assert second.startswith(first)
    assert second.count(PASSAGE["text"]) == 2, "the passage and the answer"
    (_, _, search) = next(seen for seen in reversed(service.upstreams.seen) if seen[0] == "vectorstore")
    assert search["instances"][0]["input"] == f"{Q}\n{FOLLOW_UP}"
    (path, _) = service.upstreams.browsed[-1]
    assert path == "/v1/documents/d?version=v1"
    for wrong in ("forged", turns[:-4] + "AAA=", "x" * (MAX_TURNS_CHARS + 1)):
        refused = await ask(service, route, FOLLOW_UP, wrong)
        error = refused.json()["error"]
        field = error["param"] if isinstance(error, dict) else refused.json()["field"]
        assert refused.status_code == 400
        assert str(field).endswith("turns")


async def test_turns_over_grpc(service: Running) -> None:
    async def infer(question: str, turns: bytes = b"") -> Mapping[str, Any]:
        request = ModelInferRequest(model_name="rag")
        for name, text in (("input", question.encode()), ("turns", turns)):
            tensor = request.inputs.add(name=name, datatype="BYTES", shape=[1, 1])
            tensor.contents.bytes_contents.append(text)
        answer = await GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=30)
        return {tensor.name: tensor.as_numpy()[0, 0] for tensor in InferResponse.from_grpc(answer).outputs}

    async with aio.insecure_channel(service.grpc) as channel:
        turns = (await infer(Q))["turns"]
        replayed = (await infer(FOLLOW_UP, turns))["replayed"]
    assert replayed == b'{"turns":1,"left_out":0,"incomplete":0}'
    first, second = prompts(service)
    assert second.startswith(first)


async def test_messages_alone_continue_a_conversation_of_the_same_caller(service: Running) -> None:
    messages = [{"role": "user", "content": Q}]
    alice, bob = {"authorization": "Bearer alice"}, {"authorization": "Bearer bob"}
    said = (await service.client.post(CHAT, json={"model": "rag", "messages": messages}, headers=alice)).json()
    messages += [said["choices"][0]["message"], {"role": "user", "content": FOLLOW_UP}]
    replayed = {}
    for name, caller in (("alice", alice), ("bob", bob)):
        answer = await service.client.post(CHAT, json={"model": "rag", "messages": messages}, headers=caller)
        replayed[name] = answer.json()["replayed"]
    assert replayed["alice"] == {"turns": 1, "left_out": 0, "incomplete": 0}
    assert replayed["bob"] == {"turns": 1, "left_out": 0, "incomplete": 1}
    first, continued, apart = prompts(service)
    assert continued.startswith(first)
    assert not apart.startswith(first)


async def test_passages_of_a_version_that_is_gone_are_left_out_and_reported(service: Running) -> None:
    first = (await service.client.post(GENERATE, json={"text_input": Q})).json()
    service.upstreams.version = "v2"
    body = {"text_input": FOLLOW_UP, "turns": first["turns"]}
    answer = (await service.client.post(GENERATE, json=body)).json()
    assert answer["replayed"] == {"turns": 1, "left_out": 0, "incomplete": 1}
    assert [(source["number"], source["index_version"]) for source in answer["sources"]] == [(2, "v2")]
    third = (await service.client.post(GENERATE, json={"text_input": Q, "turns": answer["turns"]})).json()
    assert third["replayed"] == {"turns": 2, "left_out": 0, "incomplete": 1}


async def test_a_question_without_documents_gets_none_of_earlier_turns(service: Running) -> None:
    first = (await service.client.post(GENERATE, json={"text_input": Q})).json()
    plain = {"text_input": FOLLOW_UP, "turns": first["turns"], "retrieval": False}
    second = (await service.client.post(GENERATE, json=plain)).json()
    assert second["replayed"] == {"turns": 1, "left_out": 0, "incomplete": 1}
    assert '"""' not in prompts(service)[1]
    third = (await service.client.post(GENERATE, json={"text_input": Q, "turns": second["turns"]})).json()
    assert third["replayed"] == {"turns": 2, "left_out": 0, "incomplete": 0}
    assert prompts(service)[2].startswith(prompts(service)[0])
