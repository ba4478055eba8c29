"""Who may see what: a response equals the one over an index without the documents that the caller may not read.

`ACCESS_EXAMPLES=300 python -m pytest tests/vectorstore/test_access.py` checks 10,800 requests, and the default 360.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chassis.context import CallContext
from chassis.errors import ServiceError
from chassis.principal import Principal
from embedder.client import EmbedderClient
from embedder.wire import Embeddings
from tests.fakes.embedder import FINGERPRINT, embed_tokens
from tests.vectorstore.sample_index import document, sentences, sparse
from vectorstore.errors import DamagedAccessError, InvalidAccessError, UnknownDocumentError
from vectorstore.service import VectorstoreService
from vectorstore.versions import AccessFile, AccessRules, Acl, Document, IndexRoot, LexicalSettings
from vectorstore.wire import Prediction, SearchInstance

DIMENSION = 64
WORDS = ["red", "stone", "river", "field", "cat", "dog"]
FOLDERS = ["", "a/", "b/", "b/c/"]
ANN, BOB = Principal("ann", frozenset(("hr",))), Principal("bob", frozenset(("hr", "it")))
CALLERS = (None, ANN, BOB)
ENTRIES = ["anyone", "signed-in", "user:ann", "user:bob", "group:hr", "group:it"]


def vector(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32[64] of length 1 with four numbers of ±0.5, so that cosines are exact and ties are ties everywhere."""
    found = np.zeros(DIMENSION, np.float32)
    words = sorted(set(re.findall(r"\w+", text.lower())))
    for word in (words * 4)[:4] or [""] * 4:
        place = (sum(map(ord, word)) * 7) % DIMENSION
        while found[place]:
            place = (place + 1) % DIMENSION
        found[place] = 0.5
    return found


class ExactEmbedder:
    """The part of the embedder's client that the service uses."""

    async def embed(self, texts: Sequence[str], _: CallContext, **wanted: bool) -> Embeddings:
        return Embeddings(
            np.stack([vector(text) for text in texts]),
            np.ones(len(texts), np.int32),
            np.zeros(len(texts), np.bool_),
            FINGERPRINT,
            tuple(sparse(text) for text in texts),
            tuple(embed_tokens(text) for text in texts),
        )

    async def fingerprint(self, _: CallContext) -> str:
        return FINGERPRINT

    async def aclose(self) -> None: ...


def page(number: int, folder: str, text: str) -> Document:
    """A document whose text, title, id, file and metadata have a word that no other has."""
    made = document(f"canary{number:02}", f"{text} canary{number:02}", part=number % 2, **{f"canary{number:02}": True})
    return Document(**{**{name: getattr(made, name) for name in made.__slots__}, "source": f"{folder}{made.source}"})


def publish(path: Path, documents: Sequence[Document], *, store: str = "exact", whole: bool = False) -> None:
    with IndexRoot(path, "default").begin(
        embedder_fingerprint=FINGERPRINT,
        dimension=DIMENSION,
        settings={},
        store=store,
        lexical=LexicalSettings(language="english"),
        sparse=whole,
        multi_vector_bits=4 if whole else None,
    ) as builder:
        for one in documents:
            chunks = sentences(one)
            builder.add(
                one,
                chunks,
                np.stack([vector(chunk.text) for chunk in chunks]),
                sparse=[sparse(chunk.text) for chunk in chunks] if whole else (),
                multi_vectors=[embed_tokens(chunk.text) for chunk in chunks] if whole else (),
            )
        builder.publish()


@contextlib.asynccontextmanager
async def serving(path: Path, **more: Any) -> AsyncIterator[VectorstoreService]:
    embedder = cast("EmbedderClient", ExactEmbedder())
    service = VectorstoreService([IndexRoot(path, "default")], embedder, reload_interval_s=3600, **more)
    async with service.running():
        assert service.not_ready_reason() is None
        yield service


def of(principal: Principal | None) -> CallContext:
    started = CallContext.start(60)
    return CallContext(started.deadline, started.headers, principal)


async def answer(service: VectorstoreService, instance: SearchInstance, principal: Principal | None) -> dict[str, Any]:
    """The response without the names of versions and times, or the error."""
    try:
        (found,) = await service.search([instance], of(principal))
    except ServiceError as error:
        return {"error": (error.status, error.message)}
    prediction = Prediction.model_validate_json(found.json()).model_dump(exclude={"timings_ms"})
    assert set(prediction.pop("index_versions")) == {"default"}
    for one in (prediction, *prediction["passages"]):
        one.pop("index_version")
    return prediction


def close(one: object, other: object) -> bool:
    """Whether two responses are equal, except for rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(close(value, other[name]) for name, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(close, one, other))
    return one == (pytest.approx(other, abs=1e-5) if isinstance(other, float) else other)


def may_read(rules: Mapping[str, Acl], source: str, principal: Principal | None) -> bool:
    """The rule of docs/guides/access.md, written a second time."""
    names = {"anyone"}
    if principal is not None:
        names |= {"signed-in", f"user:{principal.subject}", *(f"group:{group}" for group in principal.groups)}
    above = [path for path in rules if path in ("", source) or (path.endswith("/") and source.startswith(path))]
    allows = [rules[path].allow for path in sorted(above, key=len) if rules[path].allow is not None]
    denied = any(names & rules[path].deny for path in above)
    return not denied and (not allows or bool(names & (allows[-1] or set())))


entries = st.frozensets(st.sampled_from(ENTRIES), max_size=3)
acls = st.builds(Acl, allow=st.none() | entries, deny=entries | st.just(frozenset()))
texts = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join), min_size=1, max_size=3)
pages = st.lists(st.tuples(st.sampled_from(FOLDERS), texts.map(". ".join)), min_size=1, max_size=7).map(
    lambda drawn: [page(number, folder, text) for number, (folder, text) in enumerate(drawn)]
)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Document], dict[str, Acl]]:
    documents = draw(pages)
    paths = st.sampled_from([*FOLDERS, *(one.source for one in documents)])
    return documents, draw(st.dictionaries(paths, acls, min_size=1, max_size=5))


requests = st.builds(
    SearchInstance,
    input=st.lists(st.sampled_from([*WORDS, "canary00", "canary03"]), min_size=1, max_size=3).map(" ".join),
    num_docs=st.integers(0, 6),
    mode=st.sampled_from(["dense", "lexical", "fused"]),
    filters=st.sampled_from([None, None, {"part": 1}, {"canary00": True}, {"canary02": {"$ne": True}}]),
    min_score=st.sampled_from([None, 0.1234]),
    diversity=st.sampled_from([0.0, 0.4]),
    neighbours=st.integers(0, 2),
    explain=st.booleans(),
)


@settings(
    max_examples=int(os.environ.get("ACCESS_EXAMPLES", "10")),
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(worlds(), st.lists(requests, min_size=12, max_size=12), st.sampled_from([1, 50]))
async def test_a_response_is_the_one_without_the_forbidden_documents(
    world: tuple[list[Document], dict[str, Acl]], instances: list[SearchInstance], candidates: int
) -> None:
    documents, rules = world
    with tempfile.TemporaryDirectory() as folder:
        publish(Path(folder, "all"), documents)
        with AccessFile(Path(folder, "all", "default")).changing() as written:
            written.update(rules)
        async with serving(Path(folder, "all"), restricted=True, candidates=candidates) as service:
            for number, principal in enumerate(CALLERS):
                seen = [one for one in documents if may_read(rules, one.source, principal)]
                publish(Path(folder, str(number)), seen)
                hidden = [one.id for one in documents if one not in seen]
                async with serving(Path(folder, str(number)), candidates=candidates) as without:
                    for instance in instances:
                        found = await answer(service, instance, principal)
                        assert close(found, await answer(without, instance, None))
                        assert not [word for word in hidden if word in str(found) and word not in str(instance)]


@pytest.fixture(scope="module")
def forest() -> list[Document]:
    """Documents of which some are only for a group."""
    return [page(number, ("hr/", "it/", "")[number % 3], " ".join(WORDS[number % 4 :])) for number in range(60)]


RULES = {"hr/": Acl(allow=frozenset(("group:hr",))), "it/": Acl(allow=frozenset(("group:it",)))}


@pytest.fixture
def restricted(tmp_path: Path) -> Path:
    """A root whose index has `RULES`."""
    with AccessFile(tmp_path / "default").changing() as written:
        written.update(RULES)
    return tmp_path


def canaries(documents: Sequence[Document], *folders: str) -> list[str]:
    return [one.id for one in documents if one.source.startswith(folders)]


async def test_every_signal_is_masked_before_the_best_are_chosen(
    restricted: Path, forest: list[Document], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Learned sparse vectors and late interaction too, whose rounding depends on the other rows."""
    publish(restricted, forest, whole=True)
    other = tmp_path_factory.mktemp("without")
    publish(other, [one for one in forest if not one.source.startswith("it/")], whole=True)
    options = {"candidates": 5, "rescore": 40}
    async with serving(restricted, restricted=True, **options) as service, serving(other, **options) as without:
        for mode in ("dense", "lexical", "fused", "rescored"):
            for text in ("red stone", "dog", "river cat canary4"):
                instance = SearchInstance(input=text, num_docs=40, mode=mode, explain=True, sentence_similarity=True)
                found, expected = [
                    {passage["chunk_id"]: passage for passage in (await answer(one, instance, ANN))["passages"]}
                    for one in (service, without)
                ]
                assert found.keys() == expected.keys()
                for chunk, passage in expected.items():
                    assert found[chunk]["score"] == pytest.approx(passage["score"], abs=1e-4)


@pytest.mark.parametrize("store", ["chroma"])
async def test_stores_are_masked(restricted: Path, forest: list[Document], store: str) -> None:
    publish(restricted, forest, store=store)
    async with serving(restricted, restricted=True, store=store, candidates=4) as service:
        for principal, hidden in ((None, ("hr/", "it/")), (ANN, ("it/",)), (BOB, ())):
            for filters in (None, {"part": 1}):
                instance = SearchInstance(input="red stone", num_docs=40, mode="dense", explain=True, filters=filters)
                found = await answer(service, instance, principal)
                seen = [one for one in forest if not one.source.startswith(hidden or ("nothing",))]
                passing = [one for one in seen if filters is None or one.metadata["part"] == 1]
                assert len(found["passages"]) == min(40, len(passing))
                assert not [word for word in canaries(forest, *hidden) if word in str(found)]


async def test_documents_and_counts(restricted: Path, forest: list[Document], caplog: pytest.LogCaptureFixture) -> None:
    publish(restricted, forest)
    publish(restricted, forest[:30])
    old = IndexRoot(restricted, "default").versions()[0]
    caplog.set_level(logging.DEBUG)
    async with serving(restricted, restricted=True) as service:
        for principal, hidden in ((None, ("hr/", "it/")), (ANN, ("it/",)), (BOB, ("nothing",))):
            forbidden = canaries(forest, *hidden)
            status = (await service.status(of(principal))).index
            assert status is not None
            assert status.documents == 30 - len([word for word in forbidden if int(word[6:]) < 30])
            assert not [word for word in forbidden if word in status.model_dump_json()]
            for one in forest:
                for version in (None, old):
                    exists = version is not None or int(one.id[6:]) < 30
                    if exists and one.id not in forbidden:
                        stored = await service.document(one.id, of(principal), version=version)
                        assert stored.text == one.text
                        continue
                    with pytest.raises(UnknownDocumentError) as caught:
                        await service.document(one.id, of(principal), version=version)
                    with pytest.raises(UnknownDocumentError) as absent:
                        await service.document("absent", of(principal), version=version)
                    assert caught.value.message.replace(one.id, "absent") == absent.value.message
    assert "canary" not in caplog.text


async def test_a_caller_who_sees_the_whole_version_does_not_see_all_older_ones(
    restricted: Path, forest: list[Document]
) -> None:
    publish(restricted, forest)
    publish(restricted, [one for one in forest if "/" not in one.source])
    old = IndexRoot(restricted, "default").versions()[0]
    async with serving(restricted, restricted=True) as service:
        for principal, readable in ((None, 0), (ANN, 20), (BOB, 40)):
            read = 0
            for one in forest:
                with contextlib.suppress(UnknownDocumentError):
                    await service.document(one.id, of(principal), version=old)
                    read += "/" in one.source
            assert read == readable


async def test_a_revocation_holds_from_the_next_request_on(restricted: Path, forest: list[Document]) -> None:
    publish(restricted, forest)
    rules = AccessFile(restricted / "default")
    instance = SearchInstance(input="red stone", num_docs=100)
    async with serving(restricted, restricted=True) as service:

        async def seen() -> int:
            return len((await answer(service, instance, ANN))["passages"])

        assert await seen() == 40
        with rules.changing() as written:
            written["hr/canary00.md"] = Acl(deny=frozenset(("user:ann",)))
        assert await seen() == 39
        with rules.changing() as written:
            written[""] = Acl(deny=frozenset(("signed-in",)))
        assert await seen() == 0
        with rules.changing() as written:
            written.clear()
        assert await seen() == 60
        (restricted / "default" / "access.json").write_text('{"rules": {"hr/": ')
        for call in (service.search([instance], of(ANN)), service.document("canary02", of(None))):
            with pytest.raises(DamagedAccessError, match=r"access\.json"):
                await call
        status = await service.status(of(ANN))
        assert status.index is None
        assert "access.json" in (status.reason or "")


async def test_without_access_control_rules_do_not_matter(restricted: Path, forest: list[Document]) -> None:
    publish(restricted, forest)
    async with serving(restricted) as service:
        found = await answer(service, SearchInstance(input="red stone", num_docs=100), None)
        assert len(found["passages"]) == 60


def test_rules_are_checked_and_counted(tmp_path: Path) -> None:
    rules = AccessFile(tmp_path / "new")
    assert rules.read() == AccessRules()
    with rules.changing() as written:
        written["hr/"] = Acl(allow=frozenset(("group:People & Culture",)))
    with rules.changing():
        pass
    assert rules.read().epoch == 1
    for path, entry in (("/hr/", "anyone"), ("hr/../", "anyone"), ("a//b", "anyone"), ("hr/", "people"), ("", "user:")):
        with pytest.raises(InvalidAccessError), rules.changing() as written:
            written[path] = Acl.model_construct(allow=frozenset((entry,)), deny=frozenset())
    assert list(rules.read().rules) == ["hr/"]
