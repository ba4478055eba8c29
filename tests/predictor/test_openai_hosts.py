"""OpenAI's API at Azure and Cloudera, with organisations and certificates. OpenAI's own client is the judge."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from openai import AsyncAzureOpenAI, AsyncOpenAI

from chassis.context import CallContext
from chassis.errors import BadUpstreamError
from chassis.settings import SettingError
from predictor.client import PredictorClient
from predictor.wire import GenerationRequest
from tests.fakes.gateway import certificate
from tests.fakes.loopback import serving

REQUEST = GenerationRequest([{"role": "user", "content": "Hm?"}], max_tokens=5)
EVENTS = (
    b'data: {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": '
    b'[{"index": 0, "delta": {"content": "Yes."}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
)


class Host:
    """Answers a chat at any path, and remembers the requests."""

    def __init__(self) -> None:
        self.url = ""
        self.seen: list[tuple[str, Mapping[str, str]]] = []
        """Path with query, and headers, of each request."""
        self.key: str | None = None
        """The key that is accepted; None: any."""

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.path_qs, request.headers.copy()))
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return web.json_response({"error": {"message": "wrong key"}}, status=401)
        if request.method == "GET":
            return web.json_response({"object": "list", "data": [{"id": "gpt-4o", "object": "model"}]})
        return web.Response(body=EVENTS, content_type="text/event-stream")


@pytest_asyncio.fixture
async def host() -> AsyncIterator[Host]:
    host = Host()
    async with serving(host.application()) as host.url:
        yield host


async def ask(host: Host, ctx: CallContext, *, path: str = "", model: str = "gpt-4o", **options: Any) -> str | None:
    """Asks once; returns why the server is not ready."""
    client = PredictorClient(host.url + path, server="openai_chat", model=model, options={"health_path": "", **options})
    try:
        assert (await client.generate(REQUEST, ctx)).text == "Yes."
        return await client.not_ready_reason(ctx)
    finally:
        await client.aclose()


async def judged(client: AsyncOpenAI, model: str) -> None:
    async with client:
        stream = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Hm?"}], stream=True
        )
        assert [chunk async for chunk in stream]


async def test_azures_deployments_are_asked_as_openais_client_does(
    host: Host, ctx: CallContext, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("k1\n")
    reason = await ask(host, ctx, model="my-gpt", azure_api_version="2024-10-21", api_key_file=tmp_path / "key")
    assert reason is None
    theirs = AsyncAzureOpenAI(
        azure_endpoint=host.url, azure_deployment="my-gpt", api_version="2024-10-21", api_key="k1"
    )
    await judged(theirs, "my-gpt")
    (ours, headers), (listed, _), (expected, expected_headers) = host.seen
    assert ours == expected == "/openai/deployments/my-gpt/chat/completions?api-version=2024-10-21"
    assert headers["api-key"] == expected_headers["api-key"] == "k1"
    assert "authorization" not in headers
    assert listed == "/openai/models?api-version=2024-10-21"


async def test_azures_current_api_lists_no_deployments(host: Host, ctx: CallContext, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k1")
    own = {"path": "/openai", "model": "my-gpt", "api_key_file": tmp_path / "key"}
    assert "has no model 'my-gpt'" in str(await ask(host, ctx, **own))
    assert await ask(host, ctx, **own, model_is_listed=False) is None
    assert {path for path, _ in host.seen} == {"/openai/v1/chat/completions", "/openai/v1/models"}


async def test_clouderas_endpoints_and_a_token_that_is_replaced(host: Host, ctx: CallContext, tmp_path: Path) -> None:
    token, path = tmp_path / "token", "/namespaces/serving-default/endpoints/llama"
    token.write_text("first")
    host.key = "first"
    client = PredictorClient(
        host.url + path, server="openai_chat", model="gpt-4o", options={"health_path": "", "api_key_file": token}
    )
    assert (await client.generate(REQUEST, ctx)).text == "Yes."
    host.key = "second-token"
    with pytest.raises(BadUpstreamError, match="rejected this service's API key"):
        await client.generate(REQUEST, ctx)
    token.write_text("second-token")
    assert (await client.generate(REQUEST, ctx)).text == "Yes."
    token.unlink()
    reason = str(await client.not_ready_reason(ctx))
    assert "the operator must restore" in reason.lower()
    assert str(token) not in reason
    await client.aclose()
    assert {path for path, _ in host.seen} == {f"{path}/v1/chat/completions"}


async def test_organisation_and_project_are_sent_as_openais_client_does(host: Host, ctx: CallContext) -> None:
    await ask(host, ctx, organization="org-1", project="proj-1")
    await judged(AsyncOpenAI(base_url=f"{host.url}/v1", api_key="k", organization="org-1", project="proj-1"), "gpt-4o")
    for name in ("openai-organization", "openai-project"):
        assert host.seen[0][1][name] == host.seen[-1][1][name]


async def test_a_servers_own_certificate_authority(ctx: CallContext, tmp_path: Path) -> None:
    tls, authority = certificate(tmp_path)
    host = Host()
    async with serving(host.application(), tls) as host.url:
        assert await ask(host, ctx, ca_file=authority) is None
        stranger = PredictorClient(host.url, server="openai_chat", options={"health_path": ""})
        assert "cannot be reached" in str(await stranger.not_ready_reason(ctx))
        await stranger.aclose()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"azure_api_version": "2024-10-21"}, "PREDICTOR_MODEL: is missing.*deployment"),
        ({"ca_file": "/nowhere.pem"}, r"options\.ca_file: .*/nowhere\.pem has no certificates"),
        ({"ca_file": __file__}, r"options\.ca_file: .* has no certificates"),
    ],
)
def test_settings_that_cannot_work(options: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingError, match=told):
        PredictorClient("http://h", server="openai_chat", options=options)
