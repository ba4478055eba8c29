"""The embedder's own wire on a real Triton, spoken by clients that are not ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
import tritonclient.http

URL = "/v2/models/minilm"


@pytest_asyncio.fixture
async def http(embedder_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=embedder_url, timeout=60) as http:
        yield http


def _body(*texts: Any, input_types: list[str] | None = None, outputs: list[str] | None = None) -> dict[str, Any]:
    shape = [len(texts), 1]
    inputs = [{"name": "text_input", "shape": shape, "datatype": "BYTES", "data": list(texts)}]
    if input_types is not None:
        inputs.append({"name": "input_type", "shape": shape, "datatype": "BYTES", "data": input_types})
    return {"inputs": inputs, **({"outputs": [{"name": name} for name in outputs]} if outputs else {})}


async def _embed(http: httpx.AsyncClient, *texts: str, **options: Any) -> np.ndarray[Any, np.dtype[Any]]:
    response = await http.post(f"{URL}/infer", json=_body(*texts, outputs=["embeddings"], **options))
    assert response.status_code == 200, response.text
    (output,) = response.json()["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def test_tritonclient_gets_every_output(embedder_url: str) -> None:
    client = tritonclient.http.InferenceServerClient(embedder_url.removeprefix("http://"))
    texts = tritonclient.http.InferInput("text_input", [2, 1], "BYTES")
    texts.set_data_from_numpy(np.array([["one"], ["two ☃"]], np.object_))
    answer = client.infer("minilm", [texts])
    client.close()
    assert answer.as_numpy("embeddings").shape == (2, 384)
    assert answer.as_numpy("embeddings").dtype == np.float32
    assert answer.as_numpy("token_count").dtype == np.int32
    assert answer.as_numpy("token_count").tolist() == [[3], [4]]
    assert answer.as_numpy("truncated").dtype == np.bool_
    assert answer.as_numpy("truncated").tolist() == [[False], [False]]
    assert answer.as_numpy("fingerprint").shape == (2, 1)


async def test_input_type_may_be_left_out(http: httpx.AsyncClient) -> None:
    plain = await _embed(http, "one", "two")
    named = await _embed(http, "one", "two", input_types=["query", "passage"])
    np.testing.assert_allclose(plain, named, atol=1e-6)  # minilm has no prefixes


async def test_generate_answers_one_text(http: httpx.AsyncClient) -> None:
    response = await http.post(f"{URL}/generate", json={"text_input": "What is a chunk?"})
    assert response.status_code == 200, response.text
    np.testing.assert_allclose(response.json()["embeddings"], (await _embed(http, "What is a chunk?"))[0], atol=1e-6)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (_body("a", input_types=["question"]), "input_type[0] is 'question'"),
        (_body("a", "b", input_types=["query", ""]), "input_type[1] is ''"),
        (_body("a", outputs=["sparse_indices"]), "sparse_indices"),
        (_body(*["a"] * 33), "32"),
        ({"inputs": []}, "text_input"),
        ({"inputs": [{"name": "text_input", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}, "text_input"),
        ({"inputs": [{"name": "text_input", "shape": [1, 2], "datatype": "BYTES", "data": ["a", "b"]}]}, "text_input"),
        ({"inputs": [{"name": "text_input", "shape": [1, 1], "datatype": "FP32", "data": [1.5]}]}, "text_input"),
    ],
)
async def test_a_bad_request_gets_an_error_and_a_usable_connection(
    http: httpx.AsyncClient, body: dict[str, Any], said: str
) -> None:
    response = await http.post(f"{URL}/infer", json=body)
    assert response.status_code == 400
    assert said in response.json()["error"]
    assert (await _embed(http, "still there")).shape == (1, 384)


def _binary(*texts: bytes) -> tuple[bytes, dict[str, str]]:
    data = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    header = json.dumps(
        {
            "inputs": [
                {
                    "name": "text_input",
                    "shape": [len(texts), 1],
                    "datatype": "BYTES",
                    "parameters": {"binary_data_size": len(data)},
                }
            ],
            "outputs": [{"name": "embeddings"}],
        }
    ).encode()
    return header + data, {"Inference-Header-Content-Length": str(len(header))}


async def test_invalid_utf8_fails_only_its_own_request(http: httpx.AsyncClient) -> None:
    async def send(number: int) -> httpx.Response:
        text = b"broken \xff" if number % 4 == 0 else f"text {number}".encode()
        content, headers = _binary(b"first", text)
        return await http.post(f"{URL}/infer", content=content, headers=headers)

    alone = {number: await _embed(http, "first", f"text {number}") for number in range(32) if number % 4}
    for number, response in enumerate(await asyncio.gather(*(send(number) for number in range(32)))):
        if number % 4 == 0:
            assert response.status_code == 400
            assert response.json()["error"] == "text_input[1] is not UTF-8: byte 7 cannot be read."
        else:
            (output,) = response.json()["outputs"]
            np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), alone[number], atol=1e-5)


async def test_a_string_that_ends_early_is_refused(http: httpx.AsyncClient) -> None:
    content, headers = _binary(b"whole")
    response = await http.post(f"{URL}/infer", content=content[:-2], headers=headers)
    assert response.status_code == 400
    assert (await _embed(http, "still there")).shape == (1, 384)
