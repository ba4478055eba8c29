"""Amazon Bedrock's runtime for tests: Converse, ConverseStream, and the text completions of Claude 2.

botocore's own model of the service checks every request, and its client reads the answers
(tests/predictor/test_bedrock.py). The answers come from `tests.fakes.scripted_llm`.

Source: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_Operations_Amazon_Bedrock_Runtime.html,
https://smithy.io/2.0/aws/amazon-eventstream.html
"""

from __future__ import annotations

import functools
import json
import struct
from base64 import b64encode
from binascii import crc32
from typing import Any

import botocore.session
from aiohttp import web
from botocore.validate import ParamValidator

from tests.fakes.loopback import ThreadedServer
from tests.fakes.scripted_llm import CONTEXT_TOKENS, Reply, reply

CHAT_MODEL = "eu.anthropic.claude-3-5-haiku-20241022-v1:0"
TEXT_MODEL = "anthropic.claude-v2:1"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "AWS_REGION": "eu-west-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""AWS's own examples, which this server accepts."""


@functools.cache
def _service() -> Any:
    return botocore.session.get_session().get_service_model("bedrock-runtime")


class Bedrock(ThreadedServer):
    """One endpoint. `fault` is the error of all requests, `stream_fault` the exception after a stream's first words."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: tuple[int, str, str] | None = None
        """Status, code and message."""
        self.faults = 0
        """Requests that still fail with `fault`."""
        self.stream_fault: tuple[str, str] | None = None
        """Code and message."""
        self.requests: list[dict[str, Any]] = []
        """Parameters of every request."""

    def application(self) -> web.Application:
        app = web.Application()
        for path, operation in {
            "converse": "Converse",
            "converse-stream": "ConverseStream",
            "invoke": "InvokeModel",
            "invoke-with-response-stream": "InvokeModelWithResponseStream",
        }.items():
            app.router.add_post(f"/model/{{model}}/{path}", functools.partial(self._respond, operation=operation))
        return app

    async def _respond(self, request: web.Request, *, operation: str) -> web.StreamResponse:
        model, body = request.match_info["model"], await request.read()
        text = operation.startswith("Invoke")
        parameters = {"modelId": model, **({"body": body} if text else json.loads(body))}
        self.requests.append(parameters)
        if self.fault is not None and self.faults > 0:
            self.faults -= 1
            return _error(*self.fault)
        scope = f"Credential={CREDENTIALS['AWS_ACCESS_KEY_ID']}/"
        authorization = request.headers.get("authorization", "")
        if scope not in authorization or "/eu-west-1/bedrock/aws4_request" not in authorization:
            return _error(403, "UnrecognizedClientException", "The security token included in the request is invalid.")
        if model != (TEXT_MODEL if text else CHAT_MODEL):
            return _error(400, "ValidationException", "The provided model identifier is invalid.")
        problems = ParamValidator().validate(parameters, _service().operation_model(operation).input_shape)
        if problems.has_errors():
            return _error(400, "ValidationException", problems.generate_report())
        try:
            answer = _complete(json.loads(body)) if text else _chat(parameters)
        except ValueError as error:
            return _error(400, "ValidationException", str(error))
        if "Stream" not in operation:
            return _whole_completion(answer) if text else web.json_response(_whole_message(answer))
        response = web.StreamResponse(headers={"content-type": "application/vnd.amazon.eventstream"})
        await response.prepare(request)
        for kind, content in _completion_events(answer) if text else _message_events(answer):
            await response.write(_event(kind, content))
            if self.stream_fault is not None and kind in ("contentBlockDelta", "chunk"):
                code, message = self.stream_fault
                await response.write(_message({":message-type": "exception", ":exception-type": code}, message))
                break
        return response


def _chat(parameters: dict[str, Any]) -> Reply:
    messages = parameters.get("messages", [])
    if not messages or messages[0]["role"] != "user":
        raise ValueError("A conversation must start with a user message.")
    inference = parameters.get("inferenceConfig", {})
    prompt = "\n".join(part["text"] for each in messages for part in each["content"])
    return _checked(
        reply(
            prompt,
            max_tokens=inference.get("maxTokens", 200),
            temperature=inference.get("temperature", 1.0),
            stop=inference.get("stopSequences", ()),
        )
    )


def _complete(body: dict[str, Any]) -> Reply:
    known = {"prompt", "max_tokens_to_sample", "temperature", "top_p", "top_k", "stop_sequences"}
    if missing := {"prompt", "max_tokens_to_sample"} - body.keys():
        raise ValueError(f"required key [{min(missing)}] not found")
    if extraneous := body.keys() - known:
        raise ValueError(f"extraneous key [{min(extraneous)}] is not permitted")
    if "\n\nHuman:" not in body["prompt"] or not body["prompt"].endswith("\n\nAssistant:"):
        raise ValueError(
            'prompt must start with "\n\nHuman:" turn after an optional system prompt, end with "\n\nAssistant:" turn'
        )
    return _checked(
        reply(
            body["prompt"],
            max_tokens=body["max_tokens_to_sample"],
            temperature=0 if body.get("top_k") == 1 else body.get("temperature", 1.0),
            stop=body.get("stop_sequences", ()),
        )
    )


def _checked(answer: Reply) -> Reply:
    if answer.prompt_tokens > CONTEXT_TOKENS:
        raise ValueError("Input is too long for requested model.")
    return answer


def _usage(answer: Reply) -> dict[str, int]:
    tokens = len(answer.pieces)
    return {
        "inputTokens": answer.prompt_tokens,
        "outputTokens": tokens,
        "totalTokens": answer.prompt_tokens + tokens,
    }


def _stop_reason(answer: Reply) -> str:
    return "max_tokens" if answer.reason == "length" else "end_turn"


def _whole_message(answer: Reply) -> dict[str, Any]:
    return {
        "output": {"message": {"role": "assistant", "content": [{"text": answer.text}]}},
        "stopReason": _stop_reason(answer),
        "usage": _usage(answer),
        "metrics": {"latencyMs": 1},
    }


def _message_events(answer: Reply) -> list[tuple[str, dict[str, Any]]]:
    deltas = [("contentBlockDelta", {"delta": {"text": piece}, "contentBlockIndex": 0}) for piece in answer.pieces]
    return [
        ("messageStart", {"role": "assistant"}),
        *deltas,
        ("contentBlockStop", {"contentBlockIndex": 0}),
        ("messageStop", {"stopReason": _stop_reason(answer)}),
        ("metadata", {"usage": _usage(answer), "metrics": {"latencyMs": 1}}),
    ]


def _whole_completion(answer: Reply) -> web.Response:
    reason = "max_tokens" if answer.reason == "length" else "stop_sequence"
    completion = {"completion": f" {answer.text}", "stop_reason": reason, "stop": None}
    headers = {
        "x-amzn-bedrock-input-token-count": str(answer.prompt_tokens),
        "x-amzn-bedrock-output-token-count": str(len(answer.pieces)),
    }
    return web.json_response(completion, headers=headers)


def _completion_events(answer: Reply) -> list[tuple[str, dict[str, Any]]]:
    reason = "max_tokens" if answer.reason == "length" else "stop_sequence"
    first = " " + answer.pieces[0] if answer.pieces else ""
    parts: list[dict[str, Any]] = [
        {"completion": piece, "stop_reason": None, "stop": None} for piece in [first, *answer.pieces[1:]]
    ]
    metrics = {"inputTokenCount": answer.prompt_tokens, "outputTokenCount": len(answer.pieces)}
    parts.append({"completion": "", "stop_reason": reason, "stop": None, "amazon-bedrock-invocationMetrics": metrics})
    return [("chunk", {"bytes": b64encode(json.dumps(part).encode()).decode()}) for part in parts]


def _event(kind: str, content: dict[str, Any]) -> bytes:
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return _message(headers, json.dumps(content))


def _message(headers: dict[str, str], payload: str) -> bytes:
    """One message of the event stream: a prelude with its checksum, headers, payload, and the checksum of all."""
    if headers[":message-type"] == "exception":
        payload = json.dumps({"message": payload})
    encoded, body = b"", payload.encode()
    for name, value in headers.items():
        encoded += bytes([len(name)]) + name.encode() + b"\x07" + struct.pack("!H", len(value)) + value.encode()
    prelude = struct.pack("!II", 16 + len(encoded) + len(body), len(encoded))
    message = prelude + struct.pack("!I", crc32(prelude)) + encoded + body
    return message + struct.pack("!I", crc32(message))


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"message": message}, status=status, headers={"x-amzn-errortype": code})
