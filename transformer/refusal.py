"""The rule by which questions are refused, and the text and topics of a refusal."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from text_analysis.languages import language_among
from transformer.answerability import DEFAULT_MODEL, DEFAULT_THRESHOLD, Model
from transformer.calibration import Calibration, CalibrationError
from transformer.wire import Topic
from vectorstore.wire import Passage

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RefusalRule:
    """Refuse a question that `model` scores below `threshold`."""

    model: Model
    threshold: float


REFUSALS: Mapping[str, str] = {
    "en": "I don't know: the documents hold nothing that answers this question.",
    "ar": "لا أعرف: لا تحتوي المستندات على ما يجيب عن هذا السؤال.",
    "de": "Das weiß ich nicht: In den Dokumenten steht nichts, was diese Frage beantwortet.",
    "es": "No lo sé: los documentos no contienen nada que responda a esta pregunta.",
    "fr": "Je ne sais pas : les documents ne contiennent rien qui réponde à cette question.",
    "hi": "मुझे नहीं पता: दस्तावेज़ों में ऐसा कुछ नहीं है जो इस प्रश्न का उत्तर दे।",
    "it": "Non lo so: i documenti non contengono nulla che risponda a questa domanda.",
    "ja": "わかりません。文書にはこの質問に答える内容がありません。",
    "ko": "모르겠습니다. 문서에 이 질문에 답하는 내용이 없습니다.",
    "nl": "Dat weet ik niet: in de documenten staat niets dat deze vraag beantwoordt.",
    "pt": "Não sei: os documentos não contêm nada que responda a esta pergunta.",
    "ru": "Я не знаю: в документах нет ответа на этот вопрос.",
    "th": "ไม่ทราบ: ในเอกสารไม่มีข้อมูลที่ตอบคำถามนี้",
    "zh": "我不知道：文档中没有能回答这个问题的内容。",
}
"""Language (ISO 639-1) → text of a refusal. The first is used for all other languages."""

_DEFAULT = RefusalRule(DEFAULT_MODEL, DEFAULT_THRESHOLD)


class RefusalPolicy:
    """Chooses the rule: the calibration of the index version, else the default."""

    def __init__(self, *, threshold: float | None) -> None:
        """`threshold`: overrides calibrated thresholds; None keeps them."""
        self._threshold = threshold

    def rule(self, calibration: Mapping[str, Any] | None) -> RefusalRule:
        """The rule for a `vectorstore.wire.Prediction.calibration`. An invalid calibration is ignored."""
        rule = _DEFAULT if calibration is None else _calibrated(orjson.dumps(calibration))
        return rule if self._threshold is None else RefusalRule(rule.model, self._threshold)


@functools.lru_cache(64)
def _calibrated(content: bytes) -> RefusalRule:
    try:
        calibration = Calibration.parse(content)
    except CalibrationError as error:
        logger.warning("using the default refusal threshold: %s", error)
        return _DEFAULT
    return RefusalRule(calibration.model, calibration.threshold)


def refusal_text(question: str) -> str:
    """A refusal in the question's language."""
    return REFUSALS[language_among(question, tuple(REFUSALS))]


def topics(passages: Iterable[Passage], limit: int = 3) -> list[Topic]:
    """Title and heading of the nearest passages, nearest first, without duplicates; at most `limit`."""
    found: dict[tuple[str, tuple[str, ...]], Topic] = {}
    for passage in passages:
        if len(found) >= limit:
            break
        title = passage.title or (passage.heading_path[0] if passage.heading_path else passage.source)
        heading = passage.heading_path[-1] if passage.heading_path else ""
        key = (passage.url or passage.document_id, tuple(passage.heading_path))
        if title and key not in found:
            found[key] = Topic(
                title=title,
                heading="" if heading == title else heading,
                url=passage.url,
                document_id=passage.document_id,
            )
    return list(found.values())
