"""Chat requests in the dialects of OpenAI's clients."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from chassis.validation import invalid_request
from tests.transformer.running import CHAT, Q, Running, message
from transformer.wire import ChatRequest, IgnoredChatOptions

USER = {"role": "user", "content": Q}


@pytest.mark.parametrize(
    "fields",
    [
        # Null, [] and {} ask for nothing.
        dict.fromkeys((*IgnoredChatOptions.model_fields, "stream", "stream_options", "stop", "top_p", "seed")),
        {"tools": [], "tool_choice": "none"},
        {"functions": [], "function_call": "auto"},
        {"logit_bias": {}, "metadata": {}, "stop": []},
        # Fields that clients send by default, and that change nothing.
        {"parallel_tool_calls": True, "service_tier": "auto", "safety_identifier": "s", "user": "u", "store": False},
        {"reasoning_effort": "low", "verbosity": "low", "prompt_cache_key": "k", "prompt_cache_retention": "24h"},
        {"modalities": ["text"], "top_logprobs": 0, "logprobs": False, "n": 1, "response_format": {"type": "text"}},
        {"stream": True, "stream_options": {"include_usage": None, "include_obfuscation": False}},
        {"max_tokens": 5, "max_completion_tokens": 5},
    ],
    ids=str,
)
def test_fields_that_change_nothing_are_accepted(fields: dict[str, Any]) -> None:
    ChatRequest.model_validate({"model": "rag", "messages": [USER], **fields})


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"content": "Yes.", "refusal": None}, "Yes."),
        ({"content": "Yes.", "annotations": [], "audio": None, "function_call": None, "tool_calls": None}, "Yes."),
        ({"content": "Yes.", "parsed": None, "tool_calls": []}, "Yes."),
        ({"content": "Yes.", "reasoning_content": "So.", "provider_specific_fields": {"refusal": None}}, "Yes."),
        ({"content": None, "refusal": "I cannot."}, ""),
        ({"content": [{"type": "text", "text": "Yes.", "cache_control": {"type": "ephemeral"}}]}, "Yes."),
    ],
)
def test_answers_are_accepted_back(answer: dict[str, Any], text: str) -> None:
    chat = ChatRequest.model_validate({"model": "rag", "messages": [USER, {"role": "assistant", **answer}, USER]})
    assert chat.messages[1].text() == text


@pytest.mark.parametrize(
    ("fields", "field", "advice"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "not supported"),
        ({"functions": [{"name": "f"}]}, "functions", "not supported"),
        ({"tool_choice": "required"}, "tool_choice", "'none' or 'auto'"),
        ({"logit_bias": {"50256": -100}}, "logit_bias", "not supported"),
        ({"n": 2}, "n", "1 or less"),
        ({"logprobs": True}, "logprobs", "False"),
        ({"top_logprobs": 3}, "top_logprobs", "0"),
        ({"modalities": ["text", "audio"]}, "modalities[1]", "'text'"),
        ({"response_format": {"type": "json_object"}}, "response_format.type", "'text'"),
        ({"store": True}, "store", "False"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "text"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
        ({"messages": [{"role": "tool", "content": "5"}]}, "messages[0].role", "'assistant'"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "send a text (got 5)"),
        *(
            (
                {"messages": [{"role": "user", "content": [{"type": kind, kind: {}}]}]},
                "messages[0].content[0].type",
                kind,
            )
            for kind in ("image_url", "input_audio", "file")
        ),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, USER]},
            "messages[0].tool_calls",
            "not supported",
        ),
    ],
)
def test_fields_that_would_change_the_answer_are_refused(fields: dict[str, Any], field: str, advice: str) -> None:
    with pytest.raises(ValidationError) as raised:
        ChatRequest.model_validate({"model": "rag", "messages": [USER], **fields})
    error = invalid_request(raised.value, ChatRequest)
    assert error.field == field
    assert advice in error.message


async def test_different_limits_of_tokens_are_refused(service: Running) -> None:
    body = {"model": "rag", "messages": [USER], "max_tokens": 1, "max_completion_tokens": 2}
    response = await service.client.post(CHAT, json=body)
    assert (response.status_code, message(response)) == (400, "max_tokens and max_completion_tokens differ. Send one.")


async def test_a_prompt_beyond_the_window_has_the_code_that_clients_look_for(service: Running) -> None:
    response = await service.client.post(CHAT, json={"model": "rag", "messages": [USER], "max_tokens": 100_000})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")


async def test_a_model_is_retrieved_below_either_base_url(service: Running) -> None:
    for prefix in ("/openai/v1", "/v1"):
        card = (await service.client.get(f"{prefix}/models/rag")).json()
        assert (card["id"], card["object"]) == ("rag", "model")
        assert (await service.client.get(f"{prefix}/models/other")).status_code == 404
    assert (card["name"], card["ready"]) == ("rag", True)
