"""`kserve-rag ask`, and `kserve-rag mcp`, which lets AI assistants ask."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from kserve_rag.cli.shared import console, errors, read_settings
from kserve_rag.errors import UsageError
from kserve_rag.local.graph import need_running, running
from kserve_rag.settings import HOST

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from kserve_rag.client import Parameters

UrlOption = Annotated[
    str | None, typer.Option(help="URL of a transformer, local or in a cluster. By default the local graph's.")
]


def ask(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="QUESTION", help="A question in natural language, in quotes.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Name of the model that answers. [default: the graph's own]")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Name of the prompt template. [default: the model's own]")
    ] = None,
    collections: Annotated[
        list[str] | None,
        typer.Option(
            "--collection", "-c", metavar="NAME", help="Collection to search; may be repeated. [default: default]"
        ),
    ] = None,
    num_docs: Annotated[int | None, typer.Option(help="Number of passages to answer from.")] = None,
    answers: Annotated[
        Literal["quote", "write", "auto"] | None,
        typer.Option(
            help="quote: sentences of the documents, without the LLM. write: the LLM's answer. auto: only the LLM's "
            "sentences that the documents support; if there are none, a quote.",
            show_default="TRANSFORMER_ANSWERS, auto",
        ),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Maximum length of the answer in tokens.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Sampling temperature; 0: always the likeliest token.")
    ] = None,
    retrieval: Annotated[bool, typer.Option(help="Whether to answer from the documents.")] = True,
    url: UrlOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole response as JSON.")] = False,
    list_models: Annotated[
        bool, typer.Option("--list-models", help="List the models that can answer, instead of asking.")
    ] = False,
) -> None:
    """Ask a question and stream the answer, followed by its sources.

    Set KSERVE_RAG_TOKEN if the graph requires a token.

    [bold]Examples[/]

      kserve-rag ask "Which ports does the graph listen on?"
      kserve-rag ask --answers quote --num-docs 8 "What changed in the last version?"
      kserve-rag ask --url https://rag.example.org --json "Who approves travel?"
      kserve-rag ask --list-models
      kserve-rag ask --model claude "Who approves travel?"
    """
    if words is None and not list_models:
        raise UsageError('The question is missing: kserve-rag ask "What is the retention period?"')
    if words is not None and len(words) > 1:
        raise UsageError(f'The question is one argument. Quote it: kserve-rag ask "{" ".join(words)}"')
    settings = read_settings()
    token = settings.token.get_secret_value() if settings.token is not None else None
    url = url or need_running(settings).services["transformer"].url
    if words is None:
        _print_models(url, token, as_json=as_json)
        return
    question = words[0]
    parameters: Parameters = {
        "model": model,
        "template": template,
        "answers": answers,
        "collections": collections,
        "num_docs": num_docs,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "retrieval": retrieval,
    }
    if as_json:
        from kserve_rag.client import Client

        with Client(url, token=token) as client:
            sys.stdout.write(client.ask(question, **parameters).model_dump_json(indent=2) + "\n")
    else:
        _print_stream(url, question, token=token, **parameters)


def _print_models(url: str, token: str | None, *, as_json: bool) -> None:
    from kserve_rag.client import Client

    with Client(url, token=token) as client:
        models = client.models()
    if as_json:
        sys.stdout.write(json.dumps([model.model_dump() for model in models], indent=2) + "\n")
        return
    width = max(len(model.id) for model in models)
    for model in models:
        sys.stdout.write(f"{model.id:<{width}}  {model.display_name}\n")


def ask_first(url: str, question: str) -> None:
    """Print a question and its streamed answer."""
    console.print(f"\n[bold]{escape(question)}[/]")
    _print_stream(url, question)


def _print_stream(url: str, question: str, *, token: str | None = None, **parameters: Unpack[Parameters]) -> None:
    from kserve_rag.cli.output import print_answer
    from kserve_rag.client import Client

    with Client(url, token=token) as client:
        print_answer(console, client.stream(question, **parameters))


def mcp(
    url: UrlOption = None,
    http: Annotated[bool, typer.Option("--http", help="Serve streamable HTTP instead of stdio.")] = False,
    host: Annotated[str, typer.Option(help="With --http: address to listen on.")] = HOST,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="With --http: port to listen on.")] = 8089,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="With --http: another host name, besides localhost, that clients may use."),
    ] = None,
) -> None:
    """Serve the graph to AI assistants as MCP tools: `search`, `ask`, `indexes` and `models`.

    Without --http, the assistant starts this command itself and talks to it over standard input and output. Most
    assistants are configured like this:

      {"mcpServers": {"kserve-rag": {
        "command": "/path/to/kserve-rag", "args": ["mcp"]}}}

    Set KSERVE_RAG_TOKEN there if the graph requires a token.

    With --http, each client's own Authorization header is forwarded and KSERVE_RAG_TOKEN is ignored. The server
    listens on this machine only, unless --host and --allow-host are given.

    [bold]Examples[/]

      kserve-rag mcp
      kserve-rag mcp --url https://rag.example.org
      kserve-rag mcp --http                     at http://127.0.0.1:8089/mcp
      kserve-rag mcp --http --host 0.0.0.0 --allow-host mcp.example.org
    """
    settings = read_settings()
    names = allow_host or []
    from kserve_rag.mcp import LOOPBACK, GraphTools, need_port, serve_http, serve_stdio

    if host not in LOOPBACK and not names:
        raise UsageError(
            f"--host {host} makes this server reachable from other machines. "
            "Add the host name that clients use: --allow-host mcp.example.org."
        )
    state = running(settings) if url is None else None
    address = url or (state.services["transformer"].url if state else f"http://{HOST}:{settings.port}")
    tools = GraphTools(address, token=settings.token)
    if not http:
        serve_stdio(tools)
        return
    need_port(host, port)
    errors.print(f"MCP server at http://{host}:{port}/mcp for the graph at {address} · Ctrl-C stops it.")
    serve_http(tools, host=host, port=port, names=names)
