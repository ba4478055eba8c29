"""Collections that another program filled, served as they are. Each store's own client fills them."""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from aiohttp import web
from chromadb.api import ClientAPI
from pymilvus import DataType, MilvusClient

from ingest.errors import ReadOnlyIndexError
from ingest.pipeline import run
from ingest.settings import IngestSettings
from tests.contracts.test_chroma_server import chromas_client
from tests.contracts.test_pinecone import pinecones_client
from tests.fakes.embedder import DIMENSION, OTHER_FINGERPRINT, LoopbackEmbedder, embed
from tests.fakes.loopback import serving as loopback
from tests.fakes.pinecone import INDEX, KEY, Pinecone
from tests.processes import free_ports
from tests.vectorstore.searching import find, serving, within
from vectorstore.errors import (
    DamagedIndexError,
    InvalidFilterError,
    MissingPartError,
    StoreFailedError,
    UnknownDocumentError,
)
from vectorstore.stores import STORES, attach
from vectorstore.versions import ExistingCollection, IndexRoot

TEXTS = ["cats purr when they sleep", "dogs bark at the postman", "the warranty lasts three years"]
FIELDS: Sequence[Mapping[str, Any]] = [
    {"source": "https://animals.example/cats", "year": 2021, "dossier": "3166"},
    {"source": "animals/dogs.pdf", "year": 2022, "dossier": "3210"},
    {"source": "/home/cdsw/data/https:/shop.example/warranty.txt", "year": 2023, "dossier": "3210"},
]


def fill_chroma(client: ClientAPI, name: str, vectors: Any, texts: Sequence[str], metric: str) -> None:
    collection = client.create_collection(name, embedding_function=None, metadata={"hnsw:space": metric})
    if not texts:
        return
    collection.add(
        ids=[f"id{row}" for row in range(len(texts))],
        embeddings=vectors,
        documents=list(texts),
        metadatas=[dict(fields) for fields in FIELDS[: len(texts)]],
    )


def fill_langchain(client: MilvusClient, name: str, vectors: Any, texts: Sequence[str], metric: str) -> None:
    """LangChain's schema: the metadata in a JSON field."""
    schema = MilvusClient.create_schema(auto_id=True, enable_dynamic_field=False)
    schema.add_field("pk", DataType.INT64, is_primary=True)
    schema.add_field("page_content", DataType.VARCHAR, max_length=65_535)
    schema.add_field("metadata", DataType.JSON)
    rows = [{"page_content": text, "metadata": dict(fields)} for text, fields in zip(texts, FIELDS, strict=False)]
    _fill_milvus(client, name, schema, vectors, rows, metric)


def fill_docbot(client: MilvusClient, name: str, vectors: Any, texts: Sequence[str], metric: str) -> None:
    """The doc-bot's schema: a field for each value."""
    schema = MilvusClient.create_schema(auto_id=True, enable_dynamic_field=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("text", DataType.VARCHAR, max_length=65_535)
    schema.add_field("source", DataType.VARCHAR, max_length=255)
    schema.add_field("dossier", DataType.VARCHAR, max_length=128)
    schema.add_field("year", DataType.INT16)
    rows = [{"text": text, **fields} for text, fields in zip(texts, FIELDS, strict=False)]
    _fill_milvus(client, name, schema, vectors, rows, metric)


def _fill_milvus(client: MilvusClient, name: str, schema: Any, vectors: Any, rows: Any, metric: str) -> None:
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
    index = MilvusClient.prepare_index_params()
    index.add_index("vector", index_type="HNSW", metric_type=metric.upper(), params={"M": 16, "efConstruction": 200})
    client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")
    if rows:
        client.insert(name, [{**row, "vector": vector} for row, vector in zip(rows, vectors, strict=True)])
        client.flush(name)


def fill_pinecone(server: Pinecone, name: str, vectors: Any, texts: Sequence[str], metric: str) -> None:
    """A namespace. The index takes the dimension of the vectors; dotproduct ranks like l2."""
    server.dimension, server.metric = vectors.shape[1], metric if metric == "cosine" else "dotproduct"
    rows = [
        {"id": f"id{row}", "values": vector.tolist(), "metadata": {"text": text, **FIELDS[row]}}
        for row, (vector, text) in enumerate(zip(vectors, texts, strict=True))
    ]
    if rows:
        with pinecones_client(server) as (_, index):
            index.upsert(vectors=rows, namespace=name)
            index.describe_index_stats()  # visible from the next read on


class Member:
    """A store with one collection of the three texts."""

    def __init__(self, store: str, fill: Callable[..., None]) -> None:
        self.store = store
        self._fill = fill

    def fill(self, vectors: Any = None, texts: Sequence[str] = TEXTS, metric: str = "l2") -> str:
        name = f"c{uuid.uuid4().hex}"
        self._fill(name, embed(texts) if vectors is None else vectors, texts, metric)
        return name


@pytest.fixture(params=["chroma", "chroma_server", "milvus", "milvus-langchain", "pinecone"])
def member(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Member]:
    store, _, schema = request.param.partition("-")
    if store == "chroma":
        folder = tmp_path / "chroma"
        monkeypatch.setenv("VECTORSTORE_CHROMA_EXISTING_FOLDER", str(folder))
        client = chromadb.PersistentClient(str(folder), chromadb.Settings(anonymized_telemetry=False))
        with contextlib.closing(client):  # type: ignore[type-var]
            yield Member(store, lambda *what: fill_chroma(client, *what))
        return
    if store == "pinecone":
        with Pinecone(DIMENSION) as fake:
            for name, value in (("CONTROL_URL", fake.url), ("INDEX", INDEX), ("API_KEY", KEY)):
                monkeypatch.setenv(f"VECTORSTORE_PINECONE_{name}", value)
            yield Member(store, lambda *what: fill_pinecone(fake, *what))
        return
    settings = request.getfixturevalue(store)
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    (url,) = settings.values()
    if store == "chroma_server":
        with chromas_client(url) as server:
            yield Member(store, lambda *what: fill_chroma(server, *what))
        return
    milvus = MilvusClient(url, dedicated=True)
    with contextlib.closing(milvus):
        yield Member(store, lambda *what: (fill_langchain if schema else fill_docbot)(milvus, *what))


@pytest.fixture
def chroma_url(chroma_server: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a Chroma server to which the settings point."""
    ((variable, url),) = chroma_server.items()
    monkeypatch.setenv(variable, url)
    return url


@pytest.fixture
def embedder() -> Iterator[LoopbackEmbedder]:
    with LoopbackEmbedder() as server:
        yield server


def describe(path: Path, store: str, collection: str, **more: Any) -> None:
    folder = path / "default"
    folder.mkdir(exist_ok=True)
    file = {"store": store, "collection": collection, "embedder": "hash", **more}
    (folder / "existing.json").write_text(json.dumps(file))


def reason(service: Any) -> str:
    return str(service.not_ready_reason())


def reason_of(service: Any) -> str:
    """The problem of an index that is still served."""
    return str(service.whole_status().reason)


async def test_it_is_searched_as_it_is(tmp_path: Path, member: Member, embedder: LoopbackEmbedder) -> None:
    name = member.fill()
    describe(tmp_path, member.store, name)
    async with serving(tmp_path, embedder) as service:
        found = await find(service, "do cats purr when they sleep", num_docs=3, explain=True)
        assert found.passages[0].text == TEXTS[0]
        assert {passage.text: passage.url for passage in found.passages} == {
            TEXTS[0]: "https://animals.example/cats",
            TEXTS[1]: None,
            TEXTS[2]: "https://shop.example/warranty.html",
        }
        titles = {passage.text: passage.title for passage in found.passages}
        assert (titles[TEXTS[1]], titles[TEXTS[2]]) == ("dogs", "warranty")
        best = found.passages[0]
        query = embed(["do cats purr when they sleep"])[0]
        assert best.score == best.similarity == pytest.approx(float(embed([TEXTS[0]])[0] @ query), abs=1e-5)
        assert best.metadata["year"] == 2021
        assert TEXTS[0] not in best.metadata.values()
        assert best.explain is not None
        assert best.explain.signals["dense"].weight == 1
        assert best.explain.signals["lexical"].weight == 0
        assert found.index_versions == {"default": name}
        status = (await service.status(within())).index
        assert status is not None
        assert (status.parts, status.chunks, status.version) == (["dense"], 3, name)
        stored = await service.document(best.document_id, within(), version=name)
        assert (stored.text, stored.url) == (best.text, best.url)
        for unknown in ("none", "12345678901234567890123"):
            with pytest.raises(UnknownDocumentError, match="no record"):
                await service.document(unknown, within())
        diverse = await find(service, "cats", num_docs=2, diversity=0.5, neighbours=2)
        assert len(diverse.passages) == 2
        with pytest.raises(MissingPartError, match="lexical"):
            await find(service, "cats", mode="lexical")


async def test_filters(tmp_path: Path, member: Member, embedder: LoopbackEmbedder) -> None:
    describe(tmp_path, member.store, member.fill())
    async with serving(tmp_path, embedder) as service:

        async def texts(where: dict[str, Any]) -> set[str]:
            return {passage.text for passage in (await find(service, "anything", filters=where)).passages}

        cats, dogs, warranty = TEXTS
        assert await texts({"dossier": "3210"}) == {dogs, warranty}
        assert await texts({"dossier": {"$ne": "3210"}}) == {cats}
        assert await texts({"year": {"$gte": 2022}, "dossier": {"$in": ["3210", "9"]}}) == {dogs, warranty}
        assert await texts({"$or": [{"year": 2021}, {"year": {"$gt": 2022}}]}) == {cats, warranty}
        assert await texts({"dossier": {"$nin": ["3166"]}, "year": {"$lt": 2023}}) == {dogs}
        assert await texts({"source": 'a"b\\c'}) == set()


async def test_text_in_a_field_of_another_name(tmp_path: Path, chroma_url: str, embedder: LoopbackEmbedder) -> None:
    name = f"c{uuid.uuid4().hex}"
    with chromas_client(chroma_url) as client:
        client.create_collection(name, embedding_function=None).add(
            ids=TEXTS, embeddings=embed(TEXTS), metadatas=[{"file_path": f"/data/{row}.txt"} for row in range(3)]
        )
    describe(tmp_path, "chroma_server", name)
    async with serving(tmp_path, embedder) as service:
        assert "no text in the fields text, page_content" in reason(service)
        assert "set `text` to one of document, file_path, id" in reason(service)
        describe(tmp_path, "chroma_server", name, text="id", title="file_path")
        await service.refresh()
        (passage,) = (await find(service, "purr cats", num_docs=1)).passages
        assert (passage.text, passage.title, passage.source) == (TEXTS[0], "/data/0.txt", "/data/0.txt")


async def test_what_does_not_fit_is_refused(tmp_path: Path, member: Member, embedder: LoopbackEmbedder) -> None:
    long = embed(TEXTS) * np.array([[1], [2], [3]], np.float32)
    cases: list[tuple[Callable[[], dict[str, Any]], str]] = [
        (lambda: {"collection": "c_missing"}, "c_missing|no such collection"),
        (
            lambda: {"collection": member.fill(np.empty((0, DIMENSION), np.float32), texts=[])},
            "is empty|has no records in the namespace",
        ),
        (
            lambda: {"collection": member.fill(np.eye(3, 8, dtype=np.float32))},
            "8 dimensions, but the embedder .* has 64",
        ),
        (lambda: {"collection": member.fill(long)}, "vectors of different lengths, 1 to 3"),
        (lambda: {"collection": member.fill(), "embedder": "e5"}, "filled with the embedder e5, but hash@"),
        (
            lambda: {"collection": member.fill(), "text": "body"},
            "no text in the fields body: set `text` to .*source",
        ),
    ]
    for described, message in cases:
        describe(tmp_path, member.store, **described())
        async with serving(tmp_path, embedder) as service:
            assert re.search(message, reason(service)), reason(service)


async def test_vectors_of_any_length_with_the_metric_cosine(
    tmp_path: Path, member: Member, embedder: LoopbackEmbedder
) -> None:
    long = embed(TEXTS) * np.array([[1], [2], [3]], np.float32)
    describe(tmp_path, member.store, member.fill(long, metric="cosine"))
    async with serving(tmp_path, embedder) as service:
        (passage,) = (await find(service, TEXTS[2], num_docs=1)).passages
        assert (passage.text, passage.similarity) == (TEXTS[2], pytest.approx(1, abs=1e-5))


async def test_changes_of_the_collection_and_of_the_file(
    tmp_path: Path, member: Member, embedder: LoopbackEmbedder
) -> None:
    first, second = member.fill(texts=TEXTS[:2]), member.fill(texts=TEXTS[1:])
    describe(tmp_path, member.store, first)
    async with serving(tmp_path, embedder) as service:
        assert (await find(service, "x", num_docs=9)).index_version == first
        describe(tmp_path, member.store, second)
        await service.refresh()
        assert (await find(service, "x", num_docs=9)).index_version == second
        embedder.fingerprint = OTHER_FINGERPRINT
        with pytest.raises(Exception, match="other@"):
            await find(service, "x")
        assert "other@" in reason(service)
        embedder.fingerprint = "hash@sha256:" + "1" * 64
        await service.refresh()
        assert service.not_ready_reason() is None


async def test_ingest_and_access_control_refuse_it(tmp_path: Path, embedder: LoopbackEmbedder) -> None:
    describe(tmp_path, "chroma_server", "HPE_press_releases")
    assert [root.name for root in IndexRoot.all(tmp_path)] == ["default"]
    (tmp_path / "new.txt").write_text("new")
    settings = IngestSettings(index_root=tmp_path, embedder_url=embedder.url, tokenizer=tmp_path)
    with pytest.raises(
        ReadOnlyIndexError, match=r"Index default serves a collection .* read-only: ingest into another"
    ):
        await run(settings, [tmp_path / "new.txt"])
    async with serving(tmp_path, embedder, restricted=True) as service:
        assert "no rules of who may read" in reason(service)


async def test_a_filter_on_a_field_that_milvus_does_not_have(
    tmp_path: Path, milvus: Mapping[str, str], embedder: LoopbackEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (url,) = milvus.values()
    monkeypatch.setenv("VECTORSTORE_MILVUS_URL", url)
    name = f"c{uuid.uuid4().hex}"
    with contextlib.closing(MilvusClient(url, dedicated=True)) as client:
        fill_docbot(client, name, embed(TEXTS), TEXTS, "l2")
    describe(tmp_path, "milvus", name)
    async with serving(tmp_path, embedder) as service:
        with pytest.raises(
            InvalidFilterError, match=r"names 'lang', which the collection does not have. Known fields: d"
        ):
            await find(service, "x", filters={"lang": "en"})
        with pytest.raises(InvalidFilterError, match="compares 'dossier' with 3166, but the field holds"):
            await find(service, "x", filters={"dossier": 3166})


async def test_a_filter_that_chroma_cannot_evaluate_and_a_server_that_is_away(
    tmp_path: Path, chroma_url: str, embedder: LoopbackEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"c{uuid.uuid4().hex}"
    with chromas_client(chroma_url) as client:
        fill_chroma(client, name, embed(TEXTS), TEXTS, "l2")
        describe(tmp_path, "chroma_server", name)
        async with serving(tmp_path, embedder) as service:
            with pytest.raises(InvalidFilterError, match=r"filters: Chroma compares 2021.5 as a whole number"):
                await find(service, "x", filters={"year": 2021.5})
            client.delete_collection(name)
            with pytest.raises(StoreFailedError, match="no such collection"):
                await find(service, "x")
            await service.refresh()
            assert "no such collection" in reason_of(service)
            fill_chroma(client, name, embed(TEXTS), TEXTS, "l2")
            await service.refresh()
            assert len((await find(service, "x")).passages) == 3
    monkeypatch.setenv("VECTORSTORE_CHROMA_SERVER_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    async with serving(tmp_path, embedder) as service:
        assert "cannot be reached" in reason(service)
    monkeypatch.setenv("VECTORSTORE_CHROMA_SERVER_URL", "nowhere")
    async with serving(tmp_path, embedder) as service:
        assert "VECTORSTORE_CHROMA_SERVER_URL" in reason(service)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "existing.json: the file: Invalid JSON"),
        ('{"store": "chroma", "collection": "c"}', "embedder: Field required"),
        ('{"store": "mivlus", "collection": "c", "embedder": "e"}', "store: .*mivlus"),
        ('{"store": "chroma", "collection": "c", "embedder": "e", "txt": "a"}', "txt: Extra inputs"),
    ],
)
def test_a_bad_file(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "default").mkdir()
    (tmp_path / "default" / "existing.json").write_text(content)
    with pytest.raises(DamagedIndexError, match=message):
        IndexRoot(tmp_path, "default").existing()


@pytest.mark.parametrize(
    ("embedder", "filled"),
    [
        ("all-MiniLM-L6-v2", True),
        ("Sentence-Transformers/all-minilm-l6-v2", True),
        ("sentence-transformers/all-MiniLM-L6-v2@sha256:1", True),
        ("sentence-transformers/all-MiniLM-L6-v2@sha256:2", False),
        ("MiniLM-L6-v2", False),
    ],
)
def test_names_of_the_embedder(embedder: str, filled: bool) -> None:
    described = ExistingCollection(store="chroma", collection="c", embedder=embedder)
    assert described.was_filled_by("sentence-transformers/all-MiniLM-L6-v2@sha256:1") is filled


async def test_a_namespace_of_the_cloudera_lab(
    tmp_path: Path, embedder: LoopbackEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id is the beginning of the text, and the metadata only the file."""
    with Pinecone(DIMENSION) as server:
        for name, value in (("CONTROL_URL", server.url), ("INDEX", INDEX), ("API_KEY", KEY)):
            monkeypatch.setenv(f"VECTORSTORE_PINECONE_{name}", value)
        text = "What is CML?\n/ 100% of cats & dogs? " + "word " * 96
        rows = [(text[:512], embed([text])[0].tolist(), {"file_path": "/home/cdsw/data/https:/docs.example/a/cml.txt"})]
        with pinecones_client(server) as (_, index):
            index.upsert(vectors=rows)
            index.describe_index_stats()  # visible from the next read on
        describe(tmp_path, "pinecone", "__default__", text="id")
        async with serving(tmp_path, embedder) as service:
            (passage,) = (await find(service, "What is CML?")).passages
            assert (passage.text, passage.title) == (text[:512], "cml")
            assert passage.url == "https://docs.example/a/cml.html"
            assert "?%0A/ 100%25 of cats" in passage.document_id
            assert (await service.document(passage.document_id, within())).text == passage.text


async def test_a_store_that_sends_something_else(
    tmp_path: Path, embedder: LoopbackEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"id": "x", "dimension": DIMENSION} if request.method == "GET" else {"ids": 5})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    describe(tmp_path, "chroma_server", "c")
    async with loopback(app) as url:
        monkeypatch.setenv("VECTORSTORE_CHROMA_SERVER_URL", url)
        async with serving(tmp_path, embedder) as service:
            assert "The store chroma_server sent an invalid result" in reason(service)


def test_stores_without_collections_of_other_programs() -> None:
    for name in ("exact", "pgvector"):
        with pytest.raises(StoreFailedError, match=f"The store {name} cannot serve collections"):
            attach(name, "c")
    assert {"chroma", "chroma_server", "milvus"} <= set(STORES.names())


def test_a_folder_that_is_not_chromas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("", str(tmp_path)):
        monkeypatch.setenv("VECTORSTORE_CHROMA_EXISTING_FOLDER", folder)
        with pytest.raises(StoreFailedError, match=f"VECTORSTORE_CHROMA_EXISTING_FOLDER={folder}.*set it to a folder"):
            attach("chroma", "c")
