"""From a token at the transformer to the documents that its caller may read, over the wire of every protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from chassis.server import application
from chassis.settings import read_settings
from tests.fakes.embedder import LoopbackEmbedder
from tests.fakes.identity_provider import AUDIENCE, ISSUER, IdentityProvider
from tests.vectorstore.running import running
from tests.vectorstore.sample_index import animals, document, publish
from transformer.__main__ import model_service
from transformer.settings import TransformerSettings
from vectorstore.versions import AccessFile, Acl

SECRET = "a secret of at least 32 characters"  # noqa: S105
QUESTION = "When does the canary sing?"
CHAT = "/openai/v1/chat/completions"


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def vectorstore_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A vectorstore whose document about the canary only Ann may read."""
    root = tmp_path_factory.mktemp("indexes")
    publish(root, [*animals(), document("canary", "The canary sings at noon. The canary sleeps at night.")])
    with AccessFile(root / "default").changing() as rules:
        rules["canary.md"] = Acl(allow=frozenset(("user:ann",)))
    with (
        LoopbackEmbedder() as embedder,
        running(root, embedder.url, VECTORSTORE_PRINCIPAL_SECRET=SECRET) as vectorstore,
    ):
        yield vectorstore.url


@pytest.fixture
async def http(provider: IdentityProvider, vectorstore_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a transformer that quotes, and so needs no LLM."""
    service = model_service(
        read_settings(
            TransformerSettings,
            vectorstore_url=vectorstore_url,
            predictor_url="http://127.0.0.1:9",
            predictor_layout="openai_chat",
            context_tokens=1024,
            answers="quote",
            refuse=False,
            jwt_issuer=ISSUER,
            jwt_audience=AUDIENCE,
            jwks_url=provider.jwks_url,
            principal_secret=SECRET,
        )
    )
    transport = httpx.ASGITransport(application(service))
    async with (
        service.lifespan(),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client,
    ):
        yield client


QUESTIONS: dict[str, dict[str, Any]] = {
    "/v1/models/rag:predict": {"instances": [{"input": QUESTION, "num_docs": 5}]},
    "/v2/models/rag/infer": {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [1, 1], "data": [QUESTION]}]},
    "/v2/models/rag/generate": {"text_input": QUESTION},
    CHAT: {"model": "rag", "messages": [{"role": "user", "content": QUESTION}]},
}


async def test_a_document_exists_only_for_those_who_may_read_it(
    http: httpx.AsyncClient, provider: IdentityProvider
) -> None:
    for headers, readable in ((provider.bearer("ann"), True), (provider.bearer("bob", "ann"), False), ({}, False)):
        for path, body in QUESTIONS.items():
            answered = await http.post(path, json=body, headers=headers)
            assert answered.status_code == 200, answered.text
            # The question has the word too, but not the rest of the document.
            assert ("noon" in answered.text) is readable, path
        indexes = (await http.get("/v1/indexes", headers=headers)).json()["indexes"]
        assert indexes[0]["documents"] == 4 + readable
        stored = await http.get("/v1/documents/canary", headers=headers)
        absent = await http.get("/v1/documents/absent", headers=headers)
        assert stored.status_code == (200 if readable else 404)
        if not readable:
            assert stored.text == absent.text.replace("absent", "canary")


async def test_a_conversation_is_that_of_its_caller(http: httpx.AsyncClient, provider: IdentityProvider) -> None:
    """The passages of earlier turns are read again for the caller, also if another one sends the same messages."""
    first = await http.post(CHAT, json=QUESTIONS[CHAT], headers=provider.bearer("ann"))
    said = first.json()["choices"][0]["message"]["content"]
    messages = [
        *QUESTIONS[CHAT]["messages"],
        {"role": "assistant", "content": said},
        {"role": "user", "content": QUESTION},
    ]
    for headers, readable in ((provider.bearer("ann"), True), (provider.bearer("bob"), False)):
        answered = await http.post(CHAT, json={"model": "rag", "messages": messages}, headers=headers)
        assert answered.status_code == 200, answered.text
        assert ("noon" in answered.text) is readable


async def test_a_bad_token_is_refused_in_the_shape_of_each_protocol(
    http: httpx.AsyncClient, provider: IdentityProvider
) -> None:
    for path, body in QUESTIONS.items():
        refused = await http.post(path, json=body, headers=provider.bearer("ann", exp=1))
        assert refused.status_code == 401
        error = refused.json()["error"]
        assert (error["message"] if path == CHAT else error) == "The token is not valid: it has expired."
