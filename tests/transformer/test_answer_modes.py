"""The answer modes `quote`, `write` and `auto` on every route, over an LLM that writes from a script."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from grpc import aio
from kserve import InferOutput, InferResponse
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferRequest
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from tests.fakes.upstreams import PASSAGE
from tests.processes import until
from tests.transformer.running import BODIES, CHAT, GENERATE, STREAM, V1, Q, Running, between, events_of

QUOTE = str(PASSAGE["text"])
SUPPORTED = "The warranty is three years long."
UNSUPPORTED = "Bananas are yellow."
REMOVAL = "The removal is not the same. "
V2 = "/v2/models/rag/infer"


def script(service: Running, text: str) -> None:
    """The LLM writes this text, word by word."""
    service.upstreams.words = tuple(re.findall(r"\s*\S+", text))


def tensors(**parameters: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "datatype": "BYTES", "shape": [1, 1], "data": [value]}
        for name, value in {"input": Q, **parameters}.items()
    ]


async def everywhere(service: Running, mode: str) -> list[dict[str, Any]]:
    """The answer to one question on every route, in the fields that all have; streams as their readers see them."""
    client, answers = service.client, []
    whole = (await client.post(GENERATE, json={**BODIES[GENERATE], "answers": mode})).json()
    v1 = (await client.post(V1, json={"instances": [{"input": Q, "answers": mode}]})).json()["predictions"][0]
    answers += [whole, v1]
    chat = (await client.post(CHAT, json={**BODIES[CHAT], "answers": mode})).json()
    answers.append({**chat, **_choice(chat["choices"][0]), "text_output": chat["choices"][0]["message"]["content"]})
    first, *texts, last = events_of(await client.post(STREAM, json={**BODIES[STREAM], "answers": mode}))
    assert first["sources"]
    answers.append({**last, "text_output": "".join(event["text_output"] for event in texts)})
    chunks = events_of(await client.post(CHAT, json={**BODIES[CHAT], "answers": mode, "stream": True}))
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    answers.append({**chunks[-1], **_choice(chunks[-1]["choices"][0]), "text_output": text})
    v2 = (await client.post(V2, json={"inputs": tensors(answers=mode)})).json()
    answers.append({tensor["name"]: tensor["data"][0] for tensor in v2["outputs"]})
    request = ModelInferRequest(model_name="rag")
    request.inputs.add(name="input", datatype="BYTES", shape=[1, 1]).contents.bytes_contents.append(Q.encode())
    request.parameters["answers"].string_param = mode
    async with aio.insecure_channel(service.grpc) as channel:
        answered = await GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
    answers.append({tensor.name: _value(tensor) for tensor in InferResponse.from_grpc(answered).outputs})
    names = ("text_output", "answered_by", "finish_reason", "refused", "citations")
    for answer in answers:
        answer["answered_by"] = answer["answered_by"] or None
        if isinstance(answer["citations"], str):
            answer["citations"] = json.loads(answer["citations"])
    return [{name: answer[name] for name in names} for answer in answers]


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    return {"finish_reason": choice["finish_reason"]}


def _value(tensor: InferOutput) -> Any:
    value = tensor.as_numpy().item()
    return value.decode() if isinstance(value, bytes) else value


async def one(service: Running, mode: str) -> dict[str, Any]:
    """The answer, which is the same on every route."""
    answers = await everywhere(service, mode)
    assert all(answer == answers[0] for answer in answers)
    return answers[0]


async def test_a_quote_takes_no_llm(service: Running) -> None:
    answer = await one(service, "quote")
    assert (answer["text_output"], answer["answered_by"], answer["finish_reason"]) == (QUOTE, "quote", "stop")
    citations = answer["citations"]
    assert (citations["kind"], citations["withheld"]) == ("quote", [])
    (statement,) = citations["statements"]
    (quote,) = statement["quotes"]
    assert (statement["verdict"], quote["text"]) == ("supported", QUOTE)
    assert service.upstreams.documents["d"][quote["span"]["start"] : quote["span"]["end"]] == QUOTE
    assert {name for name, _, _ in service.upstreams.seen} == {"vectorstore"}
    usage = (await service.client.post(GENERATE, json={"text_input": Q, "answers": "quote"})).json()["usage"]
    assert usage == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0, "prompt_tokens_details": None}


async def test_auto_shows_the_supported_sentences(service: Running) -> None:
    script(service, f"{SUPPORTED} {UNSUPPORTED}")
    answer = await one(service, "auto")
    assert (answer["text_output"], answer["answered_by"], answer["finish_reason"]) == (SUPPORTED, "llm", "stop")
    assert answer["citations"]["text"] == SUPPORTED
    (withheld,) = answer["citations"]["withheld"]
    assert withheld == {"text": UNSUPPORTED, "verdict": "unsupported", "reason": "unsupported"}


@pytest.mark.parametrize("text", [UNSUPPORTED, REMOVAL * 19, "I don't know.", "Yes.", ""])
async def test_auto_quotes_where_nothing_is_supported(service: Running, text: str) -> None:
    script(service, text)
    answer = (await service.client.post(GENERATE, json={"text_input": Q, "answers": "auto"})).json()
    assert (answer["text_output"], answer["answered_by"]) == (QUOTE, "quote")
    shown = " ".join(sentence["text"] for sentence in answer["citations"]["withheld"])
    assert shown.startswith(text.split(".")[0])


async def test_write_shows_everything_and_labels_it(service: Running) -> None:
    script(service, f"{SUPPORTED} {UNSUPPORTED}")
    answer = await one(service, "write")
    assert (answer["text_output"], answer["answered_by"]) == (f"{SUPPORTED} {UNSUPPORTED}", "llm")
    assert [one["verdict"] for one in answer["citations"]["statements"]] == ["supported", "unsupported"]
    assert answer["citations"]["withheld"] == []


@pytest.mark.parametrize(("mode", "shown"), [("write", f"{SUPPORTED} {REMOVAL}"), ("auto", SUPPORTED)])
async def test_a_loop_is_cancelled_and_not_shown(service: Running, mode: str, shown: str) -> None:
    script(service, f"{SUPPORTED} {REMOVAL * 50}")
    answer = await one(service, mode)
    assert (answer["text_output"].strip(), answer["answered_by"]) == (shown.strip(), "llm")
    assert answer["finish_reason"] == "repetition"
    service.upstreams.left.clear()
    script(service, f"{SUPPORTED} {REMOVAL * 5000}")
    await service.client.post(GENERATE, json={"text_input": Q, "answers": mode})
    until(service.upstreams.left.is_set)


async def test_without_documents_the_llm_writes(service: Running) -> None:
    script(service, UNSUPPORTED)
    for parameters in ({"retrieval": False}, {"num_docs": 0}, {"context": "Bananas are green."}):
        for mode in ("quote", "auto"):
            body = {"text_input": Q, "answers": mode, **parameters}
            answer = (await service.client.post(GENERATE, json=body)).json()
            assert (answer["text_output"], answer["answered_by"]) == (UNSUPPORTED, "llm")


async def test_unchecked_answers_are_not_gated(service: Running) -> None:
    script(service, UNSUPPORTED)
    body = {"text_input": Q, "answers": "auto", "citations": "off"}
    answer = (await service.client.post(GENERATE, json=body)).json()
    assert (answer["text_output"], answer["citations"]) == (UNSUPPORTED, None)


async def test_refusals_and_retrieval_alone_have_no_author(service: Running) -> None:
    for parameters in ({"min_score": 1}, {"max_tokens": 0}):
        for mode in ("quote", "auto", "write"):
            body = {"text_input": Q, "answers": mode, **parameters}
            answer = (await service.client.post(GENERATE, json=body)).json()
            assert answer["answered_by"] is None
            assert [name for name, _, _ in service.upstreams.seen] == ["vectorstore"]
            service.upstreams.seen.clear()


@pytest.mark.parametrize("path", [GENERATE, STREAM, V1, CHAT, V2])
async def test_an_unknown_mode_is_an_error_that_names_the_choices(service: Running, path: str) -> None:
    body = {**BODIES, V1: {"instances": [{"input": Q, "answers": "guess"}]}, V2: {"inputs": tensors(answers="guess")}}
    sent = body[path] if path in (V1, V2) else {**body[path], "answers": "guess"}
    response = await service.client.post(path, json=sent)
    assert response.status_code == 400
    for part in ("answers", "quote", "write", "auto"):
        assert part in response.text


async def test_the_mode_and_the_defaults_are_settings(service: Running) -> None:
    script(service, UNSUPPORTED)
    settings = {"ANSWERS": "auto", "MAX_TOKENS": "99", "TEMPERATURE": "0.7", "TOP_P": "0.8"}
    async with between(service.upstreams, **settings) as client:
        answer = (await client.post(GENERATE, json={"text_input": Q})).json()
        (card,) = (await client.get("/openai/v1/models")).json()["data"]
        await client.post(GENERATE, json={"text_input": Q, "max_tokens": 5, "temperature": 0, "answers": "write"})
    assert answer["answered_by"] == "quote"
    assert card["defaults"] == {
        "answers": "auto",
        "num_docs": 2,
        "max_tokens": 99,
        "temperature": 0.7,
        "top_k": 4,
        "top_p": 0.8,
        "repetition_penalty": None,
        "presence_penalty": None,
        "frequency_penalty": None,
    }
    first, second = (body for name, _, body in service.upstreams.seen if name == "predictor")
    names = ("max_tokens", "temperature", "top_p")
    assert [first[f"sampling_param_{name}"] for name in names] == [99, 0.7, 0.8]
    assert second["sampling_param_max_tokens"] == 5


async def test_the_earlier_graphs_routes_keep_their_defaults(service: Running) -> None:
    script(service, UNSUPPORTED)
    async with between(service.upstreams, RESPONSE_SHAPE="ensemble", ANSWERS="quote", MODEL_NAME="ensemble") as client:
        answer = (await client.post("/v1/models/ensemble:predict", json=BODIES[V1])).json()
    assert answer["outputs"][2]["data"][0].endswith(UNSUPPORTED)
    *_, (_, _, generated) = service.upstreams.seen
    assert generated["sampling_param_max_tokens"] == 100
    assert (generated["sampling_param_top_k"], generated["sampling_param_top_p"]) == (4, 0.4)
