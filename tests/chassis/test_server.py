"""The edge that every KServe room stands behind, on a running service."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.processes import ENDS_WITHIN_S, STARTS_WITHIN_S, free_ports, program, until

ROOT = Path(__file__).parents[2]
ECHO = ROOT / "tests" / "fakes" / "echo_service.py"


@dataclass
class Echo:
    url: str
    grpc_url: str
    marks: Path
    process: subprocess.Popen[bytes]


@contextlib.contextmanager
def running_echo(marks: Path, **variables: str) -> Iterator[Echo]:
    http_port, grpc_port = free_ports(2)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "ECHO_HOST": "127.0.0.1",
        "ECHO_HTTP_PORT": str(http_port),
        "ECHO_GRPC_PORT": str(grpc_port),
        **variables,
    }
    command = [sys.executable, ECHO, marks]
    url = f"http://127.0.0.1:{http_port}"
    with program(command, f"{url}/v2/health/live", environment) as process:
        yield Echo(url, f"127.0.0.1:{grpc_port}", marks, process)


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Echo]:
    with running_echo(tmp_path_factory.mktemp("marks")) as service:
        yield service


@pytest.fixture
def client(echo: Echo) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=echo.url, limits=httpx.Limits(max_connections=1)) as one_connection:
        yield one_connection
        # Whatever a test sent, the same connection still answers.
        assert one_connection.post("/v1/models/echo:predict", json={"do": "echo"}).status_code == 200


PREDICT = "/v1/models/echo:predict"


def test_unforeseen_errors_hide_internals_and_keep_the_connection(client: httpx.Client) -> None:
    for _ in range(3):
        response = client.post(PREDICT, json={"do": "crash"})
        assert response.status_code == 500
        assert response.json()["code"] == "internal"
        assert "secret" not in response.text
        assert "KeyError" not in response.text
        assert "connection" not in response.headers
    port = client.get("/v2/health/live").extensions["network_stream"].get_extra_info("client_addr")[1]
    client.post(PREDICT, json={"do": "crash"})
    again = client.get("/v2/health/live").extensions["network_stream"].get_extra_info("client_addr")[1]
    assert port == again


@pytest.mark.parametrize(
    ("do", "status", "body", "retry_after"),
    [
        ("invalid", 400, {"error": "count: is 9, at most 5.", "code": "invalid_request", "field": "count"}, None),
        ("busy", 429, {"error": "queue is full", "code": "busy"}, "3"),
        ("absent", 503, {"error": "nothing here yet", "code": "not_ready"}, "2"),
    ],
)
def test_service_errors_have_status_shape_and_retry_after(
    client: httpx.Client, do: str, status: int, body: dict[str, str], retry_after: str | None
) -> None:
    response = client.post(PREDICT, json={"do": do})
    assert (response.status_code, response.json()) == (status, body)
    assert response.headers.get("retry-after") == retry_after


def test_a_stream_over_http_1_0_has_no_chunks(echo: Echo) -> None:
    url = httpx.URL(echo.url)
    with socket.create_connection((url.host, url.port or 80), timeout=30) as connection:
        connection.sendall(b"GET /other/slowly?seconds=0 HTTP/1.0\r\n\r\n")
        head, _, body = b"".join(iter(lambda: connection.recv(65_536), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"transfer-encoding" not in head
    assert body == b"begun, ended"


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Echo]:
    marks = tmp_path_factory.mktemp("impatient")
    with running_echo(marks, ECHO_RECEIVE_TIMEOUT_S="0.3", ECHO_IDLE_TIMEOUT_S="1") as service:
        yield service


HEAD = b"POST /v1/models/echo:predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b""),
        (b"\r\n", b"408"),
        (b"GET /v2/health/li", b"408"),
        (HEAD, b"408"),
        (HEAD + b'content-length: 100\r\n\r\n{"do":', b"408"),
        (HEAD + b'transfer-encoding: chunked\r\n\r\n7\r\n{"do": \r\n', b"408"),
        (HEAD + b"content-length: 999999999\r\n\r\n{", b"413"),  # answered before the body arrives
        (b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n", b"200"),
    ],
    ids=["idle", "blank", "line", "headers", "body", "chunk", "refused", "idle after a response"],
)
def test_connections_of_late_clients_are_closed(impatient: Echo, sent: bytes, status: bytes) -> None:
    url = httpx.URL(impatient.url)
    with socket.create_connection((url.host, url.port or 80), timeout=30) as connection:
        connection.sendall(sent)
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert received.partition(b" ")[2][:3] == status
    assert received.count(b"HTTP/1.1 ") == (status != b"")


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "APPLICATION/JSON", None])
@pytest.mark.parametrize("path", [PREDICT, "/v2/models/echo/infer"])
def test_json_is_read_with_any_content_type(client: httpx.Client, content_type: str | None, path: str) -> None:
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}]}
    headers = {"content-type": content_type} if content_type else {}
    assert client.post(path, content=json.dumps(body), headers=headers).status_code == 200


@pytest.mark.parametrize("path", [PREDICT, "/v2/models/echo/infer"])
@pytest.mark.parametrize(
    "content",
    [b"{", b"", b'"\xff\xfe"', b'{"instances": NaN}', b"[" * 100_000, b'{"inputs": %s}' % (b"9" * 5000)],
    ids=["cut", "empty", "utf8", "nan", "deep", "digits"],
)
def test_bodies_that_are_not_json_are_the_callers_error(client: httpx.Client, path: str, content: bytes) -> None:
    response = client.post(path, content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert set(response.json()) <= {"error", "code", "field"}


@pytest.mark.parametrize("path", [PREDICT, "/v2/models/echo/infer", "/nowhere"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_40_mb_body_is_refused_and_the_connection_lives(client: httpx.Client, path: str, chunked: bool) -> None:
    block = b"x" * 1_000_000
    content = (block for _ in range(40)) if chunked else block * 40
    response = client.post(path, content=content, headers={"content-type": "application/json"})
    if path != "/nowhere" or not chunked:
        assert response.status_code == 413
        assert "8388608 bytes" in response.json()["error"]


def test_request_ids_are_kept_or_made(client: httpx.Client) -> None:
    response = client.post(PREDICT, json={}, headers={"x-request-id": "mine"})
    assert response.headers["x-request-id"] == "mine"
    assert response.json()["predictions"][0]["headers"]["x-request-id"] == "mine"
    assert len(client.post(PREDICT, json={}).headers["x-request-id"]) == 32


def test_only_the_listed_headers_travel_and_the_deadline_shrinks(client: httpx.Client) -> None:
    sent = {"authorization": "Bearer a", "traceparent": "00-1-2-01", "x-request-timeout-ms": "5000", "cookie": "c=1"}
    seen = client.post(PREDICT, json={}, headers=sent).json()["predictions"][0]["headers"]
    assert seen["authorization"] == "Bearer a"
    assert seen["traceparent"] == "00-1-2-01"
    assert 0 < int(seen["x-request-timeout-ms"]) <= 5000
    assert "cookie" not in seen
    assert "authorization" not in client.post(PREDICT, json={}).json()["predictions"][0]["headers"]


@pytest.mark.parametrize("value", ["0", "-5", "soon", "1.5", "9" * 400])
def test_a_bad_deadline_is_named(client: httpx.Client, value: str) -> None:
    response = client.post(PREDICT, json={}, headers={"x-request-timeout-ms": value})
    assert response.status_code == 400
    assert response.json()["field"] == "x-request-timeout-ms"


def test_unknown_models_routes_and_methods(client: httpx.Client) -> None:
    for path in ("/v1/models/nope:predict", "/v2/models/nope/infer"):
        response = client.post(path, json={"inputs": []})
        assert response.status_code == 404
        assert "'echo'" in response.json()["error"]
    assert client.get("/nowhere").json()["code"] == "not_found"
    assert client.put(PREDICT).status_code == 405
    assert client.get("/other/crash").json() == {
        "error": {"message": "The service failed on this request. Its log has the reason under the x-request-id."}
    }


def test_head_is_answered_like_get(client: httpx.Client) -> None:
    for path in ("/", "/v2/health/ready", "/metrics", "/other/slowly?seconds=30", "/nowhere"):
        response = client.head(path)
        assert (response.status_code, response.content) == (404 if path == "/nowhere" else 200, b"")
    assert client.head(PREDICT).status_code == 405


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", PREDICT, "POST"), ("OPTIONS", "/v2/models/echo/infer", "POST"), ("PUT", "/other/both", "GET, POST")],
)
def test_other_methods_learn_the_allowed_ones(client: httpx.Client, method: str, path: str, allowed: str) -> None:
    response = client.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)


def test_a_slash_at_the_end_of_a_path_changes_nothing(client: httpx.Client) -> None:
    assert client.get("/v2/health/live/").json() == {"live": True}
    assert client.post(f"{PREDICT}/", json={"do": "echo"}).status_code == 200


@pytest.mark.parametrize("wbits", [zlib.MAX_WBITS, 16 + zlib.MAX_WBITS], ids=["deflate", "gzip"])
@pytest.mark.parametrize("path", [PREDICT, "/v2/models/echo/infer"])
def test_coded_bodies_are_decoded(client: httpx.Client, path: str, wbits: int) -> None:
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["ä"]}]}
    coded = zlib.compress(json.dumps(body).encode(), wbits=wbits)
    headers = {"content-type": "application/json", "content-encoding": "deflate" if wbits == zlib.MAX_WBITS else "gzip"}
    assert client.post(path, content=coded, headers=headers).status_code == 200
    for faulty in (coded[:-1], coded + b"x", b"{}"):
        response = client.post(path, content=faulty, headers=headers)
        assert response.status_code == 400
        assert headers["content-encoding"] in response.json()["error"]


def test_a_small_body_may_not_unpack_to_a_large_one(client: httpx.Client) -> None:
    coded = gzip.compress(b" " * 40_000_000)
    response = client.post(PREDICT, content=coded, headers={"content-encoding": "gzip"})
    assert (response.status_code, response.json()["code"]) == (413, "payload_too_large")


def test_unknown_codings_are_refused(client: httpx.Client) -> None:
    response = client.post(PREDICT, content=b"{}", headers={"content-encoding": "br"})
    assert (response.status_code, response.headers["accept-encoding"]) == (415, "gzip, deflate")


def test_http_1_1_needs_a_host(echo: Echo) -> None:
    url = httpx.URL(echo.url)
    with socket.create_connection((url.host, url.port or 80), timeout=30) as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("path", [PREDICT, "/v2/models/echo/infer", "/nowhere"])
@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "Text/Plain; charset=utf-8"},
        {"origin": "https://evil.example"},  # a page may send a Blob without a type
    ],
    ids=str,
)
def test_forms_are_no_json(client: httpx.Client, path: str, headers: dict[str, str]) -> None:
    response = client.post(path, content=b'{"do": "echo"}', headers=headers)
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")
    assert "application/json" in response.json()["error"]


@pytest.mark.parametrize("path", ["/", "/v2/models/echo", "/other/slowly?seconds=0", "/nowhere"])
def test_a_foreign_host_is_refused_on_loopback(client: httpx.Client, path: str) -> None:
    for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "[::2]"):
        response = client.get(path, headers={"host": host})
        assert response.status_code == 403
        assert "ECHO_ALLOWED_HOSTS" in response.text
    for host in ("localhost", "LOCALHOST:80", "127.0.0.1:1", "[::1]:8080"):
        assert client.get(path, headers={"host": host}).status_code == (404 if path == "/nowhere" else 200)


def test_probes_may_use_any_host(client: httpx.Client) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/echo/ready", "/v1/models/echo", "/metrics"):
        assert client.get(path, headers={"host": "10.1.2.3:8080"}).status_code == 200


def test_no_page_of_another_origin_reads_by_default(client: httpx.Client) -> None:
    asked = {"origin": "https://portal.example", "access-control-request-method": "POST"}
    assert client.options(PREDICT, headers=asked).status_code == 405
    response = client.post(PREDICT, json={"do": "echo"}, headers={"origin": "https://portal.example"})
    assert response.status_code == 200
    assert not any(name.startswith("access-control") for name in response.headers)


def test_pages_of_the_named_origins_may_read(tmp_path: Path) -> None:
    with running_echo(tmp_path, ECHO_CORS_ORIGINS="https://portal.example, http://localhost:3000") as service:
        for origin, allowed in (("https://portal.example", True), ("http://localhost:3000", True), ("null", False)):
            asked = {"origin": origin, "access-control-request-method": "POST"}
            preflight = httpx.options(service.url + PREDICT, headers=asked)
            assert preflight.status_code == (200 if allowed else 400)
            response = httpx.post(service.url + PREDICT, json={"do": "echo"}, headers={"origin": origin})
            assert response.headers.get("access-control-allow-origin") == (origin if allowed else None)


def test_models_have_version_1(client: httpx.Client) -> None:
    body = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a"]}]}
    assert client.get("/v2/models/echo").json()["versions"] == ["1"]
    assert client.get("/v2/models/echo/versions/1/ready").status_code == 200
    assert client.post("/v2/models/echo/versions/1/infer", json=body).status_code == 200
    response = client.post("/v2/models/echo/versions/2/infer", json=body)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]


def test_callers_cannot_unload_the_model(client: httpx.Client) -> None:
    for verb in ("load", "unload"):
        assert client.post(f"/v2/repository/models/echo/{verb}").status_code == 403


def test_readiness_gives_its_reason(client: httpx.Client, echo: Echo) -> None:
    paths = ("/v1/models/echo", "/v2/models/echo/ready", "/v2/health/ready")
    assert [client.get(path).status_code for path in paths] == [200, 200, 200]
    reason = echo.marks / "reason"
    reason.write_text("The cupboard is bare.")
    try:
        for path in paths:
            response = client.get(path)
            assert response.status_code == 503
            assert response.json()["error"] == "The cupboard is bare."
            assert response.headers["retry-after"]
    finally:
        reason.unlink()


def test_a_disconnecting_client_cancels_the_work(echo: Echo) -> None:
    mark = echo.marks / "cancelled"
    with contextlib.suppress(httpx.ReadTimeout):
        httpx.post(echo.url + PREDICT, json={"do": "hang"}, timeout=0.5)
    until(mark.exists)


TENSOR = {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ([{**TENSOR, "name": "nope"}], "unknown tensor 'nope'"),
        ([TENSOR, TENSOR], "is repeated"),
        ([{**TENSOR, "shape": [3]}], "does not fit shape [3]"),
        ([{**TENSOR, "shape": [-1]}], "negative"),
        ([{**TENSOR, "datatype": "FP32"}], "does not fit"),
        ([{**TENSOR, "datatype": "FP16", "data": [1.0, 2.0]}], "FP16"),
        ([{**TENSOR, "datatype": "NOPE"}], "datatype 'NOPE'"),
        ([{**TENSOR, "datatype": "INT32", "data": [1, 2]}], "expected BYTES"),
        ([{**TENSOR, "data": [["a"], {}]}], "text"),
        ([TENSOR, {"name": "weight", "datatype": "FP32", "shape": [1], "data": [float("nan")]}], "NaN"),
        ([TENSOR, {"name": "count", "datatype": "INT32", "shape": [3], "data": [1, 2, 3]}], "Send 1 or 2"),
    ],
)
def test_invalid_tensors_are_named(client: httpx.Client, inputs: list[dict[str, object]], expected: str) -> None:
    content = json.dumps({"inputs": inputs})
    response = client.post("/v2/models/echo/infer", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert expected in response.json()["error"]


def test_tensors_travel_as_json_and_binary(client: httpx.Client) -> None:
    count = {"name": "count", "datatype": "INT32", "shape": [1], "data": [7]}
    answer = client.post("/v2/models/echo/infer", json={"id": "q", "inputs": [TENSOR, count]}).json()
    assert answer["id"] == "q"
    assert answer["outputs"][0]["data"] == ["a/7", "b/7"]
    raw = b"\x01\x00\x00\x00c"
    head = json.dumps(
        {
            "inputs": [
                {"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}}
            ],
            "outputs": [{"name": "text", "parameters": {"binary_data": True}}],
        }
    ).encode()
    response = client.post(
        "/v2/models/echo/infer",
        content=head + raw,
        headers={"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"},
    )
    assert response.content.endswith(b"c/0")
    unknown = client.post("/v2/models/echo/infer", json={"inputs": [TENSOR], "outputs": [{"name": "nope"}]})
    assert unknown.status_code == 400
    assert "unknown tensor 'nope'" in unknown.json()["error"]


@pytest.mark.parametrize(
    ("raw", "change", "told"),
    [
        (b"\x05\x00", {}, "binary_data_size"),
        (b"\xff\x00\x00\x00ab", {}, "binary_data_size"),
        (b"\x01\x00\x00\x00c", {"shape": [2]}, "binary_data_size"),
        (b"\x01\x00\x00\x00c", {"parameters": {"binary_data_size": "5"}}, "binary_data_size"),
        (b"abc", {"datatype": "INT32"}, "binary_data_size"),
        (b"\x01\x00\x00\x00\xff", {}, "UTF-8"),
        (b"\x01\x00\x00\x00c", {"name": {}}, "not a text"),
        (b"", {"shape": ["1"], "data": ["a"]}, "not a list of sizes"),
    ],
)
def test_invalid_binary_tensors_are_the_callers_error(
    client: httpx.Client, raw: bytes, change: dict[str, object], told: str
) -> None:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}, **change}
    head = json.dumps({"inputs": [tensor]}).encode()
    response = client.post(
        "/v2/models/echo/infer",
        content=head + raw,
        headers={"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"},
    )
    assert response.status_code == 400
    assert told in response.json()["error"]


GRPC_CALL = """
import sys, numpy as np, tritonclient.grpc as t
from tritonclient.utils import InferenceServerException
c = t.InferenceServerClient(sys.argv[1])
i = t.InferInput("text", [1, 1], "BYTES"); i.set_data_from_numpy(np.array([[b"hi"]], dtype=object))
print(c.infer("echo", [i]).as_numpy("text").ravel()[0].decode(), c.is_model_ready("echo"))
b = t.InferInput("nope", [1, 1], "BYTES"); b.set_data_from_numpy(np.array([[b"hi"]], dtype=object))
cut = t.InferInput("text", [1], "BYTES"); cut._raw_content = bytes([255, 0, 0, 0, 97])
for model, tensor in (("echo", b), ("echo", cut), ("nope", i)):
    try: c.infer(model, [tensor])
    except InferenceServerException as e: print(e.status(), e.message())
two = t.InferInput("text", [2], "BYTES"); two.set_data_from_numpy(np.array([b"a", b"b"], dtype=object))
print(c.infer("echo", [two], model_version="1").as_numpy("text").ravel().tolist())
for asked in (lambda: c.infer("echo", [i], model_version="2"), lambda: c.is_model_ready("echo", "2")):
    try: asked()
    except InferenceServerException as e: print(e.status())
try: c.unload_model("echo")
except InferenceServerException as e: print(e.status())
"""


def test_grpc_errors_have_a_status(echo: Echo) -> None:
    done = subprocess.run([sys.executable, "-c", GRPC_CALL, echo.grpc_url], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "hi/0 True", done.stderr
    assert lines[1].startswith("StatusCode.INVALID_ARGUMENT inputs: unknown tensor 'nope'")
    assert lines[2].startswith("StatusCode.INVALID_ARGUMENT text: the data does not fit shape [1]")
    assert lines[3].startswith("StatusCode.NOT_FOUND")
    assert lines[4] == "[b'a/0', b'b/0']"
    assert lines[5:] == ["StatusCode.NOT_FOUND", "StatusCode.NOT_FOUND", "StatusCode.PERMISSION_DENIED"]


GRPC_HEALTH = """
import sys, grpc
from grpc_health.v1 import health_pb2 as h, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2 as r, reflection_pb2_grpc
channel = grpc.insecure_channel(sys.argv[1])
check = health_pb2_grpc.HealthStub(channel).Check
for name in ("", "echo", "inference.GRPCInferenceService", "nope"):
    try: print(h.HealthCheckResponse.ServingStatus.Name(check(h.HealthCheckRequest(service=name)).status))
    except grpc.RpcError as e: print(e.code().name)
asked = iter([r.ServerReflectionRequest(list_services="")])
(told,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked)
print(*sorted(each.name for each in told.list_services_response.service))
"""


def test_grpc_has_the_standard_health_and_reflection(echo: Echo) -> None:
    def lines() -> list[str]:
        return subprocess.check_output([sys.executable, "-c", GRPC_HEALTH, echo.grpc_url], text=True).splitlines()

    *statuses, services = lines()
    assert statuses == ["SERVING", "SERVING", "SERVING", "NOT_FOUND"]
    names = ["grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection", "inference.GRPCInferenceService"]
    assert services.split() == names
    reason = echo.marks / "reason"
    reason.write_text("Not yet.")
    try:
        assert lines()[0] == "NOT_SERVING"
    finally:
        reason.unlink()


def test_shutdown_finishes_requests_and_closes_the_lifespan(tmp_path: Path) -> None:
    with running_echo(tmp_path) as service:
        assert (tmp_path / "opened").exists()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(ENDS_WITHIN_S) == 0
        assert (tmp_path / "closed").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_starts_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "slow").touch()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ECHO_HTTP_PORT": str(free_ports(1)[0])}
    command = [sys.executable, ECHO, tmp_path]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            until(lambda: (tmp_path / "opened").exists(), STARTS_WITHIN_S)
            process.send_signal(number)
            said, _ = process.communicate(timeout=ENDS_WITHIN_S)
        finally:
            process.kill()
    assert process.returncode == 0
    assert f"{number.name} while starting" in said.decode()
    assert "Traceback" not in said.decode()


def test_a_bad_setting_stops_the_program_before_the_port_opens(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ECHO), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "ECHO_TIMEOUT_S": "soon"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("ECHO_TIMEOUT_S: ")
    assert not (tmp_path / "opened").exists()
