"""The fields of an answer on every route, and its citations."""

from __future__ import annotations

import json

from tests.transformer.running import BODIES, CHAT, GENERATE, STREAM, V1, Q, Running, events_of
from transformer.wire import NOT_TENSORS, OUTPUT_TENSORS, OutcomeFields, RetrievalFields, SourceFields


async def test_citations_on_every_route(service: Running) -> None:
    upstreams = service.upstreams
    upstreams.words = ("The warranty", " lasts three", " years [4].", " Bananas are", " yellow [1].")
    whole = (await service.client.post(GENERATE, json={"text_input": Q})).json()
    stream = events_of(await service.client.post(STREAM, json={"text_input": Q}))
    v1 = (await service.client.post(V1, json=BODIES[V1])).json()["predictions"][0]
    chat = (await service.client.post(CHAT, json=BODIES[CHAT])).json()
    chunks = events_of(await service.client.post(CHAT, json={**BODIES[CHAT], "stream": True}))
    inputs = [{"name": "input", "datatype": "BYTES", "shape": [1, 1], "data": [Q]}]
    v2 = (await service.client.post("/v2/models/rag/infer", json={"inputs": inputs})).json()
    off = {"name": "citations", "datatype": "BYTES", "shape": [1, 1], "data": ["off"]}
    unchecked = (await service.client.post("/v2/models/rag/infer", json={"inputs": [*inputs, off]})).json()
    refused = await service.client.post(GENERATE, json={"text_input": Q, "citations": "maybe"})
    plain = (await service.client.post(GENERATE, json={"text_input": Q, "citations": "off"})).json()
    citations = whole["citations"]
    assert whole["text_output"] == citations["text"] == "The warranty lasts three years [1]. Bananas are yellow."
    assert [statement["verdict"] for statement in citations["statements"]] == ["supported", "unsupported"]
    (quote,) = citations["statements"][0]["quotes"]
    assert upstreams.documents["d"][quote["span"]["start"] : quote["span"]["end"]] == quote["text"]
    assert citations["markers"] == {"kept": 0, "mended": 1, "dropped": 1}
    assert whole["timings"]["citations"] >= 0
    # A stream sends the model's own text; its last event has the checked answer.
    assert "".join(event.get("text_output", "") for event in stream[1:-1]) == "".join(
        ("The warranty", " lasts three", " years [4].", " Bananas are", " yellow [1].")
    )
    assert "citations" not in stream[0]
    assert stream[-1]["citations"] == v1["citations"] == chat["citations"] == chunks[-1]["citations"] == citations
    assert chat["choices"][0]["message"]["content"] == v1["text_output"] == citations["text"]
    tensors = {tensor["name"]: tensor["data"][0] for tensor in v2["outputs"]}
    assert json.loads(tensors["citations"]) == citations
    tensors = {tensor["name"]: tensor["data"][0] for tensor in unchecked["outputs"]}
    assert tensors["citations"] == "null"
    assert tensors["text_output"].endswith("yellow [1].")
    assert (refused.status_code, refused.json()["field"]) == (400, "citations")
    assert plain["citations"] is None


async def test_every_protocol_carries_every_field_of_an_answer(service: Running) -> None:
    start, end = SourceFields.model_fields | RetrievalFields.model_fields, OutcomeFields.model_fields
    fields = start | end
    client = service.client
    assert fields.keys() <= (await client.post(GENERATE, json=BODIES[GENERATE])).json().keys()
    assert fields.keys() <= (await client.post(V1, json=BODIES[V1])).json()["predictions"][0].keys()
    assert fields.keys() <= (await client.post(CHAT, json=BODIES[CHAT])).json().keys()
    for stream in (
        await client.post(STREAM, json=BODIES[STREAM]),
        await client.post(CHAT, json={**BODIES[CHAT], "stream": True}),
    ):
        first, *_, last = events_of(stream)
        assert start.keys() <= first.keys()
        assert end.keys() <= last.keys()
        assert {"sources", "timings"} <= last.keys()
    inputs = [{"name": "input", "datatype": "BYTES", "shape": [1, 1], "data": [Q]}]
    v2 = (await client.post("/v2/models/rag/infer", json={"inputs": inputs})).json()["outputs"]
    assert [tensor["name"] for tensor in v2] == list(OUTPUT_TENSORS)
    assert fields.keys() <= OUTPUT_TENSORS.keys() | NOT_TENSORS
