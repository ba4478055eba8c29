"""Requests of the earlier graph's notebooks and page, byte for byte what they send, to services set as the component
`earlier-graph` sets them, over the real graph."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import tritonclient.http

from tests.processes import free_ports, program

if TYPE_CHECKING:
    from tests.conftest import RunningGraph

ROOT = Path(__file__).parents[2]
QUESTION = "How often are records sent?"
V1, V2 = "/v1/models/ensemble:predict", "/v2/models/ensemble/infer"
ORDER = ["cum_log_probs", "output_log_probs", "text_output"]


@dataclass
class Earlier:
    front: httpx.Client
    vectorstore: httpx.Client


@contextlib.contextmanager
def running(room: str, variables: dict[str, str], *arguments: str) -> Iterator[httpx.Client]:
    (port,) = free_ports(1)
    own = {"HOST": "127.0.0.1", "HTTP_PORT": str(port), "ENABLE_GRPC": "false", **variables}
    environment = {**os.environ, **{f"{room.upper()}_{name}": value for name, value in own.items()}}
    url = f"http://127.0.0.1:{port}"
    with (
        program([sys.executable, "-m", room, *arguments], f"{url}/v2/health/ready", environment),
        httpx.Client(base_url=url, timeout=60, headers={"Authorization": "Bearer a.jwt"}) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def earlier(graph: RunningGraph) -> Iterator[Earlier]:
    state = graph.state
    vectorstore = {
        "RESPONSE_SHAPE": "strings",
        "INDEX_ROOT": str(state.index_root),
        "INDEX_NAME": state.index_name,
        "EMBEDDER_URL": graph.embedder,
        "EMBEDDER_MODEL": state.services["embedder"].model,
    }
    with running("vectorstore", vectorstore) as passages:
        transformer = {
            "RESPONSE_SHAPE": "ensemble",
            "VECTORSTORE_URL": str(passages.base_url),
            "PREDICTOR_URL": graph.predictor,
            "PREDICTOR_LAYOUT": "llmapi",
            "PROMPT_FORMAT": _tokenizer(),
            "FREQUENCY_PENALTY": "0.2",
        }
        with running("transformer", transformer, "--model_name=ensemble") as front:
            yield Earlier(front, passages)


def _tokenizer() -> str:
    from kserve_rag.models.store import ModelStore
    from kserve_rag.settings import Settings

    return str(ModelStore(Settings().models).materialise("smollm2-135m", "llm").path)


def shown(answer: dict[str, Any]) -> str:
    """The text of an answer as the earlier page shows it."""
    text = str(answer["outputs"][2]["data"][0])
    marked = "[INST]" in text and "[/INST]" in text
    cut = text.split("[INST]", 1)[1].split("[/INST]", 1)[0] if marked else text
    return text.replace(cut, "").replace("[INST]", "").replace("[/INST]", "").strip()


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"max_tokens": 90, "top_k": 40, "top_p": 0.4, "num_docs": 1, "temperature": 0.1},
        {"max_tokens": 100, "top_k": 40, "top_p": 0.4, "num_docs": 4, "temperature": 0.1},
        {"max_tokens": 100, "top_k": 40, "top_p": 0.4, "num_docs": 4, "temperature": 0.2, "context": " "},
        {"max_tokens": 10, "top_k": 5, "top_p": 0.1, "num_docs": 1, "temperature": 0.0},
    ],
)
def test_v1_front(earlier: Earlier, parameters: dict[str, Any]) -> None:
    answer = earlier.front.post(V1, json={"instances": [{"input": QUESTION, **parameters}]}).raise_for_status().json()
    assert answer["model_name"] == "ensemble"
    assert [output["name"] for output in answer["outputs"]] == ORDER
    assert [output["datatype"] for output in answer["outputs"]] == ["FP32", "FP32", "BYTES"]
    assert [output["data"] for output in answer["outputs"][:2]] == [[0.0], [0.0]]
    assert shown(answer)


def test_the_page_shows_what_the_answer_says(earlier: Earlier, rag: httpx.Client) -> None:
    instance = {"input": QUESTION, "temperature": 0, "max_tokens": 30, "num_docs": 2}
    ours = rag.post("/v1/models/rag:predict", json={"instances": [instance]}).json()["predictions"][0]["text_output"]
    assert shown(earlier.front.post(V1, json={"instances": [instance]}).json()) == ours.strip()


def test_v1_vectorstore(earlier: Earlier) -> None:
    body = {"instances": [{"input": QUESTION, "num_docs": 2}]}
    predictions = earlier.vectorstore.post("/v1/models/vectorstore:predict", json=body).json()["predictions"]
    assert len(predictions) == 2
    assert all(isinstance(text, str) and text for text in predictions)
    assert earlier.vectorstore.get("/v1/models").status_code == 200
    assert earlier.vectorstore.get("/v1/models/vectorstore").status_code == 200


def tensors(prompt: str, **more: Any) -> dict[str, Any]:
    """The tensors that the earlier transformer sends to its LLM."""
    datatypes = {"max_tokens": "INT32", "top_k": "INT32", "top_p": "FP32", "temperature": "FP32"}
    values = {"max_tokens": 12, "top_k": 4, "top_p": 0.4, "temperature": 0.1}
    inputs = [{"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "data": [prompt]}]
    inputs += [{"name": n, "datatype": datatypes[n], "shape": [1, 1], "data": [values[n]]} for n in values]
    return {"inputs": inputs, **more}


def test_v2_ensemble(earlier: Earlier) -> None:
    prompt = "[INST] Count on. [/INST] 1, 2, 3, 4, 5,"
    answer = earlier.front.post(V2, json=tensors(prompt)).raise_for_status().json()
    assert answer["model_name"] == "ensemble"
    assert [output["name"] for output in answer["outputs"]] == ORDER
    shapes = [output["shape"] for output in answer["outputs"]]
    assert shapes == [[1, 1], [1, 1, 1], [1, 1]]
    (text,) = answer["outputs"][2]["data"]
    assert text.startswith(prompt), "as the engine echoes it"
    assert len(text) > len(prompt)
    assert shown(answer) == text.removeprefix("[INST] Count on. [/INST] ").strip()


def test_v2_ensemble_accepts_further_inputs(earlier: Earlier, graph: RunningGraph) -> None:
    """Several prompts, log-probabilities, no echo; as tensors in binary, by Triton's own client."""
    client = tritonclient.http.InferenceServerClient(str(earlier.front.base_url).removeprefix("http://"))
    columns = {
        "text_input": (["1, 2, 3, 4, 5, 6,", "a b c d e f g"], np.object_, "BYTES"),
        "max_tokens": ([8, 4], np.int32, "INT32"),
        "top_k": ([1, 1], np.int32, "INT32"),
        "stop_words": ([",", " h"], np.object_, "BYTES"),
        "return_log_probs": ([True, True], np.bool_, "BOOL"),
        "exclude_input_in_output": ([True, False], np.bool_, "BOOL"),
    }
    inputs = []
    for name, (values, kind, datatype) in columns.items():
        array = np.array(values, kind).reshape(2, 1)
        inputs.append(tritonclient.http.InferInput(name, [2, 1], datatype))
        inputs[-1].set_data_from_numpy(array)
    answer = client.infer("ensemble", inputs)
    first, second = answer.as_numpy("text_output").ravel().tolist()
    client.close()
    assert b"," not in first
    assert second.startswith(b"a b c d e f g")
    assert (answer.as_numpy("cum_log_probs") < 0).all()
    assert answer.as_numpy("output_log_probs").shape == (2, 1, 1)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"inputs": tensors("")["inputs"][:1]}, "max_tokens: is missing"),
        (tensors(""), "prompt is empty"),
        (tensors("x", outputs=[{"name": "tokens"}]), "unknown tensor 'tokens'"),
        ({"inputs": [*tensors("x")["inputs"], {"name": "beam_width", "datatype": "INT32", "shape": [1, 1],
                                               "data": [2]}]}, "unknown tensor 'beam_width'"),
        ({"inputs": [*tensors("x")["inputs"], {"name": "random_seed", "datatype": "INT64", "shape": [1, 1],
                                               "data": [-1]}]}, "seed is -1"),
        ({"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [0, 1], "data": []}]}, "0 prompts"),
        ({"inputs": [*tensors("x")["inputs"], {"name": "exclude_input_in_output", "datatype": "BOOL", "shape": [2, 1],
                                               "data": [True, False]}]}, "exclude_input_in_output: 2 values"),
        (tensors("word " * 20_000), "8192|window|tokens"),
    ],
)  # fmt: skip
def test_invalid_requests_are_refused(earlier: Earlier, body: dict[str, Any], told: str) -> None:
    response = earlier.front.post(V2, json=body)
    assert response.status_code == 400, response.text
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(response.json()["error"])


def test_questions_in_our_own_tensors_still_have_our_own_answers(earlier: Earlier) -> None:
    body = {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [1, 1], "data": [QUESTION]}]}
    answer = earlier.front.post(V2, json=body).raise_for_status().json()
    assert {"text_output", "sources", "citations"} <= {output["name"] for output in answer["outputs"]}


def test_the_component_sets_the_same(earlier: Earlier) -> None:
    text = (ROOT / "manifests" / "components" / "earlier-graph" / "kustomization.yaml").read_text(encoding="utf-8")
    for setting in (
        "TRANSFORMER_RESPONSE_SHAPE=ensemble",
        "VECTORSTORE_RESPONSE_SHAPE=strings",
        "--model_name=ensemble",
    ):
        assert setting in text
