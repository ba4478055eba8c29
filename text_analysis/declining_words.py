"""Sentences that say that the documents do not answer, or that the writer does not know, as data per language."""

from __future__ import annotations

import re
from collections.abc import Mapping

from text_analysis.words import normalise

# fmt: off
DECLINES: Mapping[str, str] = {
    "english":
        r"(?:i|we) (?:do not|don't|did not|didn't|cannot|can't|could not|couldn't) (?:know|answer|find|tell|"
        r"determine)\b|"
        r"i(?: am|'m) (?:unable|not (?:sure|able))\b|"
        r"none of (?:the|these|your) \w+ (?:says?|states?|mentions?|specif(?:y|ies)|tells?|answers?)\b|"
        r"(?:the|these|this|those|that|your)? ?(?:provided|given|above|available)? ?"
        r"(?:documents?|texts?|passages?|context|sources?|excerpts?|articles?|documentation)"
        r"(?: (?:provided|given|above|available))? (?:(?:(?:do|does|did) not|(?:do|does|did)n't|never) "
        r"(?:\w+ly )?(?:say|state|mention|specify|tell|answer|address|indicate|"
        r"(?:provide|contain|include|give|have|offer) (?:\w+ ){0,4}(?:information|details?|mention|answers?|"
        r"indication))|"
        r"(?:contains?|provides?|gives?|has|have|makes?) no (?:\w+ )?(?:information|details?|mention|answer))\b|"
        r"there is no (?:\w+ )?(?:information|mention|answer)\b|no (?:\w+ )?information (?:is|about|on)\b|"
        r"(?:it|this|that) is not (?:stated|mentioned|specified|said|given|clear) (?:in|by|from) the\b|"
        r"(?:the|this) (?:question can(?:no|')t be answered|information (?:is not|isn't) (?:available|given|"
        r"mentioned|stated))\b",
    "german":
        r"(?:das )?weiß ich nicht|ich weiß (?:es |das )?nicht|"
        r"(?:das|die|der|dieses|diese) (?:\w+ )?(?:dokumente?|texte?|quellen?|abschnitte?|kontext|artikel) "
        r"(?:(?:sag|nenn|erwähn|beantworte|geb|gib)(?:t|en|et)|enth(?:ält|alten)) [\w ]{0,30}?(?:nicht|kein\w*)\b|"
        r"(?:in|aus) (?:de[mnr]|diese[mnr]) (?:\w+ )?(?:dokumenten?|text(?:en)?|quellen?|abschnitt(?:en)?|kontext) "
        r"(?:steht|wird|gibt es|geht|findet sich|finden sich) [\w ]{0,30}?(?:nichts?|kein\w*)\b|"
        r"es (?:gibt keine (?:information|angabe)|wird nicht (?:erwähnt|gesagt|genannt))",
    "french":
        r"je ne (?:le )?sais pas|(?:le|les|ce|ces) (?:documents?|textes?|passages?|sources?|contexte) (?:ne |n')"
        r"(?:di(?:t|sent)|mentionn\w+|précis\w+|indiqu\w+|contien\w+|fourni\w+|donn\w+|répond\w*) (?:pas|"
        r"aucune?|rien)\b|"
        r"(?:il n'y a )?aucune information",
    "spanish":
        r"no (?:lo )?sé\b|(?:el|los|la|las|este|estos) (?:documentos?|textos?|pasajes?|fuentes?|contexto) no "
        r"(?:dicen?|mencionan?|especifican?|indican?|contienen?|proporcionan?|responden?)\b|no hay información",
    "italian":
        r"non (?:lo )?so\b|(?:il|i|la|le|questo|questi) (?:document[oi]|test[oi]|bran[oi]|font[ei]|contesto) non "
        r"(?:dic(?:e|ono)|menziona(?:no)?|specifica(?:no)?|indica(?:no)?|contengono|contiene|fornisc(?:e|ono))\b|"
        r"non ci sono informazioni",
    "portuguese":
        r"não (?:o )?sei\b|(?:o|os|a|as|este|estes) (?:documentos?|textos?|trechos?|fontes?|contexto) não "
        r"(?:dize?m?|mencionam?|especificam?|indicam?|cont[éê]m|fornecem?|informam?|respondem?)\b|não há informaç",
    "dutch":
        r"(?:dat )?weet ik niet|ik weet het niet|(?:het|de|dit|deze) (?:document(?:en)?|tekst(?:en)?|"
        r"bron(?:nen)?|context) "
        r"(?:ze(?:gt|ggen)|vermeld(?:t|en)|noem(?:t|en)|ge(?:eft|ven)|bevat(?:ten)?) [\w ]{0,30}?(?:niet|geen)\b",
    "russian":
        r"(?:я )?(?:этого )?не знаю|(?:в )?(?:этом |этих |данном )?(?:документ|текст|источник|отрыв|"
        r"контекст)\w* (?:\w+ )?"
        r"(?:не (?:указ|упом|говор|содерж|сообщ|назв|отвеч)\w*|нет )",
    "arabic":
        r"لا (?:أعرف|أعلم)|(?:ال(?:وثيقة|وثائق|مستند|مستندات|نص|نصوص|مقطع|سياق)) لا "
        r"(?:[يت](?:ذكر|قول|حتوي|وضح|حدد|جيب))|لا [يت](?:ذكر|قول|حتوي|وضح|حدد) (?:ال(?:وثيقة|وثائق|مستند|نص|مقطع))",
    "hindi":
        r"(?:मुझे )?(?:नहीं पता|पता नहीं|नहीं मालूम)|[^।]{0,20}(?:दस्तावेज़|पाठ|स्रोत|संदर्भ|लेख)[^।]{0,60}"
        r"(?:उल्लेख|जानकारी|बताया|कहा)[^।]{0,12}नहीं",
    "chinese":
        r"我?(?:不知道|不清楚)|[^，。]{0,6}(?:文档|文件|文本|文中|文章|资料|段落|上下文|原文)[^，。]{0,6}"
        r"(?:没有|未|没)(?:明确)?(?:提到|提及|说明|提供|给出|指出|包含|回答|涉及)",
    "japanese":
        r"(?:わか|分か)りません|[^。]{0,6}(?:文書|文章|資料|本文|テキスト)[^。]{0,30}(?:記載|言及|書かれて|示され|述べられて|含まれて)"
        r"[^。]{0,4}(?:ありません|いません|いない|ない)",
    "korean":
        r"(?:잘 )?모르겠습니다|알 수 없습니다|(?:이 |제공된 )?(?:문서|본문|텍스트|자료)"
        r"[^.]{0,40}(?:언급|명시|포함|설명|나와)[^.]{0,8}(?:않|없)",
    "thai":
        r"(?:ฉัน)?ไม่(?:ทราบ|รู้)|(?:ใน)?(?:เอกสาร|ข้อความ|บทความ|เนื้อหา)[^\n]{0,20}ไม่(?:ได้)?(?:ระบุ|กล่าว|"
        r"บอก|มีข้อมูล|ตอบ)",
}
# fmt: on
"""Language → pattern of the beginning of a sentence, in lower case and normalised. Other languages have none yet."""

_LEAD_IN = (
    r"\W*(?:(?:(?:i(?:'m| am) )?sorry|unfortunately|leider|désolé|malheureusement|lo siento|lamentablemente|purtroppo|"
    r"infelizmente|helaas|к сожалению|抱歉|对不起|申し訳ありませんが|죄송합니다)\W+)?(?:but |aber |mais |pero )?"
    r"(?:(?:based on|according to|from) [^,.]{0,60}, )?"
)
"""Words that may stand before them."""
_DECLINES = re.compile(f"{_LEAD_IN}(?:{'|'.join(normalise(pattern) for pattern in DECLINES.values())})")


def declines(text: str) -> bool:
    """Whether a text begins by saying that the documents do not answer, or that its writer does not know."""
    return _DECLINES.match(normalise(text[:400]).lower().replace("’", "'")) is not None
