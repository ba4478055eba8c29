"""Words that carry facts, per language: numbers, months, units, negations, modal verbs, opposites, pronouns.

Languages without an entry have no such words. Units and digits do not depend on the language.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from text_analysis.english import OPPOSITES
from text_analysis.word_lists import word_set

Opposites = Mapping[str, frozenset[str]]


def _opposites(pairs: str, known: Opposites | None = None) -> Opposites:
    opposites = {word: set(others) for word, others in (known or {}).items()}
    for pair in pairs.split():
        one, other = pair.split("-")
        opposites.setdefault(one, set()).add(other)
        opposites.setdefault(other, set()).add(one)
    return {word: frozenset(others) for word, others in opposites.items()}


def _numbered(words: str, start: int = 1) -> dict[str, int]:
    """Words in counting order → numbers. `/` separates words for the same number."""
    return {word: number for number, group in enumerate(words.split(), start) for word in group.split("/")}


@dataclass(frozen=True, slots=True)
class FactWords:
    """The words of one language, in lower case."""

    negations: frozenset[str] = frozenset()
    only: frozenset[str] = frozenset()
    """Words that cancel a preceding negation, as in "not only"."""
    hedges: frozenset[str] = frozenset()
    """Words that weaken a claim, such as "may"."""
    possible: frozenset[str] = frozenset()
    """Words of ability and permission."""
    obliged: frozenset[str] = frozenset()
    advised: frozenset[str] = frozenset()
    pronouns: frozenset[str] = frozenset()
    """Words that may refer to a name in an earlier sentence."""
    joining: frozenset[str] = frozenset()
    """Words between the items of a list or the ends of a range."""
    months: Mapping[str, int] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    """Cardinals and ordinals, except 1, whose words are also articles and pronouns."""
    ones: frozenset[str] = frozenset()
    """Words for 1 after tens, as in `twenty-one`."""
    scales: Mapping[str, int] = field(default_factory=dict)
    opposites: Opposites = field(default_factory=dict)
    negating_prefixes: tuple[str, ...] = ()
    capitalises_nouns: bool = False


def _german_numbers() -> dict[str, int]:
    ones = ["ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]
    tens = ["zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"]
    numbers = _numbered("zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn "
                        "sechzehn siebzehn achtzehn neunzehn", 2)  # fmt: skip
    for ten, word in enumerate(tens, 2):
        numbers[word] = 10 * ten
        numbers |= {f"{one}und{word}": 10 * ten + value for value, one in enumerate(ones, 1)}
    stems = ["zweit", "dritt", "viert", "fünft", "sechst", "siebt", "acht", "neunt", "zehnt", "elft", "zwölft"]
    numbers |= {f"{stem}e{end}": value for value, stem in enumerate(stems, 2) for end in ("", "n", "r", "s", "m")}
    return numbers | {f"{one}hundert": 100 * value for value, one in enumerate(ones, 1)}


# fmt: off
_ENGLISH = FactWords(
    negations=word_set("not no never none nobody nothing neither nor cannot without hardly barely"),
    only=word_set("only just merely least"),
    hedges=word_set("may might perhaps possibly"),
    possible=word_set("can could able"),
    obliged=word_set("must shall required"),
    advised=word_set("should ought recommended"),
    pronouns=word_set("he she it they him her them his its their this these that those who which"),
    joining=word_set("and or & to nor"),
    months=_numbered("january/jan february/feb march/mar april/apr may june/jun july/jul august/aug "
                     "september/sep/sept october/oct november/nov december/dec"),
    numbers=_numbered("two/twice/second three/thrice/third four/fourth five/fifth six/sixth seven/seventh eight/eighth "
                      "nine/ninth ten/tenth eleven/eleventh twelve/twelfth/dozen thirteen/thirteenth "
                      "fourteen/fourteenth fifteen/fifteenth sixteen/sixteenth seventeen/seventeenth "
                      "eighteen/eighteenth nineteen/nineteenth", 2)
    | {word: 10 * ten for word, ten in _numbered("twenty/twentieth thirty/thirtieth forty/fortieth fifty/fiftieth "
                                                 "sixty/sixtieth seventy eighty ninety", 2).items()},
    ones=word_set("one first"),
    scales={"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "bn": 10**9,
            "hundreds": 100, "thousands": 1000, "millions": 10**6, "billions": 10**9},
    opposites=_opposites(
        "immutable-changed immutable-modified immutable-edited immutable-mutable immutable-changeable "
        "permanent-temporary fixed-variable required-optional mandatory-optional free-paid full-empty improve-worsen "
        "increases-decreases increases-reduces increase-reduce major-minor legal-illegal possible-impossible "
        "local-remote manual-automatic manually-automatically synchronous-asynchronous active-inactive "
        "online-offline "
        "success-failure accept-refuse always-sometimes all-some every-no everyone-nobody easier-harder "
        "maximum-least absent-present cheap-expensive safe-dangerous true-false visible-hidden lock-unlock "
        "earlier-later parent-child guilty-innocent wealthy-poor northeast-southwest northwest-southeast", OPPOSITES),
    negating_prefixes=("un", "in", "im", "il", "ir", "dis", "non"),
)
_GERMAN = FactWords(
    negations=word_set("nicht kein keine keinen keiner keinem keines nie niemals niemand nichts ohne weder noch kaum"),
    only=word_set("nur bloß allein zuletzt"),
    hedges=word_set("vielleicht möglicherweise dürfte könnte könnten"),
    possible=word_set("kann können konnte konnten darf dürfen durfte durften"),
    obliged=word_set("muss müssen musste mussten muß"),
    advised=word_set("soll sollen sollte sollten empfohlen"),
    pronouns=word_set("er sie es ihn ihm ihr ihnen sein seine ihre dieser diese dieses diesem der die das welche"),
    joining=word_set("und oder sowie bis &"),
    months=_numbered("januar/jan/jänner februar/feb märz/mär april/apr mai juni/jun juli/jul august/aug "
                     "september/sept oktober/okt november/nov dezember/dez"),
    numbers=_german_numbers(),
    scales={"hundert": 100, "tausend": 1000, "million": 10**6, "millionen": 10**6, "mio": 10**6,
            "milliarde": 10**9, "milliarden": 10**9, "mrd": 10**9, "billion": 10**12, "billionen": 10**12},
    opposites=_opposites(
        "erste-letzte ersten-letzten erster-letzter größte-kleinste größten-kleinsten größer-kleiner große-kleine "
        "großen-kleinen großer-kleiner hoch-niedrig hohe-niedrige hohen-niedrigen höher-niedriger höchste-niedrigste "
        "höchsten-niedrigsten mehr-weniger meisten-wenigsten vor-nach vorher-nachher früh-spät früher-später "
        "nördlich-südlich östlich-westlich norden-süden osten-westen alt-neu alte-neue alten-neuen alter-neuer "
        "jung-alt ältere-jüngere älteste-jüngste beste-schlechteste besten-schlechtesten besser-schlechter "
        "gut-schlecht "
        "stark-schwach stärker-schwächer öffentlich-privat öffentliche-private öffentlichen-privaten begann-endete "
        "beginnt-endet gewann-verlor gewinnen-verlieren gewonnen-verloren gleich-verschieden gleiche-andere "
        "gleichen-anderen reich-arm positiv-negativ häufig-selten lang-kurz lange-kurze länger-kürzer "
        "schnell-langsam "
        "innerhalb-außerhalb innen-außen oben-unten über-unter links-rechts immer-nie alle-keine offen-geschlossen "
        "erlaubt-verboten männlich-weiblich maximal-minimal höchstens-mindestens steigen-sinken stieg-sank "
        "zunehmen-abnehmen warm-kalt hell-dunkel leicht-schwer einfach-schwierig veränderlich-unveränderlich "
        "unveränderlich-geändert zulässig-unzulässig mit-ohne"),
    negating_prefixes=("un", "in", "nicht"),
    capitalises_nouns=True,
)
_CHINESE = FactWords(
    negations=frozenset(("不", "没有", "没", "未", "无", "非", "并非", "别", "勿", "从不", "从未")),
    only=frozenset(("仅", "但", "只", "过", "论")),
    hedges=frozenset(("可能", "也许", "或许")),
    possible=frozenset(("可以", "能够", "能", "可", "会")),
    obliged=frozenset(("必须", "需要", "须", "务必", "得")),
    advised=frozenset(("应该", "应当", "应", "建议")),
    months={},
    opposites=_opposites(
        "最大-最小 第一-最后 首先-最后 增加-减少 高于-低于 之前-之后 以前-以后 较高-较低 更多-更少 更高-更低 "
        "最高-最低 更大-更小 "
        "更早-更晚 早期-晚期 最早-最晚 北-南 东-西 北部-南部 东部-西部 北方-南方 开始-结束 赢-输 赢得-输掉 "
        "获胜-失败 战胜-败给 "
        "击败-输给 公立-私立 公共-私人 公开-秘密 支持-反对 允许-禁止 富裕-贫穷 富-穷 上升-下降 大型-小型 大-小 "
        "内部-外部 内-外 强-弱 "
        "提高-降低 成功-失败 相同-不同 相似-不同 上-下 左-右 前-后 多-少 长-短 快-慢 新-旧 好-坏 男-女 正-负 "
        "有-无 接受-拒绝 "
        "打开-关闭 启用-禁用 包括-排除 购买-出售 最好-最差 主要-次要 合法-非法 永久-临时 可变-不可变"),
)
_WORDS = {
    "english": _ENGLISH,
    "german": _GERMAN,
    "chinese": _CHINESE,
    "french": FactWords(
        negations=word_set("ne pas jamais aucun aucune sans rien personne ni non n"), only=word_set("que seulement"),
        hedges=word_set("peut-être pourrait pourraient"), possible=word_set("peut peuvent pouvait"),
        obliged=word_set("doit doivent devait"), advised=word_set("devrait devraient"),
        pronouns=word_set("il elle ils elles lui leur son sa ses ce cette ces"), joining=word_set("et ou à"),
        months=_numbered("janvier février mars avril mai juin juillet août septembre octobre novembre décembre"),
        numbers=_numbered("deux trois quatre cinq six sept huit neuf dix onze douze", 2),
        scales={"cent": 100, "mille": 1000, "million": 10**6, "millions": 10**6, "milliard": 10**9, "milliards": 10**9},
    ),
    "spanish": FactWords(
        negations=word_set("no nunca jamás ningún ninguna ninguno nada nadie sin ni tampoco"),
        only=word_set("sólo solo"),
        hedges=word_set("quizás quizá podría podrían"), possible=word_set("puede pueden podía"),
        obliged=word_set("debe deben debía"), advised=word_set("debería deberían"),
        pronouns=word_set("él ella ellos ellas su sus lo la este esta estos"), joining=word_set("y o e a"),
        months=_numbered("enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre"),
        numbers=_numbered("dos tres cuatro cinco seis siete ocho nueve diez once doce", 2),
        scales={"cien": 100, "mil": 1000, "millón": 10**6, "millones": 10**6},
    ),
    "russian": FactWords(
        negations=word_set("не нет ни без никогда никто ничего нельзя"), only=word_set("только лишь"),
        hedges=word_set("возможно вероятно"), possible=word_set("может могут мог можно"),
        obliged=word_set("должен должна должны должно обязан"), advised=word_set("следует рекомендуется"),
        pronouns=word_set("он она оно они его её их это этот эта"), joining=word_set("и или до"),
        months=_numbered("января/январь февраля/февраль марта/март апреля/апрель мая/май июня/июнь июля/июль "
                         "августа/август сентября/сентябрь октября/октябрь ноября/ноябрь декабря/декабрь"),
        numbers=_numbered("два/две три четыре пять шесть семь восемь девять десять одиннадцать двенадцать", 2),
        scales={"сто": 100, "тысяч": 1000, "тысяча": 1000, "тысячи": 1000, "миллион": 10**6, "миллиона": 10**6,
                "миллионов": 10**6, "миллиард": 10**9, "миллиардов": 10**9},
        opposites=_opposites("до-после больше-меньше первый-последний выше-ниже север-юг восток-запад"),
    ),
    "hindi": FactWords(
        negations=word_set("नहीं न ना मत बिना"), possible=word_set("सकता सकते सकती"),
        obliged=word_set("चाहिए आवश्यक अनिवार्य"), joining=word_set("और या"),
        numbers=_numbered("दो तीन चार पांच/पाँच छह सात आठ नौ दस ग्यारह बारह", 2),
        scales={"सौ": 100, "हज़ार": 1000, "हजार": 1000, "लाख": 10**5, "करोड़": 10**7},
        opposites=_opposites("पहले-बाद अधिक-कम बड़ा-छोटा"),
    ),
    "arabic": FactWords(
        negations=word_set("لا لم لن ليس ليست غير بدون دون ما"), hedges=word_set("ربما قد"),
        possible=word_set("يمكن يستطيع"), obliged=word_set("يجب"), advised=word_set("ينبغي"), joining=word_set("و أو"),
        numbers=_numbered("اثنان/اثنين ثلاثة/ثلاث أربعة/أربع خمسة/خمس ستة/ست سبعة/سبع ثمانية تسعة/تسع عشرة/عشر", 2),
        scales={"مئة": 100, "ألف": 1000, "مليون": 10**6, "مليار": 10**9},
        opposites=_opposites("قبل-بعد أكثر-أقل أكبر-أصغر شمال-جنوب شرق-غرب"),
    ),
}
UNITS: Mapping[str, tuple[str, float]] = {
    word: (dimension, factor)
    for dimension, factor, words in (
        ("month", 1, "month months monat monate monaten mois mes meses 个月 месяц месяца месяцев महीने شهر أشهر"),
        ("month", 12, "year years jahr jahre jahren ans año años год года лет 年 साल वर्ष سنة سنوات عام"),
        ("month", 120, "decade decades jahrzehnt jahrzehnte jahrzehnten"),
        ("month", 1200, "century centuries jahrhundert jahrhunderts jahrhunderte 世纪"),
        ("time", 1, "s sec second seconds sekunde sekunden seconde secondes 秒 секунд"), ("time", 1e-3, "ms"),
        ("time", 60, "min minute minutes minuten 分钟 минут मिनट دقيقة"),
        ("time", 3600, "h hour hours stunde stunden heure heures hora horas 小时 час часа часов घंटे ساعة"),
        ("time", 86400, "day days tag tage tagen jour jours día días 天 день дня дней दिन يوم أيام"),
        ("time", 604800, "week weeks woche wochen semaine semaines 周 неделя недели недель"),
        ("length", 1e-3, "mm millimeter millimetre millimeters 毫米"),
        ("length", 0.01, "cm centimeter centimeters 厘米"),
        ("length", 1, "m meter meters metre metres metern 米 метр метров"),
        ("length", 0.0254, "inch inches zoll 英寸"),
        ("length", 1000, "km kilometer kilometers kilometre kilometres kilometern 公里 километр километров किलोमीटर"),
        ("length", 0.3048, "ft foot feet fuß 英尺"), ("length", 0.9144, "yd yard yards 码"),
        ("length", 1609.344, "mi mile miles meile meilen 英里"), ("area", 1, "平方公里"), ("area", 2.58999, "平方英里"),
        ("mass", 1, "g gram grams gramm 克"), ("mass", 1000, "kg kilogram kilograms kilogramm kilo 公斤 千克"),
        ("mass", 1e6, "t ton tons tonne tonnes tonnen 吨"), ("percent", 1, "% percent prozent pourcent 百分比"),
        ("promille", 1, "‰ promille"), ("times", 1, "times mal fold 倍"),
        ("usd", 1, "$ usd dollar dollars 美元"), ("eur", 1, "€ eur euro euros 欧元"),
        ("gbp", 1, "£ gbp pound pounds pfund 英镑"),
        ("cny", 1, "¥ yuan rmb 元 人民币"), ("jpy", 1, "yen 日元"),
        ("byte", 1e3, "kb"), ("byte", 1e6, "mb"), ("byte", 1e9, "gb"), ("byte", 1e12, "tb"),
        ("celsius", 1, "°c celsius"), ("fahrenheit", 1, "°f fahrenheit"), ("age", 1, "岁"),
        ("point", 1, "points punkte"),
    )
    for word in words.split()
}
"""Unit → dimension and factor. Units of the same dimension can be converted: 12 months are 1 year."""
# fmt: on


def fact_words(language: str) -> FactWords:
    """The words of a language, given its Snowball name or `chinese`, `hindi` or `arabic`; empty without data."""
    return _WORDS.get(language, _NONE)


_NONE = FactWords()
