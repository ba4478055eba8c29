"""A transformer with scripted responses in the wire formats of docs/api.md, for failures and unusual content."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Respond = Callable[["Exchange"], None]


class Exchange:
    """One request, and how it is answered."""

    def __init__(self, handler: BaseHTTPRequestHandler, body: Any) -> None:
        self._handler = handler
        self.body = body
        self.headers = handler.headers

    def reply(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self._handler.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self._handler.send_header(name, value)
        self._handler.send_header("content-length", str(len(content)))
        self._handler.end_headers()
        self._handler.wfile.write(content)

    def stream(self, events: Sequence[Mapping[str, Any]] | Iterator[Mapping[str, Any]]) -> None:
        """Server-sent events; the connection is closed after the last one."""
        self._handler.send_response(200)
        self._handler.send_header("content-type", "text/event-stream")
        self._handler.send_header("connection", "close")
        self._handler.end_headers()
        for event in events:
            self._handler.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            self._handler.wfile.flush()


class ScriptedTransformer:
    """Listens on loopback until it is closed."""

    def __init__(self) -> None:
        self.requests: list[Exchange] = []
        """Requests and their answers, oldest first."""
        self.documents: dict[str, dict[str, Any]] = {}
        self.examples: list[str] = []
        self.models = [{"id": "rag", "object": "model", "display_name": "rag"}]
        self.respond: Respond = answering("Yes.")
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                if path == "/v1/indexes":
                    index = {"name": "default", "version": "v1", "documents": 1, "chunks": 1, "embedder": "e"}
                    indexes = [{**index, "examples": script.examples, "reason": None}]
                    Exchange(self, None).reply(200, {"default": "default", "indexes": indexes, "reason": None})
                elif path == "/openai/v1/models":
                    Exchange(self, None).reply(200, {"object": "list", "data": script.models})
                elif document := script.documents.get(path.removeprefix("/v1/documents/")):
                    Exchange(self, None).reply(200, document)
                else:
                    Exchange(self, None).reply(404, {"error": "There is none.", "code": "not_found", "field": None})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                exchange = Exchange(self, body)
                script.requests.append(exchange)
                script.respond(exchange)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """Some tests disconnect the browser on purpose."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def begun(sources: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The first event of a stream."""
    return {
        "id": "1",
        "model_name": "rag",
        "sources": list(sources),
        "index_version": "v1",
        "cut": [],
        "query": None,
        "timings": {"embed": 2.0, "search": 1.0, "retrieval": 4.0, "prompt": 1.0},
        "answerability": 0.9,
    }


def ended(sources: Sequence[Mapping[str, Any]] = (), **changes: Any) -> dict[str, Any]:
    """The last event of a stream."""
    return {
        "text_output": "",
        "finish_reason": "stop",
        "refused": False,
        "sources": list(sources),
        "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13},
        "timings": {**begun()["timings"], "first_token": 20.0, "generation": 30.0, "citations": 1.0, "total": 57.0},
        "topics": [],
        "citations": None,
        **changes,
    }


def answering(text: str, sources: Sequence[Mapping[str, Any]] = (), **end: Any) -> Respond:
    """Answers everything with this."""
    events = [begun(sources), {"text_output": text}, ended(sources, **end)]
    return lambda exchange: exchange.stream(events)


def source(document: Mapping[str, Any], start: int, end: int, number: int = 1) -> dict[str, Any]:
    """A passage of a document."""
    return {
        "number": number,
        "text": document["text"][start:end],
        "document_id": document["id"],
        "chunk_id": f"c{number}",
        "title": document["title"],
        "url": document["url"],
        "source": document["source"],
        "heading_path": ["Part", "Chapter"],
        "span": {"start": start, "end": end},
        "metadata": {},
        "index_version": "v1",
        "collection": "default",
        "score": 0.7,
        "similarity": 0.6,
        "lexical_score": 3.0,
        "support": 1.0,
    }


def document(text: str, **changes: Any) -> dict[str, Any]:
    """A stored document."""
    facts = {"id": "d1", "title": "A document", "url": None, "source": "d1.md", "metadata": {}, **changes}
    return {**facts, "text": text, "collection": "default", "index_version": "v1"}
