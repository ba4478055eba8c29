"""`kserve-rag mcp` with the official client: on stdio and over HTTP, in both generations of the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult, TextContent, TextResourceContents

from tests.fakes.replies import answering, replying
from tests.processes import free_ports, program
from tests.with_pages.integrations_page import PAGE, settings

if TYPE_CHECKING:
    from tests.with_pages.conftest import PeopleGraph

KSERVE_RAG = str(Path(sys.executable).parent / "kserve-rag")
QUESTION = "What is an index version?"
OFF_TOPIC = "Who won the football world cup of 1974?"

OF_THE_SERVER = {"KSERVE_RAG_TOKEN": "s3cret"}

Mode = Literal["auto", "legacy"]


def environment(**variables: str) -> dict[str, str]:
    """Environment of the server, without this process's own settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KSERVE_RAG_")} | variables


@contextlib.contextmanager
def http_server(url: str, *options: str, **variables: str) -> Iterator[str]:
    """`kserve-rag mcp --http` before the graph at `url`; its address."""
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    command = [KSERVE_RAG, "mcp", "--url", url, "--http", "--port", str(port), *options]
    with program(command, f"{address}/health", environment(**variables)):
        yield address


@contextlib.asynccontextmanager
async def over_http(address: str, mode: Mode = "auto", authorization: str | None = None) -> AsyncIterator[Client]:
    headers = {} if authorization is None else {"authorization": authorization}
    async with (
        httpx2.AsyncClient(headers=headers, trust_env=False, timeout=60) as http,
        Client(streamable_http_client(f"{address}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


def on_stdio(url: str, mode: Mode = "auto", **variables: str) -> Client:
    parameters = StdioServerParameters(command=KSERVE_RAG, args=["mcp", "--url", url], env=variables)
    return Client(parameters, mode=mode)


@pytest.fixture(scope="module")
def address(graph: PeopleGraph) -> Iterator[str]:
    with http_server(graph.transformer_url) as address:
        yield address


@pytest.fixture(params=["stdio-legacy", "http", "http-legacy"])
def connect(
    request: pytest.FixtureRequest, graph: PeopleGraph, address: str
) -> Callable[[], contextlib.AbstractAsyncContextManager[Client]]:
    """Opens a client of the shared graph's tools."""
    mode: Mode = "legacy" if request.param.endswith("legacy") else "auto"
    if request.param.startswith("stdio"):
        return lambda: on_stdio(graph.transformer_url, mode)
    return lambda: over_http(address, mode)


def content(result: CallToolResult) -> dict[str, Any]:
    """Result of a tool. Its text must be the same JSON."""
    (text,) = result.content
    assert isinstance(text, TextContent)
    assert not result.is_error, text.text
    assert result.structured_content is not None
    assert json.loads(text.text) == result.structured_content
    return result.structured_content


def failure(result: CallToolResult) -> str:
    (text,) = result.content
    assert isinstance(text, TextContent)
    assert result.is_error
    assert "Traceback" not in text.text
    return text.text


# ── What the tools give ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_tools_are_described(connect: Any) -> None:
    async with connect() as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert tools.keys() == {"search", "ask", "indexes", "models"}
    assert tools["search"].input_schema["required"] == ["query"]
    assert tools["ask"].input_schema["required"] == ["question"]
    for tool in tools.values():
        assert tool.title
        assert tool.description
        assert tool.output_schema is not None
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint
    for name in ("search", "ask"):
        assert {"num_docs", "collections", "filters"} <= tools[name].input_schema["properties"].keys()


async def test_search_gives_passages_nearest_first(connect: Any) -> None:
    async with connect() as client:
        found = content(await client.call_tool("search", {"query": QUESTION, "num_docs": 3}))
    scores = [passage["score"] for passage in found["passages"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    best = found["passages"][0]
    assert best["title"] == "Concepts"
    assert best["heading"][0] == "Concepts"
    assert "An index version is" in best["text"]
    assert best["span"]["end"] - best["span"]["start"] == len(best["text"])
    assert best["document_id"]
    assert found["left_out"] == 0


async def test_ask_gives_an_answer_with_sources_and_citations(connect: Any) -> None:
    async with connect() as client:
        answered = content(await client.call_tool("ask", {"question": QUESTION, "max_tokens": 60}))
    assert answered["answer"]
    assert not answered["refused"]
    assert [source["number"] for source in answered["sources"]] == [1, 2]
    by_number = {source["number"]: source for source in answered["sources"]}
    sentences = [citation["sentence"] for citation in answered["citations"]]
    assert sentences
    assert all(sentence in answered["answer"] for sentence in sentences)
    for citation in answered["citations"]:
        for quote in citation["quotes"]:
            start = quote["span"]["start"] - by_number[quote["number"]]["span"]["start"]
            assert by_number[quote["number"]]["text"][start : start + len(quote["text"])] == quote["text"]


async def test_a_refusal_lists_topics_of_the_documents(connect: Any) -> None:
    async with connect() as client:
        answered = content(await client.call_tool("ask", {"question": OFF_TOPIC}))
    assert answered["refused"]
    assert answered["sources"] == []
    assert answered["topics"]
    assert all(topic["title"] for topic in answered["topics"])


async def test_indexes_are_listed_with_example_questions(connect: Any) -> None:
    async with connect() as client:
        served = content(await client.call_tool("indexes", {}))
        assert [index["name"] for index in served["indexes"]] == [served["default"]]
        (index,) = served["indexes"]
        assert index["documents"] > 10
        for question in index["examples"][:1]:
            asked = {"question": question, "collections": [index["name"]], "max_tokens": 40}
            assert not content(await client.call_tool("ask", asked))["refused"]


async def test_models_are_listed_and_chosen(connect: Any) -> None:
    async with connect() as client:
        assert content(await client.call_tool("models", {})) == {"models": [{"name": "rag", "display_name": "rag"}]}
        asked = {"question": QUESTION, "answers": "quote"}
        assert content(await client.call_tool("ask", {**asked, "model": "rag"}))["answer"]
        refused = await client.call_tool("ask", {**asked, "model": "gpt-9"})
    assert "model: there is no 'gpt-9'. This service has 'rag'." in failure(refused)


async def test_a_passage_names_its_document(connect: Any) -> None:
    async with connect() as client:
        (template,) = (await client.list_resource_templates()).resource_templates
        assert template.uri_template.startswith("document://")
        (passage,) = content(await client.call_tool("search", {"query": QUESTION, "num_docs": 1}))["passages"]
        (read,) = (await client.read_resource(passage["uri"])).contents
    assert isinstance(read, TextResourceContents)
    assert read.text[passage["span"]["start"] : passage["span"]["end"]] == passage["text"]


@pytest.mark.parametrize(
    ("uri", "code", "told"),
    [
        ("document://default/none", INVALID_PARAMS, "none"),
        ("document://nowhere/none", INVALID_PARAMS, "nowhere"),
        ("document://default/../../indexes", INVALID_PARAMS, "Unknown resource"),
        ("file:///etc/passwd", INVALID_PARAMS, "Unknown resource"),
    ],
)
async def test_a_missing_document_is_reported(address: str, uri: str, code: int, told: str) -> None:
    async with over_http(address) as client:
        with pytest.raises(MCPError, match=told) as raised:
            await client.read_resource(uri)
    assert raised.value.error.code == code


async def test_search_finds_what_ask_would_refuse_to_answer(address: str) -> None:
    async with over_http(address) as client:
        found = content(await client.call_tool("search", {"query": OFF_TOPIC, "num_docs": 2}))
    assert len(found["passages"]) == 2


async def test_filters_and_collections_are_passed_on(address: str, graph: PeopleGraph) -> None:
    async with over_http(address) as client:
        asked = {"query": QUESTION, "collections": ["default"], "filters": {"source": {"$ne": "concepts.md"}}}
        found = content(await client.call_tool("search", asked))
        # A model may well send an object as a text.
        again = content(await client.call_tool("search", {**asked, "filters": json.dumps(asked["filters"])}))
    assert {passage["index_version"] for passage in found["passages"]} == {graph.index_version}
    assert again == found


async def test_an_answer_that_is_cut_off_says_so(address: str) -> None:
    async with over_http(address) as client:
        answered = content(await client.call_tool("ask", {"question": QUESTION, "max_tokens": 2}))
    assert not answered["complete"]


async def test_progress_is_reported_during_generation(connect: Any) -> None:
    told: list[float] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append(done)

    async with connect() as client:
        await client.call_tool("ask", {"question": QUESTION, "max_tokens": 20}, progress_callback=progress)
    assert told == sorted(told)
    assert told[-1] > 1


# ── Errors ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("tool", "arguments", "told"),
    [
        ("search", {}, "query"),
        ("search", {"query": ""}, "at least 1 character"),
        ("search", {"query": QUESTION, "num_docs": 101}, "less than or equal to 100"),
        ("search", {"query": QUESTION, "collections": ["nowhere"]}, "there is no collection 'nowhere'"),
        ("ask", {"question": QUESTION, "filters": {"year": {"$about": 2023}}}, "filters"),
        ("ask", {"question": QUESTION, "max_tokens": 1_000_000}, "max_tokens"),
    ],
)
async def test_bad_input_is_reported(address: str, tool: str, arguments: dict[str, Any], told: str) -> None:
    async with over_http(address) as client:
        assert told in failure(await client.call_tool(tool, arguments))
        # And the next call is as good as any.
        content(await client.call_tool("search", {"query": QUESTION, "num_docs": 1}))


async def test_without_a_graph_each_call_says_so() -> None:
    (port,) = free_ports(1)
    async with on_stdio(f"http://127.0.0.1:{port}") as client:
        assert (await client.list_tools()).tools
        assert f"Nothing can be reached at http://127.0.0.1:{port}" in failure(
            await client.call_tool("search", {"query": QUESTION})
        )
        with pytest.raises(MCPError, match="Nothing can be reached"):
            await client.read_resource("document://default/any")


# ── Credentials ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def guarded() -> Iterator[str]:
    """A graph that needs a token. Its only passage is the received credentials."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        credentials = handler.headers["authorization"]
        if credentials is None:
            answering(401, b'{"error": "Send a token.", "code": "unauthorized"}')(handler)
            return
        passage = {
            "text": credentials,
            "score": 1.0,
            "chunk_id": "c",
            "document_id": "d",
            "span": {"start": 0, "end": 1},
        }
        told = {"index_version": "v", "similarity": 1.0, "lexical_score": 1.0, "support": 1.0, "number": 1}
        answer = {"id": "1", "model_name": "rag", "text_output": "", "sources": [passage | told], "refused": False}
        answer |= {"finish_reason": "length", "usage": {}, "index_version": "v", "cut": [], "query": "", "timings": {}}
        answering(200, json.dumps(answer).encode(), content_type="application/json")(handler)

    with replying(respond) as url:
        yield url


async def credentials(client: Client) -> str:
    found = content(await client.call_tool("search", {"query": QUESTION}))
    return str(found["passages"][0]["text"])


async def test_on_stdio_the_token_is_that_of_the_environment(guarded: str) -> None:
    async with on_stdio(guarded, **OF_THE_SERVER) as client:
        assert await credentials(client) == "Bearer s3cret"
    async with on_stdio(guarded) as client:
        assert "KSERVE_RAG_TOKEN" in failure(await client.call_tool("search", {"query": QUESTION}))


def test_the_command_line_asks_with_the_same_token(guarded: str) -> None:
    command = [KSERVE_RAG, "ask", "--url", guarded, "--json", QUESTION]
    done = subprocess.run(command, env=environment(**OF_THE_SERVER), capture_output=True, text=True)
    assert json.loads(done.stdout)["sources"][0]["text"] == "Bearer s3cret"
    refused = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert refused.returncode == 5
    assert "Send a token." in refused.stderr


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_over_http_each_caller_brings_its_own_token(guarded: str, mode: Mode) -> None:
    """And never gets the one that the server's own environment has."""
    with http_server(guarded, **OF_THE_SERVER) as address:
        async with over_http(address, mode, "Bearer one") as one, over_http(address, mode, "Basic b25lOnR3bw==") as two:
            asked = [credentials(client) for client in (one, two, one, two)]
            assert await asyncio.gather(*asked) == ["Bearer one", "Basic b25lOnR3bw=="] * 2
        async with over_http(address, mode) as nobody:
            told = failure(await nobody.call_tool("search", {"query": QUESTION}))
    assert "Send a token." in told
    assert "Authorization" in told


# ── The server ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["stdio", "http"])
async def test_a_cancelled_call_stops_the_generation(how: str) -> None:
    begun, left = threading.Event(), threading.Event()

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.end_headers()
        begun.set()
        try:
            while not left.wait(0.01):
                handler.wfile.write(b'data: {"text_output": "and "}\n\n')
        except OSError:
            left.set()

    with replying(respond) as url, contextlib.ExitStack() as stack:
        opened = on_stdio(url) if how == "stdio" else over_http(stack.enter_context(http_server(url)))
        async with opened as client:
            call = asyncio.create_task(client.call_tool("ask", {"question": QUESTION}))
            assert await asyncio.to_thread(begun.wait, 30)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await asyncio.to_thread(left.wait, 30)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "rebound.example.org"}, 421),
        ({"host": "rebound.example.org:8089", "origin": "http://rebound.example.org:8089"}, 421),
        ({"origin": "https://anything.example.org"}, 403),
        ({"host": "mcp.example.org", "origin": "https://mcp.example.org"}, 200),
        ({"host": "mcp.example.org:8089"}, 200),
        ({}, 200),
    ],
)
def test_web_pages_cannot_reach_the_server(named: str, headers: dict[str, str], status: int) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    accept = {"accept": "application/json, text/event-stream"}
    response = httpx.post(f"{named}/mcp", json=call, headers=accept | headers, trust_env=False, timeout=60)
    assert response.status_code == status, response.text


@pytest.fixture(scope="module")
def named() -> Iterator[str]:
    """A server that is addressed by a name too."""
    with http_server("http://127.0.0.1:9", "--allow-host", "mcp.example.org") as address:
        yield address


def test_a_public_address_needs_a_host_name() -> None:
    command = [KSERVE_RAG, "mcp", "--http", "--host", "0.0.0.0"]  # noqa: S104 - what is refused here
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert "--allow-host" in done.stderr


def test_a_port_in_use_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [KSERVE_RAG, "mcp", "--http", "--port", str(taken.getsockname()[1])]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 4
    assert "--port" in done.stderr


def test_the_server_ends_with_its_input_and_prints_nothing_else() -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    done = subprocess.run(
        [KSERVE_RAG, "mcp"],
        env=environment(),
        input=f"{json.dumps(call)}\n",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in done.stdout.splitlines())


def test_other_commands_do_not_import_mcp() -> None:
    code = "import kserve_rag.cli.app, sys; sys.exit('mcp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ── The page ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("which", "key"), [(0, "mcpServers"), (1, "servers")])
async def test_the_settings_of_the_page_start_the_server(guarded: str, which: int, key: str) -> None:
    """As an assistant would; only the program's path, the address and the token are another's."""
    entry = settings("Assistants (MCP)")[which][key]["kserve-rag"]
    assert entry["command"].endswith("/kserve-rag")
    assert entry["args"][:2] == ["mcp", "--url"]
    env = dict.fromkeys(entry.get("env", {}), "s3cret")
    async with Client(StdioServerParameters(command=KSERVE_RAG, args=["mcp", "--url", guarded], env=env)) as client:
        result = await client.call_tool("search", {"query": QUESTION})
    assert result.is_error is not bool(env)


def test_every_argument_of_the_tools_is_documented() -> None:
    from kserve_rag.mcp import GraphTools

    page = PAGE.read_text()
    for name in ("search", "ask", "indexes", "models"):
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        arguments = inspect.signature(getattr(GraphTools, name)).parameters.keys() - {"self", "context"}
        assert set(re.findall(r"`(\w+)`", row.split("|")[2])) == arguments
