"""Sentences that say that the documents do not answer."""

from __future__ import annotations

import pytest

from text_analysis.declining_words import DECLINES, declines
from transformer.refusal import REFUSALS


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but the document does not mention it.",
        "Based on the documents, I cannot determine the price.",
        "The context provided does not contain enough details.",
        "None of the documents mention it.",
        "There is no information about this.",
        "Das Dokument enthält keine Informationen über den Preis.",
        "In den Dokumenten steht nichts darüber.",
        "Le document ne précise pas la date.",
        "Los documentos no mencionan el precio.",
        "Il documento non dice chi ha vinto.",
        "O documento não menciona o preço.",
        "Het document vermeldt niet wie won.",
        "В документе не указано, кто победил.",
        "文档中没有提到价格。",
        "文書には価格についての記載がありません。",
        "문서에는 가격이 언급되어 있지 않습니다.",
        "النص لا يذكر السعر.",
        "दस्तावेज़ में कीमत का उल्लेख नहीं है।",
        "เอกสารไม่ได้ระบุราคา",
        *REFUSALS.values(),
    ],
)
def test_a_refusal_is_recognised(text: str) -> None:
    assert declines(text)


@pytest.mark.parametrize(
    "text",
    [
        "The document has 12 pages.",
        "The document does not contain control characters.",
        "The sources do not overlap.",
        "The question is not refused.",
        "We are unable to ship on Sundays.",
        "There is no GPU in the tests.",
        "Das Dokument hat keine Seiten mit Bildern.",
        "文档没有图片。",
        "",
    ],
)
def test_a_claim_with_a_negation_is_none(text: str) -> None:
    assert not declines(text)


def test_every_language_of_a_refusal_has_data() -> None:
    assert len(DECLINES) == len(REFUSALS)
