"""The client against a real Triton that serves minilm."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from chassis.context import CallContext
from chassis.errors import DeadlineExceededError, InvalidRequestError, NotReadyError
from embedder.client import EmbedderClient

MIXED = [
    "",
    "What is a chunk?",
    "längerer Text " * 40,
    "日本語のテキスト",
    "\u200b\ufeff",
    "emoji 👩‍👩‍👧",
    "x" * 5000,
    "a\x00b",
]


async def test_embeddings_are_normalised_rows_in_the_order_sent(client: EmbedderClient, ctx: CallContext) -> None:
    texts = [f"{text} {number}" for number in range(9) for text in MIXED]
    batch = await client.embed(texts, ctx, input_type="passage")
    assert batch.dense.shape == (72, 384)
    assert batch.dense.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(batch.dense, axis=1), 1, atol=1e-6)
    for position in (0, 17, 40, 71):
        alone = await client.embed([texts[position]], ctx, input_type="passage")
        np.testing.assert_allclose(batch.dense[position], alone.dense[0], atol=1e-5)
        assert batch.token_counts[position] == alone.token_counts[0]


async def test_near_meanings_have_near_embeddings(client: EmbedderClient, ctx: CallContext) -> None:
    cat, kitten, tax = (await client.embed(["A cat sleeps.", "The kitten is asleep.", "Tax is due in May."], ctx)).dense
    assert cat @ kitten > 0.6 > 0.2 > cat @ tax


async def test_truncated_texts_are_reported(client: EmbedderClient, ctx: CallContext) -> None:
    embeddings = await client.embed(["short", "word " * 254, "word " * 255, "word " * 9000], ctx)
    assert embeddings.truncated.tolist() == [False, False, True, True]
    assert embeddings.token_counts.tolist() == [3, 256, 256, 256]
    np.testing.assert_allclose(embeddings.dense[1], embeddings.dense[3], atol=1e-5)


async def test_no_texts_give_no_rows(client: EmbedderClient, ctx: CallContext) -> None:
    embeddings = await client.embed([], ctx)
    assert embeddings.dense.shape == (0, 384)
    assert embeddings.token_counts.shape == embeddings.truncated.shape == (0,)


async def test_the_fingerprint_names_model_and_weights(client: EmbedderClient, ctx: CallContext) -> None:
    fingerprint = await client.fingerprint(ctx)
    model, _, digest = fingerprint.partition("@sha256:")
    assert model == "all-MiniLM-L6-v2-int8"
    assert digest == "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
    assert (await client.embed(["a"], ctx)).fingerprint == fingerprint


async def test_calls_at_the_same_time_get_their_own_answers(client: EmbedderClient, ctx: CallContext) -> None:
    texts = [f"{MIXED[number % len(MIXED)]} {number}" for number in range(40)]
    answers = await asyncio.gather(
        *(
            client.embed([text], ctx, input_type="passage" if number % 3 else "query")
            for number, text in enumerate(texts)
        )
    )
    together = await client.embed(texts, ctx)
    np.testing.assert_allclose(np.concatenate([answer.dense for answer in answers]), together.dense, atol=1e-5)


async def test_texts_are_not_changed(client: EmbedderClient, ctx: CallContext) -> None:
    texts = ["b" * number for number in range(40)]
    before = list(texts)
    await client.embed(texts, ctx)
    assert texts == before


async def test_a_lone_surrogate_is_read_as_a_question_mark(client: EmbedderClient, ctx: CallContext) -> None:
    odd, plain = (await client.embed(["a \ud800 b", "a ? b"], ctx)).dense
    np.testing.assert_allclose(odd, plain, atol=1e-6)


async def test_an_output_that_the_model_does_not_have_is_refused(client: EmbedderClient, ctx: CallContext) -> None:
    with pytest.raises(InvalidRequestError, match="sparse_indices"):
        await client.embed(["a"], ctx, sparse=True)


async def test_more_rows_than_the_model_takes_are_refused(embedder_url: str, ctx: CallContext) -> None:
    client = EmbedderClient(embedder_url, model="minilm", rows_per_request=64)
    try:
        with pytest.raises(InvalidRequestError, match="32"):
            await client.embed(["a"] * 33, ctx)
    finally:
        await client.aclose()


async def test_a_missing_model_or_server_is_not_ready(embedder_url: str, ctx: CallContext) -> None:
    with_unknown_model = EmbedderClient(embedder_url, model="no such/model")
    nobody_there = EmbedderClient("http://127.0.0.1:9", model="minilm")
    try:
        with pytest.raises((NotReadyError, InvalidRequestError)):
            await with_unknown_model.embed(["a"], ctx)
        with pytest.raises(NotReadyError):
            await nobody_there.embed(["a"], ctx)
    finally:
        await with_unknown_model.aclose()
        await nobody_there.aclose()


async def test_a_deadline_that_has_passed(client: EmbedderClient) -> None:
    with pytest.raises(DeadlineExceededError):
        await client.embed(["a"], CallContext.start(-1))


async def test_a_deadline_in_the_middle_ends_every_request(client: EmbedderClient, ctx: CallContext) -> None:
    with pytest.raises((DeadlineExceededError, NotReadyError)):
        await client.embed(["word " * 250] * 2000, CallContext.start(0.3))
    assert (await client.embed(["still there"], ctx)).dense.shape == (1, 384)
