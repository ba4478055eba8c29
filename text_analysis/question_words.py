"""Sentences of a question that ask, and patterns of questions that ask for a number or a date."""

from __future__ import annotations

import re
from collections.abc import Mapping

from text_analysis.sentences import sentence_spans
from text_analysis.words import normalise

_QUESTION_MARKS = ("?", "？", "؟")
_MAX_ASKING = 2
_MAX_CHARS = 10_000
"""Maximum number of characters, at the end of a question, that are cut into sentences."""

ASKS_NUMBER: Mapping[str, str] = {
    "english": "how (?:many|much|long|old|far|often|high|tall|large|big|fast|deep|wide|hot|cold|heavy|tight)|when|"
    "(?:what|which) (?:\\w+ )?(?:year|date|century|decade|percentage|number|amount|temperature|price|voltage|size)",
    "german": "wie ?(?:viele?|lange|oft|alt|weit|hoch|groß|schnell|tief|breit|schwer)|wann|"
    "welche[mnrs]? jahr(?:hundert)?",
    "french": "combien|quand|quelle (?:année|date)",
    "spanish": "cuánt[oa]s?|cuándo|qué (?:año|fecha|porcentaje)",
    "italian": "quant[oaie]|quando|(?:che|quale) anno",
    "portuguese": "quant[oa]s?|quando|que (?:ano|data)",
    "dutch": "hoeveel|hoe (?:lang|oud|ver|vaak|hoog|groot)|wanneer|welk jaar",
    "swedish": "hur (?:många|mycket|länge|gammal|ofta|hög|stor)|när|vilket år",
    "polish": "ile|kiedy|którym roku",
    "russian": "сколько|когда|каком году|как (?:долго|часто)",
    "turkish": "kaç|ne kadar|ne zaman|hangi yıl",
    "greek": "πόσ(?:ο|οι|ες|α)|πότε|ποιο έτος",
    "arabic": "كم|متى|أي عام",
    "hindi": "कितन[ेीा]|कब|किस वर्ष",
    "vietnamese": "bao (?:nhiêu|lâu|giờ)|khi nào|năm nào",
    "chinese": "多少|几|何时|什么时候|哪一?年|多[长久大高远]",
    "japanese": "いくつ|いくら|いつ|何[年人回個歳]|どの?くらい",
    "korean": "얼마나?|언제|몇",
    "thai": "กี่|เท่าไร|เท่าไหร่|เมื่อไร|เมื่อใด|เมื่อไหร่|นานแค่ไหน",
}
"""Language → pattern, in lower case. Other languages have none yet."""

_UNSPACED = ("chinese", "japanese", "korean", "thai")
_ASKED = re.compile(
    "|".join(
        pattern if language in _UNSPACED else rf"(?<!\w)(?:{pattern})(?!\w)"
        for language, pattern in ASKS_NUMBER.items()
    )
)


def asks_number(question: str) -> bool:
    """Whether the answer to a question is a number or a date. False for languages without data."""
    return _ASKED.search(normalise(question).lower()) is not None


def asking(question: str) -> list[str]:
    """The sentences of a longer question that ask: the last two with a question mark, or the first one if none has.

    Instructions ("Answer in one sentence.") and background belong to a question, but the documents need not have them.
    Empty if the question is one sentence.
    """
    text = question[-_MAX_CHARS:].strip()
    sentences = [text[start:end].strip() for start, end in sentence_spans(text)]
    if len(sentences) < 2:
        return []
    return [sentence for sentence in sentences if sentence.endswith(_QUESTION_MARKS)][-_MAX_ASKING:] or sentences[:1]
