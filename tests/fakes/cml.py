"""A model endpoint of Cloudera Machine Learning, with the hands-on lab's function.

It echoes the prompt without control tokens, as the lab's model does. The answers come from `tests.fakes.scripted_llm`.

Source: https://docs.cloudera.com/machine-learning/cloud/models/topics/ml-calling-a-model.html
"""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from tests.fakes.loopback import ThreadedServer
from tests.fakes.scripted_llm import reply


class Cml(ThreadedServer):
    def __init__(self, *, access_key: str | None = None) -> None:
        super().__init__()
        self._access_key = access_key
        self.failing = False
        """Whether the function raises."""
        self.requests: list[tuple[str | None, dict[str, Any]]] = []
        """Authorization and body of every call."""

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/model", self._call)
        return app

    async def _call(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append((request.headers.get("authorization"), body))
        if body.get("accessKey") != self._access_key:
            return web.json_response({"success": False, "errors": "Invalid access key"}, status=401)
        if self.failing:
            return web.json_response({"success": False, "errors": "CUDA out of memory"})
        arguments = body["request"]
        answer = reply(
            arguments["prompt"],
            max_tokens=arguments["max_new_tokens"],
            temperature=0 if arguments.get("temperature", 1.0) <= 0.01 else 1,
        )
        echo = re.sub(r"<[^<>\s]+>", "", arguments["prompt"])
        result = {
            "model_deployment_crn": "crn:cdp:ml:us-west-1:1:workspace:1/1",
            "prediction": {"response": f"{echo} {answer.text}"},
            "uuid": "1",
        }
        return web.json_response({"success": True, "response": result, "ReplicaID": "model-1", "StatusCode": 200})
