"""The running vectorstore: every protocol, bad input, reload under load, faults of the embedder."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import kserve
import numpy as np
import pytest
import tritonclient.http

from chassis.context import CallContext
from chassis.errors import InvalidRequestError, NotFoundError, NotReadyError
from chassis.settings import SettingError, read_settings
from tests.fakes.embedder import FINGERPRINT, Fault, LoopbackEmbedder
from tests.processes import free_ports, until
from tests.vectorstore.running import Service, running
from tests.vectorstore.sample_index import animals, publish
from vectorstore.client import VectorstoreClient
from vectorstore.settings import VectorstoreSettings
from vectorstore.versions import IndexRoot
from vectorstore.wire import MAX_INSTANCES, MAX_NUM_DOCS, MAX_QUERY_CHARS, SearchInstance

PREDICT = "/v1/models/vectorstore:predict"
INFER = "/v2/models/vectorstore/infer"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, LoopbackEmbedder, str]]:
    path = tmp_path_factory.mktemp("indexes")
    version = publish(path)
    with LoopbackEmbedder() as embedder, running(path, embedder.url) as service:
        yield service, embedder, version


@pytest.fixture
def service(shared: tuple[Service, LoopbackEmbedder, str]) -> Iterator[Service]:
    yield shared[0]
    shared[1].fault = None
    # Whatever a test did, the next request on the same connections is answered.
    assert shared[0].passages("cats purr", num_docs=1)[0]["chunk_id"] == "cats-1"


@pytest.fixture
def version(shared: tuple[Service, LoopbackEmbedder, str]) -> str:
    return shared[2]


@pytest.fixture
def hashed(shared: tuple[Service, LoopbackEmbedder, str]) -> LoopbackEmbedder:
    return shared[1]


def tensor(name: str, datatype: str, data: list[Any], shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape or [len(data), 1], "data": data}


def test_v1(service: Service, version: str) -> None:
    response = service.search({"input": "do cats purr", "num_docs": 2}, {"input": "sharks"})
    assert response.headers["content-type"] == "application/json"
    first, second = response.json()["predictions"]
    assert first["passages"][0]["text"] == "Cats purr when they are content"
    assert first["passages"][0]["span"] == {"start": 32, "end": 63}
    assert (len(first["passages"]), len(second["passages"])) == (2, 4)
    assert first["index_version"] == second["index_version"] == version
    assert first["query_tokens"] == 5


def test_v1_takes_any_json_content_type(service: Service) -> None:
    body = json.dumps({"instances": [{"input": "cats"}]})
    for content_type in ("application/json; charset=utf-8", "application/json"):
        assert service.http.post(PREDICT, content=body, headers={"content-type": content_type}).status_code == 200


def test_v2_json(service: Service) -> None:
    inputs = [
        tensor("input", "BYTES", ["cats purr", "dogs bark", "penguins"]),
        tensor("num_docs", "INT32", [1, 2, 0]),
        tensor("filters", "BYTES", ['{"kind": "mammal"}', "", "{}"]),
    ]
    response = service.http.post(INFER, json={"id": "7", "inputs": inputs})
    answer = response.json()
    assert answer["id"] == "7"
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("passages", "BYTES", [3, 1])
    predictions = [json.loads(text) for text in output["data"]]
    assert [len(prediction["passages"]) for prediction in predictions] == [1, 2, 0]
    assert predictions[0]["passages"][0]["chunk_id"] == "cats-1"
    one_for_all = [tensor("input", "BYTES", ["cats", "dogs"]), tensor("num_docs", "INT32", [1], [1])]
    output = service.http.post(INFER, json={"inputs": one_for_all}).json()["outputs"][0]
    assert [len(json.loads(text)["passages"]) for text in output["data"]] == [1, 1]


def test_v2_takes_every_field_of_a_search(service: Service) -> None:
    inputs = [
        tensor("input", "BYTES", ["cats purr", "cats purr"]),
        tensor("num_docs", "INT32", [3], [1]),
        tensor("mode", "BYTES", ["dense", ""]),
        tensor("min_score", "FP32", [0.0, 0.25]),
        tensor("diversity", "FP32", [0.5], [1]),
        tensor("neighbours", "INT32", [0, 1]),
        tensor("collections", "BYTES", ['["default"]', ""]),
        tensor("explain", "BOOL", [True, False]),
    ]
    response = service.http.post(INFER, json={"inputs": inputs})
    assert response.status_code == 200, response.text
    first, second = (json.loads(text) for text in response.json()["outputs"][0]["data"])
    assert first["passages"][0]["score"] == pytest.approx(first["passages"][0]["similarity"])
    assert first["passages"][0]["explain"]["signals"].keys() == {"dense", "lexical"}
    assert first["cut"]
    assert second["cut"] == []
    assert "explain" not in second["passages"][0]
    assert second["passages"][0]["text"] == animals()[0].text
    assert all(passage["score"] >= 0.25 for passage in second["passages"])


@pytest.mark.parametrize("binary", [True, False])
def test_v2_by_tritonclient(service: Service, binary: bool) -> None:
    with tritonclient.http.InferenceServerClient(service.url.removeprefix("http://")) as client:
        assert client.is_model_ready("vectorstore")
        metadata = client.get_model_metadata("vectorstore")
        assert [(t["name"], t["datatype"], t["shape"]) for t in metadata["inputs"]] == [
            ("input", "BYTES", [-1, 1]),
            ("num_docs", "INT32", [-1, 1]),
            ("filters", "BYTES", [-1, 1]),
            ("mode", "BYTES", [-1, 1]),
            ("min_score", "FP32", [-1, 1]),
            ("diversity", "FP32", [-1, 1]),
            ("neighbours", "INT32", [-1, 1]),
            ("collections", "BYTES", [-1, 1]),
            ("explain", "BOOL", [-1, 1]),
            ("sentence_similarity", "BOOL", [-1, 1]),
        ]
        assert [(t["name"], t["datatype"]) for t in metadata["outputs"]] == [("passages", "BYTES")]
        text = tritonclient.http.InferInput("input", [2, 1], "BYTES")
        text.set_data_from_numpy(np.array([["cats purr"], ["ünïcode"]], object), binary_data=binary)
        count = tritonclient.http.InferInput("num_docs", [1], "INT32")
        count.set_data_from_numpy(np.array([2], np.int32), binary_data=binary)
        wanted = tritonclient.http.InferRequestedOutput("passages", binary_data=binary)
        result = client.infer("vectorstore", [text, count], outputs=[wanted])
        passages = result.as_numpy("passages")
        assert passages.shape == (2, 1)
        assert json.loads(passages[0, 0])["passages"][0]["chunk_id"] == "cats-1"


async def test_grpc(service: Service) -> None:
    client = kserve.InferenceGRPCClient(service.grpc_address)
    try:
        assert await client.is_model_ready("vectorstore")
        text = kserve.InferInput("input", [1, 1], "BYTES")
        text.set_data_from_numpy(np.array([["cats purr"]], object))
        request = kserve.InferRequest("vectorstore", [text])
        response = await client.infer(request)
        passages = response.outputs[0].as_numpy()
        assert json.loads(passages[0, 0])["passages"][0]["chunk_id"] == "cats-1"
        wrong = kserve.InferInput("input", [1, 1], "INT32", [1])
        with pytest.raises(Exception, match="expected BYTES"):
            await client.infer(kserve.InferRequest("vectorstore", [wrong]))
    finally:
        await client.close()


def test_extra_routes(service: Service, version: str) -> None:
    status = {
        "index": {
            "name": "default",
            "version": version,
            "documents": 4,
            "chunks": 12,
            "embedder": FINGERPRINT,
            "parts": ["dense", "lexical"],
            "weights": {"dense": 0.4, "lexical": 0.6},
            "languages": service.status()["index"]["languages"],
            "calibration": None,
            "examples": [],
        },
        "reason": None,
    }
    assert service.status() == {"default": "default", **status, "collections": {"default": status}}
    document = service.http.get("/v1/documents/cats", params={"version": version}).json()
    assert document == {
        "id": "cats",
        "title": "Cats",
        "url": "https://example.org/cats",
        "text": animals()[0].text,
        "source": "cats.md",
        "metadata": {"legs": 4, "kind": "mammal", "wild": False, "weight": 4.5},
        "collection": "default",
        "index_version": version,
    }
    for path, field in (
        ("/v1/documents/nope", "document_id"),
        ("/v1/documents/cats?version=20000101T000000-000000", "version"),
        ("/v1/documents/cats?collection=else", "collection"),
        ("/v1/documents/a%2Fb", "document_id"),
    ):
        response = service.http.get(path)
        assert response.status_code == 404, path
        assert (response.json()["code"], response.json()["field"]) == ("not_found", field)


def test_headers_are_passed_on_to_the_embedder(service: Service, hashed: LoopbackEmbedder) -> None:
    sent = {"authorization": "Bearer me", "x-request-id": "r-1", "traceparent": "00-1-2-01"}
    response = service.search({"input": "cats"}, **sent)
    assert response.headers["x-request-id"] == "r-1"
    seen = hashed.headers
    assert {name: seen.get(name) for name in sent} == {**sent, "authorization": None}


BAD_V1: list[tuple[Any, str | None, str]] = [
    ([], None, "object"),
    ({}, "instances", "missing"),
    ({"instances": []}, "instances", "1 or more"),
    ({"instances": "cats"}, None, "list"),
    ({"instances": ["cats"]}, "instances[0]", "object"),
    ({"instances": [{}]}, "instances[0].input", "missing"),
    ({"instances": [{"input": ""}]}, "instances[0].input", "empty"),
    ({"instances": [{"input": 7}]}, "instances[0].input", "text"),
    ({"instances": [{"input": None}]}, "instances[0].input", "text"),
    ({"instances": [{"input": "x" * (MAX_QUERY_CHARS + 1)}]}, "instances[0].input", str(MAX_QUERY_CHARS)),
    ({"instances": [{"input": "a"}] * (MAX_INSTANCES + 1)}, "instances", str(MAX_INSTANCES)),
    ({"instances": [{"input": "a"}, {"input": "b", "num_docs": -1}]}, "instances[1].num_docs", "0 or more"),
    ({"instances": [{"input": "a", "num_docs": MAX_NUM_DOCS + 1}]}, "instances[0].num_docs", str(MAX_NUM_DOCS)),
    ({"instances": [{"input": "a", "num_docs": "2"}]}, "instances[0].num_docs", "whole number"),
    ({"instances": [{"input": "a", "num_docs": 2.5}]}, "instances[0].num_docs", "whole number"),
    ({"instances": [{"input": "a", "num_docs": True}]}, "instances[0].num_docs", "whole number"),
    ({"instances": [{"input": "a", "top": 3}]}, "instances[0].top", "unknown"),
    ({"instances": [{"input": "a", "mode": "fast"}]}, "instances[0].mode", "dense"),
    ({"instances": [{"input": "a", "min_score": 2}]}, "instances[0].min_score", "1"),
    ({"instances": [{"input": "a", "diversity": "much"}]}, "instances[0].diversity", "number"),
    ({"instances": [{"input": "a", "neighbours": 9}]}, "instances[0].neighbours", "5"),
    ({"instances": [{"input": "a", "collections": []}]}, "instances[0].collections", "1 or more"),
    ({"instances": [{"input": "a", "collections": "default"}]}, "instances[0].collections", "list"),
    ({"instances": [{"input": "a", "explain": 1}]}, "instances[0].explain", "true or false"),
    ({"instances": [{"input": "a"}], "parameters": {}}, "parameters", "unknown"),
    ({"instances": [{"input": "a", "filters": "kind"}]}, "instances[0].filters", "object"),
    ({"instances": [{"input": "a", "filters": {"age": 1}}]}, "instances[0].filters.age", "Known fields"),
    ({"instances": [{"input": "a", "filters": {"legs": {"$like": 1}}}]}, "instances[0].filters.legs.$like", "$gte"),
]


@pytest.mark.parametrize(("body", "field", "told"), BAD_V1)
def test_v1_bad_input(service: Service, body: Any, field: str | None, told: str) -> None:
    response = service.http.post(PREDICT, json=body)
    assert response.status_code == 400, response.text
    error = response.json()
    assert error["code"] == "invalid_request"
    if field is not None:
        assert error["field"] == field
    assert told in error["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"instances": [{"input": "\xff"}]}',
        b'{"instances": [{"input": "a", "num_docs": NaN}]}',
        b'{"instances": [{"input": "\\ud800"}]}',
        b"[" * 100_000,
    ],
)
def test_v1_not_json(service: Service, body: bytes) -> None:
    response = service.http.post(PREDICT, content=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]


def test_a_filter_nested_too_deep(service: Service) -> None:
    for opening, closing in ((b"[", b"]"), (b'{"$in":', b"}")):
        value = opening * 1000 + b"1" + closing * 1000
        body = b'{"instances": [{"input": "a", "filters": {"legs": {"$eq": %b}}}]}' % value
        response = service.http.post(PREDICT, content=body)
        assert response.status_code == 400, response.text
        assert response.json()["field"] == "instances[0].filters.legs.$eq"


def test_a_huge_body(service: Service) -> None:
    response = service.http.post(PREDICT, json={"instances": [{"input": "x" * 40_000_000}]})
    assert response.status_code == 413
    assert "larger than" in response.json()["error"]


def test_unknown_models(service: Service) -> None:
    for path, body in (
        ("/v1/models/other:predict", {"instances": [{"input": "a"}]}),
        ("/v2/models/other/infer", {"inputs": [tensor("input", "BYTES", ["a"])]}),
    ):
        response = service.http.post(path, json=body)
        assert response.status_code == 404
        assert "vectorstore" in response.json()["error"]


text_tensor = tensor("input", "BYTES", ["a"])
BAD_V2: list[tuple[list[dict[str, Any]], str]] = [
    ([], "input"),
    ([tensor("num_docs", "INT32", [1])], "input"),
    ([tensor("text", "BYTES", ["a"])], "unknown tensor"),
    ([text_tensor, text_tensor], "is repeated"),
    ([tensor("input", "BYTES", [1])], "text"),
    ([tensor("input", "BYTES", [""])], "empty"),
    ([tensor("input", "INT32", [1])], "expected BYTES"),
    ([tensor("input", "FP16", [1.0])], "input"),
    ([tensor("input", "TEXT", ["a"])], "BYTES"),
    ([tensor("input", "BYTES", ["a"], [5, 1])], "shape"),
    ([tensor("input", "BYTES", ["a"], [-1])], "negative"),
    ([tensor("input", "BYTES", [], [0, 1])], "1 or more"),
    ([text_tensor, tensor("num_docs", "INT32", [1, 2])], "Send 1"),
    ([text_tensor, tensor("num_docs", "INT32", [-1])], "0 or more"),
    ([text_tensor, tensor("num_docs", "FP32", [1.5])], "expected INT32"),
    ([text_tensor, tensor("num_docs", "BYTES", ["1"])], "expected INT32"),
    ([text_tensor, tensor("filters", "BYTES", ["{"])], "JSON"),
    ([text_tensor, tensor("collections", "BYTES", ["default"])], "JSON"),
    ([text_tensor, tensor("mode", "BYTES", ["fast"])], "dense"),
    ([text_tensor, tensor("min_score", "FP32", [1.5])], "1"),
    ([text_tensor, tensor("explain", "INT32", [1])], "expected BOOL"),
    ([text_tensor, tensor("filters", "BYTES", ["[1]"])], "object"),
    ([text_tensor, tensor("filters", "BYTES", ['{"age": 1}'])], "Known fields"),
]


@pytest.mark.parametrize(("inputs", "told"), BAD_V2)
def test_v2_bad_input(service: Service, inputs: list[dict[str, Any]], told: str) -> None:
    response = service.http.post(INFER, json={"inputs": inputs})
    assert response.status_code == 400, response.text
    assert told in response.json()["error"]


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("failure", 502, "bad_upstream"),
        ("garbage", 502, "bad_upstream"),
        ("nan", 502, "bad_upstream"),
        ("rows", 502, "bad_upstream"),
        ("dimension", 502, "bad_upstream"),
        ("unavailable", 503, "not_ready"),
        ("slow", 504, "deadline_exceeded"),
    ],
)
def test_faults_of_the_embedder(
    service: Service, hashed: LoopbackEmbedder, fault: Fault, status: int, code: str
) -> None:
    hashed.fault = fault
    response = service.search({"input": "cats"}, **{"x-request-timeout-ms": "500" if fault == "slow" else "10000"})
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert "secret" not in response.text
    assert ("retry-after" in response.headers) == (status == 503)


def test_a_bad_deadline(service: Service) -> None:
    response = service.search({"input": "cats"}, **{"x-request-timeout-ms": "soon"})
    assert response.status_code == 400
    assert response.json()["field"] == "x-request-timeout-ms"


@pytest.fixture
async def client(service: Service) -> AsyncIterator[VectorstoreClient]:
    opened = VectorstoreClient(service.url)
    yield opened
    await opened.aclose()


async def test_the_client(client: VectorstoreClient, version: str) -> None:
    ctx = CallContext.start(60)
    assert await client.not_ready_reason(ctx) is None
    instances = [SearchInstance(input="cats purr", num_docs=1), SearchInstance(input="x", filters={"legs": 0})]
    first, second = await client.search(instances, ctx)
    assert [passage.chunk_id for passage in first.passages] == ["cats-1"]
    assert {passage.document_id for passage in second.passages} == {"fish"}
    assert set(first.timings_ms) == {"embed", "search"}
    served = (await client.indexes(ctx)).index
    assert served is not None
    assert served.version == version
    document = await client.document("cats", ctx, version=version)
    span = first.passages[0].span
    assert document["text"][span.start : span.end] == first.passages[0].text
    with pytest.raises(InvalidRequestError, match="Known fields"):
        await client.search([SearchInstance(input="x", filters={"age": 1})], ctx)


async def test_the_client_reports_missing_things(client: VectorstoreClient, service: Service, version: str) -> None:
    ctx = CallContext.start(60)
    for document_id in ("nope", "a/b", "..", "../indexes", "a?b#c", "ä\x00", "n" * 5000):
        with pytest.raises(NotFoundError, match="has no document") as error:
            await client.document(document_id, ctx, version=version)
        assert error.value.field == "document_id"
    for field, names in (("version", {"version": "else"}), ("collection", {"collection": "else"})):
        with pytest.raises(NotFoundError, match="'else'") as error:
            await client.document("cats", ctx, **names)
        assert error.value.field == field
    with pytest.raises(InvalidRequestError, match=r"^collections: there is no collection 'else' here") as refused:
        await client.search([SearchInstance(input="x", collections=["default", "else"])], ctx)
    assert refused.value.field == "collections"
    # The model's name is the client's own doing, not its caller's.
    async with contextlib.aclosing(VectorstoreClient(service.url, model="else")) as other:
        with pytest.raises(NotReadyError, match="else does not exist"):
            await other.search([SearchInstance(input="x")], ctx)


async def test_the_client_without_a_server(hashed: LoopbackEmbedder) -> None:
    (port,) = free_ports(1)
    absent = VectorstoreClient(f"http://127.0.0.1:{port}")
    assert "cannot be reached" in (await absent.not_ready_reason(CallContext.start(5)) or "")
    with pytest.raises(NotReadyError):
        await absent.search([SearchInstance(input="x")], CallContext.start(5))
    await absent.aclose()


def test_strings_for_the_clients_of_earlier_graphs(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    publish(tmp_path)
    with running(tmp_path, embedder.url, VECTORSTORE_RESPONSE_SHAPE="strings", VECTORSTORE_NUM_DOCS="2") as service:
        one = service.search({"input": "cats purr"}).json()
        assert one == {"predictions": ["Cats purr when they are content", "Cats sleep for most of the day"]}
        two = service.search({"input": "cats purr", "num_docs": 1}, {"input": "x", "num_docs": 0}).json()
        assert two == {"predictions": [["Cats purr when they are content"], []]}
        asked = {"instances": [{"input": "cats purr"}], "response_shape": "passages"}
        answer = service.http.post("/v1/models/vectorstore:predict", json=asked).json()
        assert [passage["text"] for passage in answer["predictions"][0]["passages"]] == one["predictions"]


def test_from_nothing_to_an_index(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    with running(tmp_path, embedder.url) as service:
        for response in (
            service.search({"input": "cats"}),
            service.http.get("/v2/models/vectorstore/ready"),
            service.http.get("/v1/models/vectorstore"),
        ):
            assert response.status_code == 503
            assert "kserve-rag ingest" in response.json()["error"]
            assert response.headers["retry-after"]
        assert service.status()["index"] is None
        publish(tmp_path, [])
        until(service.ready)
        assert service.passages("cats") == []
        publish(tmp_path)
        until(lambda: service.status()["index"]["chunks"] == 12)
        assert service.passages("cats")


def test_several_indexes(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    versions = {"default": publish(tmp_path, animals()[:2]), "more": publish(tmp_path, animals()[2:], name="more")}
    with running(tmp_path, embedder.url, VECTORSTORE_COLLECTIONS="more, absent") as service:
        prediction = service.search({"input": "cats and fish", "num_docs": 12, "collections": ["default", "more"]})
        (found,) = prediction.json()["predictions"]
        assert found["index_versions"] == versions
        assert {passage["collection"] for passage in found["passages"]} == {"default", "more"}
        assert {passage["collection"] for passage in service.passages("fish")} == {"default"}
        for name, status, told in (("else", 400, "default, more, absent"), ("absent", 503, "absent")):
            response = service.search({"input": "cats", "collections": [name]})
            assert response.status_code == status
            assert told in response.json()["error"]
        status = service.status()["collections"]
        assert [status[name]["index"] and status[name]["index"]["chunks"] for name in status] == [6, 6, None]
        assert service.http.get("/v1/documents/fish", params={"collection": "more"}).json()["title"] == "Fish"
        assert service.http.get("/v1/documents/fish", params={"collection": "else"}).status_code == 404


async def test_reload_under_load_fails_no_request(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    published = [publish(tmp_path)]
    with running(tmp_path, embedder.url) as service:
        seen: dict[str, int] = {}
        failed: list[str] = []
        stop, progress = asyncio.Event(), asyncio.Event()

        async def ask(session: aiohttp.ClientSession) -> None:
            while not stop.is_set():
                async with session.post(service.url + PREDICT, json={"instances": [{"input": "cats purr"}]}) as answer:
                    body = await answer.json()
                    if answer.status != 200 or not body["predictions"][0]["passages"]:
                        failed.append(f"{answer.status} {body}")
                        continue
                    prediction = body["predictions"][0]
                    assert {p["index_version"] for p in prediction["passages"]} == {prediction["index_version"]}
                    seen[prediction["index_version"]] = seen.get(prediction["index_version"], 0) + 1
                    progress.set()

        async def served(version: str) -> None:
            while version not in seen:
                await progress.wait()
                progress.clear()

        async with aiohttp.ClientSession() as session:
            askers = [asyncio.create_task(ask(session)) for _ in range(8)]
            for _ in range(5):
                await asyncio.wait_for(served(published[-1]), 30)
                published.append(await asyncio.to_thread(publish, tmp_path))
                await asyncio.to_thread(IndexRoot(tmp_path, "default").prune, 1)
            await asyncio.wait_for(served(published[-1]), 30)
            stop.set()
            await asyncio.gather(*askers)
    assert failed == []
    assert list(seen) == published


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NUM_DOCS", "-1"),
        ("NUM_DOCS", "many"),
        ("STORE", "nowhere"),
        ("RESPONSE_SHAPE", "xml"),
        ("EMBEDDER_URL", "not a url"),
        ("INDEX_NAME", "../secrets"),
        ("COLLECTIONS", "one,../secrets"),
        ("MODE", "fast"),
        ("DENSE_WEIGHT", "-1"),
        ("HTTP_PORT", "0"),
    ],
)
def test_a_bad_setting_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"VECTORSTORE_{name}", value)
    with pytest.raises(SettingError, match=f"^VECTORSTORE_{name}: "):
        read_settings(VectorstoreSettings)
