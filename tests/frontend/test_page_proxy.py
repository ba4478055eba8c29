"""The proxy from a browser to the graph: forwarded routes and headers, streams, and failures."""

from __future__ import annotations

import http.client
import itertools
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from ingest.wire import Task
from tests.frontend.page_servers import Frontend, RunFrontend, Wire
from tests.processes import free_ports, until

STREAM = "/api/transformer/v2/models/rag/generate_stream"
GENERATE = "/api/transformer/v2/models/rag/generate"
DOCUMENTS = "/api/transformer/v1/documents"
UPLOAD = "/api/ingest/v1/indexes/default/documents"


def ask(question: str) -> dict[str, str]:
    return {"text_input": question}


def events(lines: Iterator[str]) -> Iterator[dict[str, object]]:
    """The data of each event, as it arrives."""
    return (json.loads(line[5:]) for line in lines if line.startswith("data:"))


@pytest.fixture
def name() -> str:
    """An event name that no other test uses."""
    return uuid.uuid4().hex


# Forwarded requests


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "transformer/openai/v1/models", 200),
        ("GET", "transformer/v1/indexes", 200),
        ("GET", "transformer/v1/documents/manual/transmission.html", 200),
        ("GET", "transformer/v2/models/rag/ready", 200),
        ("POST", "transformer/v2/models/rag/generate", 200),
        ("POST", "transformer/v2/models/rag/generate_stream", 200),
        ("POST", "transformer/openai/v1/chat/completions", 200),
        ("GET", "ingest/v1/limits", 200),
        ("GET", "ingest/v1/indexes/default/documents", 200),
        ("POST", "ingest/v1/indexes/default/documents", 202),
        ("DELETE", "ingest/v1/indexes/default/documents/manual/a.md", 202),
        ("POST", "ingest/v1/indexes/default/reindex", 202),
        ("GET", "ingest/v1/tasks", 200),
        ("GET", "ingest/v1/tasks/t1", 200),
        ("GET", "ingest/v1/tasks/t1/events", 200),
        ("DELETE", "ingest/v1/tasks/t1", 200),
    ],
)
def test_the_routes_of_the_page_are_forwarded(client: httpx.Client, method: str, path: str, status: int) -> None:
    body = ask("What?") if method == "POST" else None
    response = client.request(method, f"/api/{path}", json=body)
    assert response.status_code == status
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "transformer/metrics"),
        ("GET", "transformer/ready"),
        ("GET", "transformer/v2/models"),
        ("GET", "transformer/v2/models/rag"),
        ("POST", "transformer/v2/models/rag/infer"),
        ("POST", "transformer/v2/repository/models/rag/unload"),
        ("POST", "transformer/v1/models/rag:predict"),
        ("DELETE", "transformer/v1/documents/x"),
        ("PUT", "transformer/v1/indexes"),
        ("POST", "transformer/v2/models/rag/ready"),
        ("GET", "transformer/v1/documents/../../v2/models"),
        ("GET", "transformer/v1/documents/%2e%2e/%2E%2e/metrics"),
        ("GET", "transformer/v1/documents/a/./b"),
        ("GET", "transformer/v2/models/rag%2Finfer%3F/ready"),
        ("POST", "ingest/v1/limits"),
        ("GET", "ingest/test/x"),
        ("POST", "ingest/test/x"),
        ("GET", "other/v1/limits"),
        ("GET", "transformer"),
    ],
)
def test_other_routes_are_not_forwarded(frontend: Frontend, method: str, path: str) -> None:
    # Python's own client does not resolve the dots.
    connection = http.client.HTTPConnection(frontend.url.removeprefix("http://"))
    connection.request(method, f"/api/{path}", headers={"sec-fetch-site": "same-origin"})
    response = connection.getresponse()
    assert response.status == 404
    assert json.loads(response.read())["code"] == "not_found"
    connection.close()


def test_an_encoded_prefix_is_not_accepted(run_frontend: RunFrontend, built: Path) -> None:
    (port,) = free_ports(1)
    nobody = f"http://127.0.0.1:{port}"
    with run_frontend(
        FRONTEND_TRANSFORMER_URL=nobody, FRONTEND_INGEST_URL=nobody, FRONTEND_PAGE_DIR=str(built)
    ) as frontend:
        for path, status in (("/api/ingest", 503), ("/api/%69ngest", 404), ("/api%2Fingest", 404)):
            connection = http.client.HTTPConnection(frontend.url.removeprefix("http://"))
            connection.request("GET", f"{path}/v1/limits")
            assert connection.getresponse().status == status
            connection.close()


def test_paths_and_queries_arrive_as_they_were_sent(client: httpx.Client) -> None:
    document = client.get(f"{DOCUMENTS}/a%2Fb%20c%3Fd/%E4%BA%BA?collection=x%26y&version=1").json()
    assert document["raw"] == "/v1/documents/a%2Fb%20c%3Fd/%E4%BA%BA"
    assert document["id"] == "a/b c?d/人"
    assert document["query"] == "collection=x%26y&version=1"
    listed = client.get("/api/ingest/v1/indexes/default/documents?limit=5&after=a%2Fb")
    assert listed.json()["query"] == "limit=5&after=a%2Fb"


def test_headers_of_a_question_are_forwarded(client: httpx.Client) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    response = client.post(
        GENERATE,
        json=ask("What?"),
        headers={
            "authorization": "Bearer a.b.c",
            "x-request-id": "request-1",
            "traceparent": trace,
            "tracestate": "vendor=1",
            "x-request-timeout-ms": "30000",
            "accept": "application/json",
            "cookie": "_oauth2_proxy=secret",
            "x-forwarded-access-token": "secret",
            "origin": str(client.base_url),
            "connection": "keep-alive, x-hop",
            "x-hop": "1",
        },
    )
    sent = response.json()["headers"]
    assert sent["authorization"] == "Bearer a.b.c"
    assert sent["x-request-id"] == response.headers["x-request-id"] == "request-1"
    assert (sent["traceparent"], sent["tracestate"]) == (trace, "vendor=1")
    assert 20000 < int(sent["x-request-timeout-ms"]) <= 30000
    assert (sent["accept"], sent["content-type"]) == ("application/json", "application/json")
    assert not {"cookie", "x-forwarded-access-token", "origin", "x-hop", "sec-fetch-site"} & sent.keys()
    assert "secret" not in json.dumps(sent)
    assert response.headers["server-timing"] == "total;dur=1"


def test_no_header_leaks_into_the_next_request(client: httpx.Client) -> None:
    client.post(GENERATE, json=ask("What?"), headers={"authorization": "Bearer a.b.c"})
    assert "authorization" not in client.post(GENERATE, json=ask("What?")).json()["headers"]


# Streams


def test_events_arrive_one_by_one(client: httpx.Client, wire: Wire, name: str) -> None:
    """Each is sent only after the previous one was read here."""
    with client.stream("POST", STREAM, json=ask(f"step {name}")) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        assert "content-encoding" not in response.headers
        arriving = events(response.iter_lines())
        assert next(arriving)["query"] == f"step {name}"
        for number in range(3):
            wire.happens(f"{name}.{number}")
            assert "text_output" in next(arriving)
        assert next(arriving)["finish_reason"] == "stop"
        assert list(arriving) == []


def test_every_byte_of_a_stream_is_passed_on(client: httpx.Client, wire: Wire) -> None:
    for question in ("What?", "crlf"):
        direct = httpx.post(f"{wire.url}/v2/models/rag/generate_stream", json=ask(question), trust_env=False)
        assert client.post(STREAM, json=ask(question)).content == direct.content


def test_a_disconnect_stops_the_answer(client: httpx.Client, wire: Wire, name: str) -> None:
    with client.stream("POST", STREAM, json=ask(f"hang {name}")) as response:
        next(events(response.iter_lines()))
    wire.wait(f"{name}.left")


def test_a_disconnect_before_the_answer_cancels_it(frontend: Frontend, wire: Wire, name: str) -> None:
    connection = http.client.HTTPConnection(frontend.url.removeprefix("http://"))
    connection.request("POST", GENERATE, json.dumps(ask(f"hang {name}")), {"content-type": "application/json"})
    wire.wait(f"{name}.asked")
    connection.close()
    wire.wait(f"{name}.left")


def test_a_broken_stream_ends_with_an_error_event(client: httpx.Client) -> None:
    response = client.post(STREAM, json=ask("break"))
    *before, last = events(iter(response.text.splitlines()))
    assert [event.get("text_output") for event in before] == [None, "Records ", "are sent ", "at 06:00 UTC."]
    assert last == {"error": "The transformer ended its response early.", "code": "not_ready"}


def test_a_truncated_document_is_an_error(client: httpx.Client) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(f"{DOCUMENTS}/half")


def test_following_a_task_resumes_at_the_last_event(client: httpx.Client) -> None:
    assert client.get("/api/ingest/v1/tasks/t1/events").text.count("event: task") == 3
    rest = client.get("/api/ingest/v1/tasks/t1/events", headers={"last-event-id": "2"}).text
    assert rest.startswith("event: task\nid: 3\ndata: ")
    assert Task.model_validate_json(rest.partition("data: ")[2]).state == "succeeded"


def test_resumable_events_are_cut_off(client: httpx.Client) -> None:
    with client.stream("GET", "/api/ingest/v1/tasks/break/events") as response:
        lines = response.iter_lines()
        assert [next(lines) for _ in range(2)] == ["event: task", "id: 1"]
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)


# Failures


@pytest.mark.parametrize(
    ("question", "status", "body", "retry_after"),
    [
        ("busy", 429, {"error": "The queue is full.", "code": "busy"}, "7"),
        (
            "invalid",
            400,
            {"error": "temperature: is 9, at most 2.", "code": "invalid_request", "field": "temperature"},
            None,
        ),
    ],
)
def test_errors_of_the_graph_are_passed_back(
    client: httpx.Client, question: str, status: int, body: dict[str, str], retry_after: str | None
) -> None:
    response = client.post(GENERATE, json=ask(question))
    assert (response.status_code, response.json()) == (status, body)
    assert response.headers.get("retry-after") == retry_after


@pytest.mark.parametrize(
    ("document", "status", "code"),
    [
        ("absent", 404, "not_found"),
        ("denied", 401, "unauthorized"),
        ("mesh", 401, "unauthorized"),  # a proxy's plain text becomes our JSON
        ("moved", 502, "bad_upstream"),
    ],
)
def test_other_refusals(client: httpx.Client, document: str, status: int, code: str) -> None:
    response = client.get(f"{DOCUMENTS}/{document}")
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


def test_an_unreachable_graph(run_frontend: RunFrontend, built: Path) -> None:
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    with (
        run_frontend(FRONTEND_TRANSFORMER_URL=url, FRONTEND_INGEST_URL=url, FRONTEND_PAGE_DIR=str(built)) as running,
        httpx.Client(base_url=running.url, trust_env=False, headers={"sec-fetch-site": "same-origin"}) as client,
    ):
        for response in (client.post(STREAM, json=ask("x")), client.post(UPLOAD, files={"files": b"x"})):
            assert response.status_code == 503
            assert response.json()["code"] == "not_ready"
            assert response.headers["retry-after"] == "2"
            assert response.headers["x-request-id"]
        assert client.get("/ready").status_code == client.get("/").status_code == 200


def test_a_slow_answer_times_out(client: httpx.Client, name: str) -> None:
    response = client.post(GENERATE, json=ask(f"hang {name}"), headers={"x-request-timeout-ms": "50"})
    assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
    # Long enough for the first event.
    stream = client.post(STREAM, json=ask(f"hang {name}"), headers={"x-request-timeout-ms": "2000"})
    *_, last = events(iter(stream.text.splitlines()))
    assert last["code"] == "deadline_exceeded"
    wrong = client.post(STREAM, json=ask("x"), headers={"x-request-timeout-ms": "soon"})
    assert (wrong.status_code, wrong.json()["field"]) == (400, "x-request-timeout-ms")


def test_without_an_ingest_service_uploads_are_refused(run_frontend: RunFrontend, wire: Wire, built: Path) -> None:
    with run_frontend(FRONTEND_TRANSFORMER_URL=wire.url, FRONTEND_PAGE_DIR=str(built)) as running:
        response = httpx.get(f"{running.url}/api/ingest/v1/limits", trust_env=False)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert "No ingest service" in response.json()["error"]


# Uploads


def test_an_upload_is_passed_on_while_it_is_read(client: httpx.Client, wire: Wire) -> None:
    """Ingest receives the first bytes before the browser has sent the last."""

    def content() -> Iterator[bytes]:
        yield bytes(1_000_000)
        wire.wait("default.began")
        yield bytes(1_000_000)

    response = client.post(UPLOAD, content=content(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert (response.status_code, response.json()["size"]) == (202, 2_000_000)
    assert response.json()["headers"]["content-type"] == "multipart/form-data; boundary=x"


def test_an_upload_keeps_its_length(client: httpx.Client) -> None:
    sent = client.post(UPLOAD, files=[("files", ("a.md", b"# A")), ("files", ("b.md", b"# B"))])
    assert sent.json()["headers"]["content-length"] == str(sent.json()["size"])
    assert "transfer-encoding" not in sent.json()["headers"]


def test_a_file_that_ingest_refuses_as_too_large_gets_413(client: httpx.Client) -> None:
    """Ingest responds before it has read anything; the connection stays usable."""
    response = client.post(UPLOAD, files={"files": ("a.md", bytes(200_000_000))})
    assert response.status_code == 413
    assert response.json()["error"].startswith("The files are larger than 4000000 bytes")
    assert client.post(UPLOAD, files={"files": ("a.md", b"# A")}).status_code == 202


def test_an_upload_is_never_held_in_memory(frontend: Frontend, client: httpx.Client) -> None:
    def peak_bytes() -> int:
        (line,) = (line for line in Path(f"/proc/{frontend.pid}/status").read_text().splitlines() if "VmHWM" in line)
        return int(line.split()[1]) * 1024

    before = peak_bytes()
    response = client.post(
        UPLOAD, content=iter([bytes(1_000_000)] * 200), headers={"content-type": "multipart/form-data"}
    )
    assert response.json()["size"] == 200_000_000
    assert peak_bytes() - before < 40_000_000


def test_the_page_has_its_own_limit(run_frontend: RunFrontend, wire: Wire, built: Path) -> None:
    with (
        run_frontend(
            FRONTEND_TRANSFORMER_URL=wire.url,
            FRONTEND_INGEST_URL=wire.url,
            FRONTEND_PAGE_DIR=str(built),
            FRONTEND_MAX_BODY_BYTES="100000",
        ) as running,
        httpx.Client(base_url=running.url, trust_env=False, headers={"sec-fetch-site": "same-origin"}) as client,
    ):
        for content in (bytes(200_000), iter([bytes(50_000)] * 4)):
            response = client.post(UPLOAD, content=content, headers={"content-type": "multipart/form-data"})
            assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")


def test_an_abandoned_upload(frontend: Frontend, wire: Wire, name: str) -> None:
    """Ingest notices at once, and no error is logged."""
    path = f"/api/ingest/v1/indexes/{name}/documents"

    class LeftError(Exception):
        pass

    def content() -> Iterator[bytes]:
        yield bytes(100_000)
        wire.wait(f"{name}.began")
        raise LeftError

    headers = {
        "sec-fetch-site": "same-origin",
        "content-type": "multipart/form-data",
        "content-length": "200000",
    }
    with httpx.Client(base_url=frontend.url, trust_env=False) as client, pytest.raises(LeftError):
        client.post(path, content=content(), headers=headers)
    wire.wait(f"{name}.left")
    until(lambda: f"POST {path}  status=499" in frontend.log.read_text())
    assert "ERROR" not in _lines_of(frontend.log, path)


def _lines_of(log: Path, path: str) -> str:
    return "\n".join(line for line in log.read_text().splitlines() if path in line)


def test_a_question_is_not_streamed(client: httpx.Client) -> None:
    response = client.post(GENERATE, content=bytes(9_000_000), headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")


# Origins and hosts

FROM_ELSEWHERE = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "none"},
    {"origin": "https://example.com"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:1"},
    {"sec-fetch-site": "cross-site", "origin": "{own}"},
]


@pytest.mark.parametrize("headers", FROM_ELSEWHERE)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", UPLOAD),
        ("DELETE", f"{UPLOAD}/a.md"),
        ("POST", "/api/ingest/v1/indexes/default/reindex"),
        ("DELETE", "/api/ingest/v1/tasks/t1"),
        ("POST", GENERATE),
    ],
)
def test_other_sites_cannot_use_the_credentials_of_a_browser(
    frontend: Frontend, method: str, path: str, headers: dict[str, str]
) -> None:
    sent = {name: value.format(own=frontend.url) for name, value in headers.items()}
    response = httpx.request(method, f"{frontend.url}{path}", headers=sent, json=ask("What?"), trust_env=False)
    assert (response.status_code, response.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("headers", [{"sec-fetch-site": "same-origin"}, {"origin": "{own}"}])
def test_the_page_itself_can_use_them(frontend: Frontend, headers: dict[str, str]) -> None:
    sent = {name: value.format(own=frontend.url) for name, value in headers.items()}
    url = f"{frontend.url}/api/ingest/v1/indexes/default/reindex"
    assert httpx.post(url, headers=sent, trust_env=False).status_code == 202


def test_behind_a_gateway_the_origin_is_the_gateway(run_frontend: RunFrontend, wire: Wire, built: Path) -> None:
    variables = {"FRONTEND_PAGE_DIR": str(built), "FRONTEND_ALLOWED_HOSTS": "rag.example.com, other.example.com"}
    with run_frontend(FRONTEND_TRANSFORMER_URL=wire.url, FRONTEND_INGEST_URL=wire.url, **variables) as running:
        url = f"{running.url}/api/ingest/v1/indexes/default/reindex"
        own = {"host": "rag.example.com", "origin": "https://rag.example.com"}
        assert httpx.post(url, headers=own, trust_env=False).status_code == 202
        assert httpx.post(url, headers={**own, "host": "other.example.com"}, trust_env=False).status_code == 403
        assert httpx.get(running.url, trust_env=False).status_code == 403
        assert httpx.get(f"{running.url}/ready", trust_env=False).status_code == 200


def test_changes_need_an_origin_header(frontend: Frontend) -> None:
    url = f"{frontend.url}/api/ingest/v1/indexes/default/reindex"
    assert httpx.post(url, trust_env=False).status_code == 403
    assert httpx.post(f"{frontend.url}{GENERATE}", json=ask("What?"), trust_env=False).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8088", 200),
        ("localhost:8088", 200),
        ("LOCALHOST", 200),
        ("[::1]:8088", 200),
        ("[::1]", 200),
        ("rag.example.com", 403),
        ("rag.example.com:8088", 403),
        ("localhost.example.com", 403),
        ("", 400),
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/config", "/api/transformer/v1/indexes"])
def test_on_loopback_only_loopback_names_are_allowed(frontend: Frontend, path: str, host: str, status: int) -> None:
    """DNS rebinding: a site whose name resolves to 127.0.0.1."""
    assert httpx.get(f"{frontend.url}{path}", headers={"host": host}, trust_env=False).status_code == status


# Load and telemetry


def test_32_users_at_once(frontend: Frontend) -> None:
    """Each user gets the page and exactly their own answers."""

    def use(user: int) -> list[str]:
        problems = []
        with httpx.Client(base_url=frontend.url, trust_env=False, timeout=60) as client:
            for turn in range(5):
                if client.get("/").status_code != 200:
                    problems.append("page")
                question = f"user {user} turn {turn}"
                answer = client.post(STREAM, json=ask(question), headers={"x-request-id": question.replace(" ", "-")})
                first, *middle, last = events(iter(answer.text.splitlines()))
                text = "".join(str(event["text_output"]) for event in middle)
                if (first["query"], text, last.get("finish_reason")) != (
                    question,
                    "Records are sent at 06:00 UTC.",
                    "stop",
                ):
                    problems.append(answer.text)
                if answer.headers["x-request-id"] != question.replace(" ", "-"):
                    problems.append("request id")
        return problems

    with ThreadPoolExecutor(32) as threads:
        assert list(itertools.chain.from_iterable(threads.map(use, range(32)))) == []


def test_no_question_is_logged(frontend: Frontend, client: httpx.Client) -> None:
    client.post(STREAM, json=ask("a question that nobody else reads"), headers={"x-request-id": "logged-1"})
    client.get(f"{DOCUMENTS}/x?text=a+question+that+nobody+else+reads")
    client.post(STREAM, json=ask("break"))
    until(lambda: "request_id=logged-1" in frontend.log.read_text())
    assert "nobody" not in frontend.log.read_text()


def test_metrics_name_only_declared_routes(client: httpx.Client) -> None:
    client.get(f"{DOCUMENTS}/made-up")
    # A request is counted after its response.
    route = 'route="/api/transformer/v1/documents/{document_id}"'
    until(lambda: route in client.get("/metrics").text)
    text = client.get("/metrics").text
    assert 'model_name="frontend"' in text
    assert "made-up" not in text
