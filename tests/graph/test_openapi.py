"""The OpenAPI documents of the services, compared with their real requests and responses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from jsonschema import Draft202012Validator

if TYPE_CHECKING:
    from tests.conftest import RunningGraph

QUESTION = "How long is the warranty?"


class Told:
    """A service's description."""

    def __init__(self, url: str) -> None:
        self.document: dict[str, Any] = httpx.get(f"{url}/openapi.json", timeout=60).raise_for_status().json()
        schemas = self.document["components"]["schemas"]
        self.closed = {
            name: schema if "properties" not in schema else {"additionalProperties": False, **schema}
            for name, schema in schemas.items()
        }

    def check(self, value: Any, schema: dict[str, Any]) -> None:
        """Raises if the value does not match the schema, or has undocumented fields."""
        whole = {**schema, "components": {"schemas": self.closed}}
        Draft202012Validator(whole).validate(value)

    def response(self, response: httpx.Response, method: str, path: str) -> None:
        """Checks a response against the documentation of its status."""
        told = self.document["paths"][path][method]["responses"][str(response.status_code)]
        kind = response.headers["content-type"].split(";")[0]
        schema = told["content"][kind]["schema"]
        if kind == "application/json":
            self.check(response.json(), schema)
            return
        lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
        events = [json.loads(line) for line in lines if line != "[DONE]"]
        assert events
        for event in events:
            self.check(event, schema)


@pytest.fixture(scope="module")
def told(graph: RunningGraph) -> Told:
    return Told(graph.transformer)


@pytest.mark.parametrize("service", ["transformer", "vectorstore"])
def test_every_route_is_fully_described(graph: RunningGraph, service: str) -> None:
    told = Told(getattr(graph, service))
    document = told.document
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    tags = {tag["name"] for tag in document["tags"]}
    text = json.dumps(document)
    assert "$defs" not in text
    for name in {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}:
        assert name in schemas
    identifiers = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            assert set(operation["tags"]) <= tags, where
            assert operation["responses"]["200"]["content"], where
            assert all(parameter["description"] for parameter in operation.get("parameters", ())), where
            identifiers.append(operation["operationId"])
            if method == "post":
                body = operation["requestBody"]["content"]["application/json"]
                told.check(body["example"], body["schema"])
                response = httpx.post(
                    getattr(graph, service) + path.format(model_name="rag" if service == "transformer" else service),
                    json=body["example"],
                    timeout=60,
                )
                assert response.status_code == 200, response.text
                told.response(response, method, path)
    assert len(set(identifiers)) == len(identifiers)


def test_responses_match_the_description(told: Told, rag: httpx.Client) -> None:
    messages = [{"role": "user", "content": QUESTION}]
    body: dict[str, Any]
    for path, body in (
        ("/v1/chat/completions", {"model": "rag", "messages": messages, "stream": True, "max_tokens": 5}),
        (
            "/openai/v1/chat/completions",
            {
                "model": "rag",
                "messages": messages,
                "stream": True,
                "stream_options": {"include_usage": True},
                "max_tokens": 5,
            },
        ),
        ("/v1/completions", {"model": "rag", "prompt": QUESTION, "stream": True, "max_tokens": 5}),
        ("/v1/responses", {"model": "rag", "input": QUESTION, "stream": True, "max_output_tokens": 5}),
        ("/openai/v1/chat/completions", {"model": "rag", "messages": messages, "n": 2}),
        ("/openai/v1/chat/completions", {"model": "else", "messages": messages}),
        ("/v2/models/{model_name}/generate", {"text_input": "Who painted the Mona Lisa?"}),
        ("/v2/models/{model_name}/generate", {"text_input": QUESTION, "top_p": 2}),
        ("/v1/models/{model_name}:predict", {"instances": [{"input": QUESTION, "collections": ["else"]}]}),
    ):
        told.response(rag.post(path.format(model_name="rag"), json=body), "post", path)
    document_id = rag.post("/v2/models/rag/generate", json={"text_input": QUESTION, "max_tokens": 0}).json()["sources"][
        0
    ]["document_id"]
    for path in (
        "/v1/indexes",
        "/v1/documents/{document_id}",
        "/v1/models",
        "/v1/models/{model_name}",
        "/v2/models/{model_name}",
        "/v2/models/{model_name}/ready",
        "/openai/v1/models",
        "/openai/v1/models/{model_name}",
        "/v2/health/ready",
    ):
        told.response(rag.get(path.format(model_name="rag", document_id=document_id)), "get", path)
    told.response(rag.get("/v1/documents/nope"), "get", "/v1/documents/{document_id}")
