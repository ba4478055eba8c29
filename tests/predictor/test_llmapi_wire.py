"""The CPU model's wire without our client: the same as that of TensorRT-LLM's `llmapi` model."""

from __future__ import annotations

import itertools
import json
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http

from predictor.client import PromptFormat

MODEL = "/v2/models/tensorrt_llm"


@pytest.fixture
def prompt(prompts: PromptFormat) -> str:
    return prompts.render([{"role": "user", "content": "What is the capital of France? Answer in one sentence."}])


def events(body: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: ")]


def test_declared_tensors_are_those_of_tensorrt_llm(predictor_url: str) -> None:
    metadata = httpx.get(predictor_url + MODEL, timeout=60).json()
    inputs = {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in metadata["inputs"]}
    assert inputs.pop("sampling_param_repetition_penalty") == ("FP32", [1])  # ours
    assert inputs == {
        "text_input": ("BYTES", [-1]),
        "streaming": ("BOOL", [1]),
        "sampling_param_best_of": ("INT32", [1]),
        "sampling_param_temperature": ("FP32", [1]),
        "sampling_param_top_k": ("INT32", [1]),
        "sampling_param_top_p": ("FP32", [1]),
        "sampling_param_frequency_penalty": ("FP32", [1]),
        "sampling_param_presence_penalty": ("FP32", [1]),
        "sampling_param_max_tokens": ("INT32", [1]),
        "sampling_param_stop": ("BYTES", [-1]),
        "sampling_param_seed": ("UINT64", [1]),
        "sampling_param_exclude_input_from_output": ("BOOL", [1]),
        "sampling_param_return_perf_metrics": ("BOOL", [1]),
        "return_finish_reason": ("BOOL", [1]),
        "return_stop_reason": ("BOOL", [1]),
        "return_cumulative_logprob": ("BOOL", [1]),
        "stop": ("BOOL", [1]),
    }
    outputs = {tensor["name"]: tensor["datatype"] for tensor in metadata["outputs"]}
    assert outputs.pop("num_input_tokens") == outputs.pop("num_output_tokens") == "INT32"  # ours
    assert outputs == {
        "text_output": "BYTES",
        "finish_reason": "BYTES",
        "stop_reason": "BYTES",
        "cumulative_logprob": "FP32",
        "arrival_time_ns": "INT64",
        "first_scheduled_time_ns": "INT64",
        "first_token_time_ns": "INT64",
        "last_token_time_ns": "INT64",
    }


def test_without_any_option_the_prompt_is_echoed_and_32_tokens_follow(predictor_url: str) -> None:
    answer = httpx.post(f"{predictor_url}{MODEL}/generate", json={"text_input": "1, 2, 3,"}, timeout=60).json()
    assert answer["text_output"].startswith("1, 2, 3, 4, 5")
    assert answer["num_output_tokens"] == 32
    assert "finish_reason" not in answer


def test_streamed_text_is_cumulative_and_every_option_is_answered(predictor_url: str, prompt: str) -> None:
    body = {
        "text_input": prompt,
        "streaming": True,
        "return_finish_reason": True,
        "return_stop_reason": True,
        "return_cumulative_logprob": True,
        "sampling_param_return_perf_metrics": True,
        "sampling_param_stop": [" Paris"],
        "sampling_param_exclude_input_from_output": False,
    }
    response = httpx.post(f"{predictor_url}{MODEL}/generate_stream", json=body, timeout=60)
    assert response.headers["content-type"].startswith("text/event-stream")
    answers = events(response.text)
    texts = [answer["text_output"] for answer in answers]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert texts[0].startswith(prompt)
    assert [answer["finish_reason"] for answer in answers] == ["None"] * (len(answers) - 1) + ["stop"]
    assert answers[-1]["stop_reason"] == " Paris"
    log_probs = [answer["cumulative_logprob"] for answer in answers]
    assert 0 > log_probs[0] >= log_probs[-1]
    last = answers[-1]
    times = [last[f"{name}_time_ns"] for name in ("arrival", "first_scheduled", "first_token", "last_token")]
    assert 0 < times[0] <= times[1] <= times[2] <= times[3]


def test_a_request_is_stopped_by_its_id(predictor_url: str) -> None:
    body = {"id": "a-long-one", "text_input": "1, 2, 3,", "streaming": True, "sampling_param_max_tokens": 1900}
    with httpx.stream("POST", f"{predictor_url}{MODEL}/generate_stream", json=body, timeout=60) as response:
        lines = response.iter_lines()
        assert "text_output" in next(lines)
        stop = httpx.post(
            f"{predictor_url}{MODEL}/generate", json={"id": "a-long-one", "text_input": "", "stop": True}, timeout=60
        )
        assert (stop.status_code, stop.json()) == (400, {"error": "Request cancelled by client"})
        assert list(lines)[-2:] == ['data: {"error":"Request cancelled by client"}', ""]


def test_plain_infer_is_refused(predictor_url: str) -> None:
    client = tritonclient.http.InferenceServerClient(predictor_url.removeprefix("http://"))
    text = tritonclient.http.InferInput("text_input", [1], "BYTES")
    text.set_data_from_numpy(np.array([b"hello"], dtype=object))
    assert client.is_model_ready("tensorrt_llm")
    with pytest.raises(Exception, match="decoupled"):
        client.infer("tensorrt_llm", [text])
    client.close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"streaming": true}', "text_input"),
        (b'{"text_input": []}', "text_input"),
        (b'{"text_input": ["a", "b"]}', "text_input has 2 elements"),
        (b'{"text_input": ""}', "text_input is empty"),
        (b'{"text_input": "a\xff\xfe"}', "text_input is not valid UTF-8 at byte 1"),
        (b'{"text_input": "\\ud800"}', "surrogate"),
        (b'{"text_input": "a", "sampling_param_max_tokens": 0}', "sampling_param_max_tokens is 0; .* from 1"),
        (b'{"text_input": "a", "sampling_param_max_tokens": "many"}', "parse"),
        (b'{"text_input": "a", "sampling_param_max_tokens": [1, 2]}', "sampling_param_max_tokens"),
        (b'{"text_input": "a", "sampling_param_temperature": -1}', "sampling_param_temperature is -1; .* from 0"),
        (b'{"text_input": "a", "sampling_param_temperature": 1e50}', "sampling_param_temperature is inf"),
        (b'{"text_input": "a", "sampling_param_top_p": 2}', "sampling_param_top_p is 2"),
        (b'{"text_input": "a", "sampling_param_top_k": -3}', "sampling_param_top_k is -3"),
        (b'{"text_input": "a", "sampling_param_best_of": 2}', "sampling_param_best_of is 2"),
        (b'{"text_input": "a", "sampling_param_stop": [""]}', "sampling_param_stop has an empty string"),
        (b'{"text_input": "a", "stop": true}', "stop needs the id"),
        (b'{"text_input": "a', "parse"),
        (b"", "parse"),
    ],
)
def test_bad_input(predictor_url: str, content: bytes, message: str) -> None:
    """Refused with the reason, and the connection stays usable."""
    with httpx.Client(base_url=predictor_url, timeout=60) as client:
        response = client.post(f"{MODEL}/generate", content=content)
        assert 400 <= response.status_code < 600
        assert list(response.json()) == ["error"]
        assert "Traceback" not in response.text
        assert "File" not in response.text
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(response.json()["error"])
        good = {"text_input": "1, 2, 3,", "sampling_param_max_tokens": 2}
        assert client.post(f"{MODEL}/generate", json=good).status_code == 200
