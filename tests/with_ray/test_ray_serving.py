"""The services on Ray Serve, from the shipped config file, compared with the same services without Ray."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import psutil
import pytest
import yaml
from openai import OpenAI

from tests.fakes.embedder import LoopbackEmbedder
from tests.fakes.gated_predictor import WORDS, GatedPredictor
from tests.processes import free_ports, program, until
from transformer.settings import TransformerSettings
from vectorstore.settings import VectorstoreSettings

if TYPE_CHECKING:
    from tests.with_ray.conftest import Cluster

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "scaleout" / "serve.yaml"
DOCUMENTS = ROOT / "tests" / "ingest" / "files"
QUESTION = "How often are pots glazed?"
STARTS_WITHIN_S = 180.0
REPLICA = "ray::ServeReplica:transformer:"


@dataclass(frozen=True)
class Services:
    transformer: str
    vectorstore: str


@pytest.fixture(scope="module")
def embedder() -> Iterator[LoopbackEmbedder]:
    with LoopbackEmbedder() as server:
        yield server


@pytest.fixture(scope="module")
def predictor() -> Iterator[GatedPredictor]:
    with GatedPredictor() as server:
        yield server


@pytest.fixture(scope="module")
def variables(
    embedder: LoopbackEmbedder, predictor: GatedPredictor, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """Settings of both services but for their addresses, over an index of documents."""
    from kserve_rag.models.store import ModelStore
    from kserve_rag.settings import Settings

    root = tmp_path_factory.mktemp("indexes")
    ingest = {"INGEST_INDEX_ROOT": str(root), "INGEST_TOKENIZER": str(tokenizer), "INGEST_EMBEDDER_URL": embedder.url}
    subprocess.run([sys.executable, "-m", "ingest", DOCUMENTS], env={**os.environ, **ingest}, check=True)
    return {
        "VECTORSTORE_INDEX_ROOT": str(root),
        "VECTORSTORE_EMBEDDER_URL": embedder.url,
        "VECTORSTORE_EMBEDDER_MODEL": "minilm",
        "TRANSFORMER_PREDICTOR_URL": predictor.url,
        "TRANSFORMER_PROMPT_FORMAT": str(ModelStore(Settings().models).materialise("smollm2-135m", "llm").path),
        "TRANSFORMER_REFUSE": "false",
        "TRANSFORMER_TURNS_SECRET": "the same for every replica",
    }


@pytest.fixture(scope="module")
def plain(variables: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """As without Ray."""
    logs = tmp_path_factory.mktemp("plain")
    ports = free_ports(2)
    urls = Services(*(f"http://127.0.0.1:{port}" for port in ports))
    environ = {**os.environ, **variables, "TRANSFORMER_VECTORSTORE_URL": urls.vectorstore}
    for name, port in zip(("TRANSFORMER", "VECTORSTORE"), ports, strict=True):
        environ |= {f"{name}_HOST": "127.0.0.1", f"{name}_HTTP_PORT": str(port), f"{name}_ENABLE_GRPC": "false"}
    with contextlib.ExitStack() as stack:
        for name in ("vectorstore", "transformer"):
            ready = f"{getattr(urls, name)}/v2/health/ready"
            stack.enter_context(program([sys.executable, "-m", name], ready, environ, log=logs / name))
        yield urls


@pytest.fixture(scope="module")
def on_ray(
    cluster: Cluster, variables: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Services]:
    """Two replicas of the transformer and one of the vectorstore."""
    folder = tmp_path_factory.mktemp("serve")
    config = yaml.safe_load(CONFIG.read_text("utf-8"))
    (port,) = free_ports(1)
    config["http_options"] |= {"host": "127.0.0.1", "port": port}
    for application in config["applications"]:
        name = application["name"].upper()
        own = {key: value for key, value in variables.items() if key.startswith(name)}
        application["runtime_env"]["env_vars"] |= own
        (deployment,) = application["deployments"]
        deployment["ray_actor_options"]["num_cpus"] = 0.1
        replicas = 2 if name == "TRANSFORMER" else 1
        deployment["autoscaling_config"] |= {"min_replicas": replicas, "max_replicas": replicas}
    url = f"http://127.0.0.1:{port}"
    config["applications"][1]["runtime_env"]["env_vars"]["TRANSFORMER_VECTORSTORE_URL"] = f"{url}/vectorstore"
    (folder / "serve.yaml").write_text(yaml.safe_dump(config), "utf-8")
    command = [Path(sys.executable).with_name("serve"), "run", folder / "serve.yaml"]
    with program(command, f"{url}/v2/health/ready", cluster.environ, log=folder / "log"):
        until(lambda: len(cluster.processes(REPLICA)) == 2, STARTS_WITHIN_S)
        yield Services(url, f"{url}/vectorstore")


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60, trust_env=False) as client:
        yield client


def test_every_variable_of_the_config_file_is_a_setting() -> None:
    kinds = {"vectorstore": VectorstoreSettings, "transformer": TransformerSettings}
    for application in yaml.safe_load(CONFIG.read_text("utf-8"))["applications"]:
        kind = kinds[application["name"]]
        for name in application["runtime_env"]["env_vars"]:
            if name != "OPENBLAS_NUM_THREADS":
                assert name.removeprefix(kind.model_config["env_prefix"]).lower() in kind.model_fields, name


CHAT = {"model": "rag", "messages": [{"role": "user", "content": QUESTION}]}
TENSOR = {"name": "input", "shape": [1], "datatype": "BYTES", "data": [QUESTION]}
REQUESTS: dict[str, tuple[str, str, str, Any]] = {
    "v1": ("transformer", "POST", "/v1/models/rag:predict", {"instances": [{"input": QUESTION}] * 2}),
    "v2": ("transformer", "POST", "/v2/models/rag/infer", {"id": "1", "inputs": [TENSOR]}),
    "generate": ("transformer", "POST", "/v2/models/rag/generate", {"text_input": QUESTION, "id": "1"}),
    "generate_stream": ("transformer", "POST", "/v2/models/rag/generate_stream", {"text_input": QUESTION, "id": "1"}),
    "openai": ("transformer", "POST", "/openai/v1/chat/completions", CHAT),
    "openai stream": ("transformer", "POST", "/v1/chat/completions", {**CHAT, "stream": True}),
    "models": ("transformer", "GET", "/v1/models", None),
    "metadata": ("transformer", "GET", "/v2/models/rag", None),
    "ready": ("transformer", "GET", "/v2/models/rag/ready", None),
    "wrong model": ("transformer", "POST", "/v1/models/nope:predict", {"instances": [{"input": QUESTION}]}),
    "wrong body": ("transformer", "POST", "/v2/models/rag/generate", {"text_input": 1}),
    "openai error": ("transformer", "POST", "/openai/v1/chat/completions", {**CHAT, "model": "nope"}),
    "no route": ("transformer", "GET", "/nothing/here", None),
    "search": ("vectorstore", "POST", "/v1/models/vectorstore:predict", {"instances": [{"input": QUESTION}]}),
    "indexes": ("vectorstore", "GET", "/v1/indexes", None),
    "unknown document": ("vectorstore", "GET", "/v1/documents/a/b.md", None),
    "filter error": (
        *("vectorstore", "POST", "/v1/models/vectorstore:predict"),
        {"instances": [{"input": QUESTION, "filters": {"nope": 1}}]},
    ),
}


def lasting(content: Any) -> Any:
    """An answer without the parts that differ between requests."""
    if isinstance(content, list):
        return [lasting(item) for item in content]
    if not isinstance(content, dict):
        return content
    if content.get("name") == "timings":  # the tensor
        return {**content, "data": None}
    made_up = isinstance(content.get("id"), str) and re.fullmatch(r"(chatcmpl-)?[0-9a-f-]{32,36}", content["id"])
    dropped = {"timings", "timings_ms", "created", *(("id",) if made_up else ())}
    return {name: lasting(value) for name, value in content.items() if name not in dropped}


def parsed(response: httpx.Response) -> list[Any]:
    """The JSON of the body, or of its events."""
    lines = (
        response.text.split("\n\n") if response.headers["content-type"].startswith("text/event") else [response.text]
    )
    return [line if line in ("", "data: [DONE]") else json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.mark.parametrize("name", REQUESTS)
def test_answers_are_those_without_ray(name: str, plain: Services, on_ray: Services, http: httpx.Client) -> None:
    service, method, path, body = REQUESTS[name]
    answers = [http.request(method, getattr(urls, service) + path, json=body) for urls in (plain, on_ray)]
    assert lasting(parsed(answers[1])) == lasting(parsed(answers[0]))
    for header in ("content-type", "retry-after", "cache-control"):
        assert answers[1].headers.get(header) == answers[0].headers.get(header)
    assert answers[1].status_code == answers[0].status_code
    assert answers[1].headers["x-request-id"]


def test_openai_s_client(on_ray: Services) -> None:
    with OpenAI(base_url=f"{on_ray.transformer}/v1", api_key="none") as client:
        chunks = client.chat.completions.create(**CHAT, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "".join(WORDS)


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


@contextlib.contextmanager
def streaming(on_ray: Services, http: httpx.Client) -> Iterator[Iterator[dict[str, Any]]]:
    url = f"{on_ray.transformer}/v2/models/rag/generate_stream"
    with http.stream("POST", url, json={"text_input": QUESTION}) as response:
        assert response.status_code == 200
        yield events(response)


def test_a_streamed_answer_arrives_in_pieces(on_ray: Services, predictor: GatedPredictor, http: httpx.Client) -> None:
    predictor.shut()
    try:
        with streaming(on_ray, http) as answer:
            assert next(answer)["sources"]
            assert next(answer) == {"text_output": WORDS[0]}
            until(lambda: bool(predictor.waiting))  # for the rest, which has not been made yet
            predictor.open()
            *texts, end = answer
        assert [event["text_output"] for event in texts] == list(WORDS[1:])
        assert end["finish_reason"] == "stop"
    finally:
        predictor.open()


def test_a_disconnecting_client_ends_its_generation(
    on_ray: Services, predictor: GatedPredictor, http: httpx.Client
) -> None:
    predictor.shut()
    try:
        with streaming(on_ray, http) as answer:
            next(answer)
            until(lambda: bool(predictor.waiting))
        assert predictor.left.wait(30)
    finally:
        predictor.open()


def test_a_killed_replica_loses_only_its_own_answers(
    cluster: Cluster, on_ray: Services, predictor: GatedPredictor, http: httpx.Client
) -> None:
    url = f"{on_ray.transformer}/v2/models/rag/generate"
    body = {"text_input": QUESTION}
    predictor.shut()
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(4))
        stack.callback(predictor.open)
        streams = [stack.enter_context(streaming(on_ray, http)) for _ in range(8)]
        for stream in streams:
            assert "sources" in next(stream)
        posts = [pool.submit(http.post, url, json=body) for _ in range(4)]
        until(lambda: len(predictor.waiting) == 12)
        held = {replica: ports(replica) & predictor.waiting for replica in cluster.processes(REPLICA)}
        assert len(held) == 2
        assert all(held.values())  # both have some to do
        killed = next(iter(held))
        killed.kill()
        lost = len(held[killed])
        until(lambda: len(predictor.waiting) == 12 - lost)
        predictor.open()
        whole = [is_whole(stream) for stream in streams]
        answers = [post.result() for post in posts]
    assert {answer.status_code for answer in answers} <= {200, 500}
    whole += [answer.status_code == 200 and answer.json()["text_output"] == "".join(WORDS) for answer in answers]
    assert whole.count(False) == lost
    # New requests go to the other replica until there are two again.
    for _ in range(10):
        answer = http.post(url, json=body)
        assert (answer.status_code, answer.json()["text_output"]) == (200, "".join(WORDS))
    until(lambda: len(cluster.processes(REPLICA)) == 2, STARTS_WITHIN_S)


def ports(process: psutil.Process) -> set[int]:
    return {connection.laddr.port for connection in process.connections("tcp")}


def is_whole(answer: Iterator[dict[str, Any]]) -> bool:
    """Whether a streamed answer is complete. An incomplete one must not look complete."""
    try:
        return "finish_reason" in list(answer)[-1]
    except httpx.RemoteProtocolError:
        return False


def test_an_unreachable_upstream_is_reported_and_no_replica_restarts(
    cluster: Cluster, plain: Services, on_ray: Services, predictor: GatedPredictor, http: httpx.Client
) -> None:
    before = {replica.pid for replica in cluster.processes(REPLICA)}
    predictor.loaded = False
    answers = [http.get(f"{urls.transformer}/v2/health/ready") for urls in (plain, on_ray)]
    predictor.loaded = True
    assert [answer.status_code for answer in answers] == [503, 503]
    assert answers[1].json() == answers[0].json()
    assert http.get(f"{on_ray.transformer}/v2/health/ready").status_code == 200
    assert {replica.pid for replica in cluster.processes(REPLICA)} == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("vectorstore({})", "SettingError: VECTORSTORE_NUM_DOCS: "),
        ("transformer({'port': '8080'})", "ValueError: args: port: set variables in"),
    ],
)
def test_a_wrong_setting_fails_the_application(call: str, message: str) -> None:
    """Ray shows the message with the application's status, before any replica starts."""
    program = f"from scaleout.serving import transformer, vectorstore; {call}"
    environ = {**os.environ, "VECTORSTORE_NUM_DOCS": "many"}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert message in done.stderr


def test_public_listeners_need_the_token(cluster: Cluster, on_ray: Services) -> None:
    """Ray opens one such port per replica, for calls between deployments, and has no setting for its address."""
    listening = []
    for process in cluster.process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a worker that had nothing to do may have ended
            listening += [
                (process, connection.laddr)
                for connection in process.connections("inet")
                if connection.status == psutil.CONN_LISTEN
            ]
    beyond = [(process, at.port) for process, at in listening if at.ip not in ("127.0.0.1", "::ffff:127.0.0.1")]
    replicas = cluster.processes("ray::ServeReplica:")
    assert sorted(process.pid for process, _ in beyond) == sorted(replica.pid for replica in replicas)
    for _, port in beyond:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary("/ray.serve.ASGIService/HandleRequest")(b"", timeout=30)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
