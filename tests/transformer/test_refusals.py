"""Refused answers of the running transformer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evaluation.calibration import fit
from tests.fakes.upstreams import EMBEDDER, WORDS
from tests.transformer.running import (
    BODIES,
    CHAT,
    GENERATE,
    STREAM,
    Q,
    Running,
)
from transformer.answerability import DEFAULT_MODEL
from transformer.refusal import REFUSALS, refusal_text


def calibration(threshold: float) -> dict[str, Any]:
    """A calibration as `kserve-rag eval --calibrate` writes it."""
    origin = {"dataset": "", "dataset_hash": "", "index_version": "v1", "embedder": EMBEDDER}
    made = fit([threshold] * 40, [True] * 40, rate=0.1, model=DEFAULT_MODEL, origin=origin)
    held: dict[str, Any] = json.loads(made.json())
    return held


async def test_a_refusal_has_no_sources_but_the_nearest_topics(service: Running) -> None:
    plain = (await service.client.post(GENERATE, json={"text_input": Q})).json()
    assert (plain["refused"], plain["topics"], len(plain["sources"])) == (False, [], 1)
    assert 0.2 < plain["answerability"] < 1
    topic = {"title": "Warranty", "heading": "", "url": None, "document_id": "d"}
    cut = [{"chunk_id": "c", "document_id": "d", "reason": "not_answered"}]
    body = {"text_input": Q, "min_score": 1}
    service.upstreams.seen.clear()
    refused = (await service.client.post(GENERATE, json=body)).json()
    assert refused["text_output"].startswith("I don't know")
    assert (refused["refused"], refused["sources"], refused["topics"], refused["cut"]) == (True, [], [topic], cut)
    assert refused["answerability"] == plain["answerability"]
    assert [name for name, _, _ in service.upstreams.seen] == ["vectorstore"]  # the model is not asked
    streamed = (await service.client.post(STREAM, json=body)).text
    first, *_, last = (json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: "))
    assert (first["answerability"], first["sources"]) == (plain["answerability"], [])
    assert (last["refused"], last["sources"], last["topics"]) == (True, [], [topic])
    chat = (await service.client.post(CHAT, json={**BODIES[CHAT], "min_score": 1})).json()
    assert (chat["refused"], chat["sources"], chat["topics"]) == (True, [], [topic])
    tensors = [
        {"name": "input", "datatype": "BYTES", "shape": [1, 1], "data": [Q]},
        {"name": "min_score", "datatype": "FP32", "shape": [1], "data": [1.0]},
    ]
    v2 = (await service.client.post("/v2/models/rag/infer", json={"inputs": tensors})).json()
    found = {output["name"]: output["data"][0] for output in v2["outputs"]}
    assert (found["refused"], json.loads(found["topics"])) == (True, [topic])
    assert found["answerability"] == pytest.approx(plain["answerability"])


@pytest.mark.parametrize("parameters", [{"min_score": 0}, {"min_score": 1, "refuse": False}, {"refuse": False}])
async def test_refusing_is_switched_off_by_request(service: Running, parameters: dict[str, Any]) -> None:
    answer = (await service.client.post(GENERATE, json={"text_input": Q, **parameters})).json()
    assert (answer["refused"], answer["text_output"]) == (False, "".join(WORDS))


@pytest.mark.parametrize(
    ("held", "refused"),
    [(None, False), (calibration(0.999), True), (calibration(0.001), False), ({"format": 1}, False)],
)
async def test_the_calibration_of_a_prediction_decides(
    service: Running, held: dict[str, Any] | None, refused: bool
) -> None:
    service.upstreams.calibration = held
    answer = (await service.client.post(GENERATE, json={"text_input": Q})).json()
    assert answer["refused"] is refused


@pytest.mark.parametrize(
    ("question", "language"),
    [
        ("How do I delete a document?", "en"),
        ("Wie lange ist die Garantie?", "de"),
        ("Combien de temps dure la garantie ?", "fr"),
        ("¿Cuánto dura la garantía?", "es"),
        ("Quanto dura la garanzia della pompa?", "it"),
        ("Quanto tempo dura a garantia da bomba?", "pt"),
        ("Hoe lang is de garantie?", "nl"),
        ("保修期多久？", "zh"),
        ("保証期間はどのくらいですか？", "ja"),
        ("보증 기간은 얼마나 됩니까?", "ko"),
        ("Какой срок гарантии?", "ru"),
        ("ما هي مدة الضمان؟", "ar"),
        ("वारंटी कितने समय की है?", "hi"),
        ("รับประกันกี่ปี", "th"),
        ("Πόσο διαρκεί η εγγύηση;", "en"),
        ("wifi", "en"),
        ("", "en"),
    ],
)
def test_a_refusal_follows_the_language_of_the_question(question: str, language: str) -> None:
    assert refusal_text(question) == REFUSALS[language]
