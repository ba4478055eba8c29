"""Measures whether the citation check notices a changed fact, and whether it accepts a paraphrase.

    python -m evaluation.facts ../shared/data/squad2-dev ../shared/data/xquad/de

The statements are sentences of gold passages and known answers that the check supports with their passage as the
source. *Detected*: share of the statements with exactly one changed fact that are no longer supported. *Refused*: share
of the slightly rephrased statements with unchanged facts that are no longer supported. Neither the graph nor an LLM
runs.

Half of the sentences, chosen by a hash, are for development (`--half develop`); the other half is reported. The check
knows many of the words below from `text_analysis.fact_words`: the figures for antonyms, modal verbs and units show
whether the comparison works, not how complete its word lists are.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from evaluation import datasets
from text_analysis.sentences import sentence_spans
from text_analysis.stems import language_of
from text_analysis.words import COMPOUND
from transformer.alignment import Aligner
from transformer.citations import Citer
from transformer.wire import Source
from vectorstore.wire import Span

Half = Literal["develop", "report"]
Change = Callable[["Sentence", random.Random], Iterable[str]]

_LENGTH = range(30, 301)
_CHINESE_LENGTH = range(12, 121)
_SENTENCES = 400
"""Maximum number of sentences per dataset and half."""


@dataclass(frozen=True, slots=True)
class Words:
    """Words for changing statements. Words are separated by spaces; pairs are `one-other`."""

    negatable: str
    """Words that can be negated."""
    negation: str
    negated: tuple[tuple[str, str], ...]
    """Patterns and replacements that remove a negation."""
    modals: str
    """Pairs of modal verbs with different meanings."""
    antonyms: str
    synonyms: str
    months: str
    units: str
    """Pairs of units of the same kind and of different sizes."""
    numbers: str
    """Number words, from two."""
    before: bool = False
    """Whether the negation precedes the word."""


# fmt: off
_WORDS = {
    "english": Words(
        "is are was were can could will would should must may might has had does did do", "not",
        ((r"\b(is|are|was|were|can|could|will|would|should|must|may|do|does|did|has|have|had) not\b", r"\1"),
         (r"\bcannot\b", "can"), (r"n['’]t\b", ""), (r"\bunable\b", "able"), (r"\bunlikely\b", "likely"),
         (r"\bunknown\b", "known"), (r"\bindependent\b", "dependent"), (r"\bimpossible\b", "possible"),
         (r"\bunusual\b", "usual"), (r"\bnever\b", "often"), (r"\bwithout\b", "with")),
        "can-must could-must may-must might-must must-may should-may should-must may-should can-should",
        "first-last largest-smallest large-small high-low higher-lower more-less most-least increase-decrease "
        "increased-decreased before-after early-late north-south northern-southern eastern-western east-west "
        "old-new best-worst better-worse strong-weak major-minor public-private internal-external open-closed "
        "began-ended won-lost allow-forbid allowed-forbidden same-different rich-poor male-female positive-negative "
        "win-lose accepted-rejected common-rare easy-difficult include-exclude possible-impossible legal-illegal "
        "above-below inside-outside long-short fast-slow easier-harder supported-opposed enable-disable free-paid "
        "full-empty upper-lower wide-narrow success-failure increases-reduces improve-worsen always-never",
        "began-started large-big also-additionally approximately-about however-nevertheless many-numerous "
        "show-demonstrate help-assist use-utilize often-frequently primarily-mainly several-various "
        "because-since important-significant known-called created-made entire-whole",
        "January February March April June July August September October November December",
        "years-months months-weeks days-hours hours-minutes weeks-days miles-kilometres km-miles kilometers-miles "
        "percent-times million-billion billion-million feet-metres meters-feet minutes-hours pounds-dollars "
        "dollars-euros yards-miles °C-°F MB-GB GB-TB seconds-minutes",
        "two three four five six seven eight nine ten eleven twelve",
    ),
    "german": Words(
        "ist sind war waren wird wurde wurden kann konnte hat hatte", "nicht",
        ((r" nicht\b", ""), (r"\bkeine", "eine"), (r"\bkein\b", "ein"), (r"\bohne\b", "mit"),
         (r"\bunabhängig", "abhängig"), (r"\bunmöglich", "möglich"), (r"\bunbekannt", "bekannt"), (r"\bnie\b", "oft")),
        "kann-muss können-müssen konnte-musste konnten-mussten muss-kann müssen-können sollte-kann sollten-müssen "
        "darf-muss dürfen-müssen",
        "erste-letzte ersten-letzten größte-kleinste größten-kleinsten große-kleine großen-kleinen hohe-niedrige "
        "höher-niedriger mehr-weniger vor-nach früh-spät nördlich-südlich Norden-Süden Osten-Westen östlich-westlich "
        "alt-neu alte-neue alten-neuen beste-schlechteste besser-schlechter stark-schwach öffentlich-privat "
        "öffentlichen-privaten begann-endete gewann-verlor gewonnen-verloren gleiche-andere reich-arm "
        "positiv-negativ häufig-selten lang-kurz schnell-langsam innerhalb-außerhalb",
        "begann-startete auch-ebenfalls etwa-ungefähr jedoch-allerdings oft-häufig viele-zahlreiche "
        "wichtig-bedeutend verwendet-benutzt gesamte-ganze da-weil",
        "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
        "Jahre-Monate Jahren-Monaten Monate-Wochen Tage-Stunden Tagen-Stunden Kilometer-Meilen Meilen-Kilometer "
        "km-Meilen Prozent-Promille Millionen-Milliarden Milliarden-Millionen Meter-Fuß Minuten-Stunden Meter-Zoll "
        "Dollar-Euro Pfund-Dollar Yards-Meilen °C-°F Stunden-Tage",
        "zwei drei vier fünf sechs sieben acht neun zehn elf zwölf",
    ),
    "chinese": Words(
        "是 能 会 可以 需要 允许 支持 属于 包括", "不",
        ((r"不(?=[是能会可需允支属包被受再])", ""), (r"没有", "有"), (r"并非", "是"), (r"未(?=[被能])", "")),
        "可以-必须 可能-必须 必须-可以 应该-可以 应-可 能够-必须 需要-可以",
        "最大-最小 第一-最后 增加-减少 高于-低于 之前-之后 以前-以后 较高-较低 更多-更少 北部-南部 东部-西部 南部-北部 "
        "西部-东部 早期-晚期 开始-结束 赢得-输掉 击败-输给 公立-私立 公共-私人 支持-反对 允许-禁止 富裕-贫穷 上升-下降 "
        "大型-小型 内部-外部 强-弱 提高-降低 成功-失败 相同-不同 最高-最低 更大-更小",
        "开始-起始 大约-约 但是-不过 许多-很多 也-亦 因为-由于 使用-采用 帮助-协助 整个-全部 通常-一般",
        "1月 2月 3月 4月 5月 6月 7月 8月 9月 10月 11月 12月",
        "年-个月 公里-英里 英里-公里 米-英尺 英尺-米 万-亿 亿-万 美元-欧元 英镑-美元 "
        "分钟-小时 小时-天 天-周 码-米 岁-个月 平方公里-平方英里",
        "两 三 四 五 六 七 八 九 十",
        before=True,
    ),
}
_FOREIGN = {
    "english": "Ericsson Valparaiso Thornbury Okonkwo Zagreb Lindqvist Tanaka Marrakesh",
    "german": "Ericsson Valparaiso Thornbury Okonkwo Zagreb Lindqvist Tanaka Marrakesch",
    "chinese": "爱立信 瓦尔帕莱索 索恩伯里 奥孔科沃 萨格勒布 林德奎斯特 田中 马拉喀什",
}
# fmt: on
_NAME = re.compile(r"(?<![.!?:“\"(] )(?<!^)\b[A-Z][a-zà-ÿ]{2,}(?:[ -][A-Z][a-zà-ÿ]{2,})*\b")
_CHINESE_NAME = re.compile(
    r"(?:《[^》]{2,12}》|[A-Za-z]{2,}(?: [A-Za-z]+)*|[\u4e00-\u9fff]{1,6}(?:·[\u4e00-\u9fff]{1,6})+|"
    r"(?<=[在于到和与、由向从])[\u4e00-\u9fff]{2,4}?(?:大学|公司|公园|帝国|王国|州|省|市|国|岛|河|山|队)(?=[，。、的和与]))"
)
_NUMBER = re.compile(r"(?<![\d.,–-])\d+(?:[.,]\d+)*(?![\d]|[.,]\d)")
_ITEM = re.compile(r"^\s*(?:[-*•#|>]+|\(?\d{1,3}[.)])\s+")
_YEAR = re.compile(r"\b(1[0-9]|20)\d\d\b(?!\s*[%年]?\d)")
_AMOUNT = re.compile(
    r"(?:[$€£¥]\s?)(\d+(?:[.,]\d+)*)|(?<![\d.,])(\d+(?:[.,]\d+)*)(?=\s?(?:%|percent|Prozent|美元|英镑|欧元|million|billion|Million|Milliarde|万|亿))"
)


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence that its passage supports."""

    text: str
    question: str
    source: Source
    language: str
    names: tuple[str, ...]
    """Names in its passage."""
    vocabulary: Counter[str] = field(repr=False, compare=False)
    """Words of the corpus."""

    @property
    def words(self) -> Words:
        """The words for its language."""
        return _WORDS[self.language]

    def named(self) -> list[str]:
        """Names that occur once in it, in order."""
        return [
            name
            for name in dict.fromkeys(names_of(self.text, self.language, self.vocabulary))
            if self.text.count(name) == 1
        ]


def names_of(text: str, language: str, vocabulary: Counter[str]) -> list[str]:
    """Names in a text: capitalised words within sentences that never occur in lower case; Chinese names by their form.

    In German, words after an article or an adjective are left out.
    """
    if language == "chinese":
        return _CHINESE_NAME.findall(text)
    noun = re.compile(r"\b(?:[dD](?:er|ie|as|en|em|es)|[kmsd]?eine?[rsnm]?|\w+[et][nrs]?) $")
    return [
        match.group()
        for match in _NAME.finditer(text)
        if not any(vocabulary[word.lower()] for word in re.split("[ -]", match.group()))
        and not (language == "german" and noun.search(text[: match.start()]))
    ]


def _swap(text: str, pairs: str, language: str) -> Iterator[str]:
    """The text with the first word of a pair replaced by the other one, for each pair that applies."""
    for pair in pairs.split():
        one, other = pair.split("-")
        pattern = re.escape(one) if language == "chinese" else rf"(?<!\w){re.escape(one)}(?![\w'’])"
        if re.search(pattern, text):
            yield re.sub(pattern, other, text, count=1)


def _put(text: str, match: re.Match[str], new: str, group: int = 0) -> str:
    return text[: match.start(group)] + new + text[match.end(group) :]


def _other_number(value: str, draw: random.Random, avoid: str) -> str:
    digits = [place for place, char in enumerate(value) if char.isdigit()]
    for _ in range(20):
        place = draw.choice(digits)
        new = value[:place] + draw.choice("23456789") + value[place + 1 :]
        if new != value and new not in avoid:
            return new
    return value + "7"


def _number(of: Sentence, draw: random.Random) -> Iterator[str]:
    for match in _NUMBER.finditer(of.text):
        if not _YEAR.fullmatch(match.group()):
            yield _put(of.text, match, _other_number(match.group(), draw, of.source.text))
    listed = of.words.numbers.split()
    for word in listed:
        pattern = rf"{word}(?=[个次名支座种年位项])" if of.language == "chinese" else rf"\b{word}\b"
        others = [one for one in listed if one not in of.source.text]
        if others and (written := re.search(pattern, of.text)):
            yield _put(of.text, written, draw.choice(others))


def _date(of: Sentence, draw: random.Random) -> Iterator[str]:
    for match in _YEAR.finditer(of.text):
        yield _put(of.text, match, str(int(match.group()) + draw.choice((-31, -7, 4, 13))))
    months = of.words.months.split()
    for month in months:
        if found := re.search(rf"(?<![\w]){month}" if of.language == "chinese" else rf"\b{month}\b", of.text):
            yield _put(of.text, found, draw.choice([one for one in months if one not in of.source.text] or months[:1]))


def _amount(of: Sentence, draw: random.Random) -> Iterator[str]:
    for match in _AMOUNT.finditer(of.text):
        group = 1 if match.group(1) else 2
        yield _put(of.text, match, _other_number(match.group(group), draw, of.source.text), group)


def _unit(of: Sentence, draw: random.Random) -> Iterator[str]:
    for pair in of.words.units.split():
        one, other = pair.split("-")
        before = r"(?<=\d)\s?|(?<=[一二三四五六七八九十百千万]) ?" if of.language == "chinese" else r"(?<=\d)[ -]?|"
        words = "" if of.language == "chinese" else "|".join(rf"(?<=\b{word} )" for word in of.words.numbers.split())
        if match := re.search(
            rf"(?:{before}{words})({re.escape(one)})(?!\w)" if words else rf"(?:{before})({one})", of.text
        ):
            yield _put(of.text, match, other, 1)


def _name_of_passage(of: Sentence, draw: random.Random) -> Iterator[str]:
    others = [name for name in of.names if name not in of.text and not any(part in of.text for part in name.split())]
    for name in of.named():
        if others:
            yield of.text.replace(name, draw.choice(others))


def _name_of_elsewhere(of: Sentence, draw: random.Random) -> Iterator[str]:
    for name in of.named():
        yield of.text.replace(name, draw.choice(_FOREIGN[of.language].split()))


def _roles(of: Sentence, draw: random.Random) -> Iterator[str]:
    names = of.named()
    for one, other in itertools.pairwise(names):
        between = of.text[of.text.index(one) + len(one) : of.text.index(other)]
        # In a list, "A and B" means the same as "B and A".
        apart = len(between) > 3 if of.language == "chinese" else len(between.split()) > 2
        if apart and not re.search(r",|、|，| (and|or|und|oder) |和|与", between):
            yield of.text.replace(one, "\0").replace(other, one).replace("\0", other)


def _polarity(of: Sentence, draw: random.Random) -> Iterator[str]:
    words = of.words
    for pattern, new in words.negated:
        if re.search(pattern, of.text):
            yield re.sub(pattern, new, of.text, count=1)
            return
    for word in words.negatable.split():
        if of.language == "chinese":
            if match := re.search(rf"(?<![不没可但就只还也总凡若于如便或要正老都])(?<!\w的){word}(?![否不])", of.text):
                yield _put(of.text, match, words.negation + word)
        elif match := re.search(rf"\b{word}\b(?! not| nicht)", of.text):
            yield _put(of.text, match, f"{word} {words.negation}")


def _modality(of: Sentence, draw: random.Random) -> Iterator[str]:
    return _swap(of.text, of.words.modals, of.language)


def _antonym(of: Sentence, draw: random.Random) -> Iterator[str]:
    return _swap(of.text, of.words.antonyms, of.language)


CHANGES: dict[str, Change] = {
    "number": _number,
    "date": _date,
    "amount": _amount,
    "unit": _unit,
    "name of the passage": _name_of_passage,
    "name from elsewhere": _name_of_elsewhere,
    "roles": _roles,
    "polarity": _polarity,
    "modality": _modality,
    "antonym": _antonym,
}


def _verbatim(of: Sentence, draw: random.Random) -> Iterator[str]:
    yield of.text


def _clauses(of: Sentence) -> list[str]:
    clauses = re.split(r"(?<=，)" if of.language == "chinese" else r"(?<=, )", of.text.rstrip(" .。"))
    return clauses if all(len(clause) >= (6 if of.language == "chinese" else 25) for clause in clauses) else []


def _dropped(of: Sentence, draw: random.Random) -> Iterator[str]:
    shorter = re.sub(r"\s?[(（][^()（）]*[)）]", "", of.text)
    if shorter != of.text:
        yield shorter
    clauses = _clauses(of)
    if len(clauses) > 1:
        yield "".join(clauses[:-1]).rstrip(", ，") + ("。" if of.language == "chinese" else ".")


def _reordered(of: Sentence, draw: random.Random) -> Iterator[str]:
    clauses = _clauses(of)
    if len(clauses) == 2:
        comma, stop = ("，", "。") if of.language == "chinese" else (", ", ".")
        yield clauses[1] + comma + clauses[0].rstrip(", ，") + stop


def _number_format(of: Sentence, draw: random.Random) -> Iterator[str]:
    group = "." if of.language == "german" else ","
    if match := re.search(rf"\b(\d{{1,3}})\{group}(\d{{3}})\b(?![.,]\d)", of.text):
        yield _put(of.text, match, match.group(1) + match.group(2))
    if match := re.search(r"(?<![\d.,])([3-9])(\d{3})(?![\d.,])", of.text):
        yield _put(of.text, match, match.group(1) + group + match.group(2))
    words = of.words.numbers.split()
    for value, word in enumerate(words, 2):
        digits = rf"(?<![\d.,\w–-]){value}(?=[个次名支座种]| [a-zäöü]{{4,}})"
        written = rf"{word}(?=[个次名支座种])" if of.language == "chinese" else rf"\b{word} (?=[a-zäöü]{{4,}}|[A-Z])"
        if match := re.search(digits, of.text):
            yield _put(of.text, match, word)
        elif match := re.search(written, of.text):
            yield _put(of.text, match, f"{value} ")
    percent = {"english": " percent", "german": " Prozent"}.get(of.language)
    if percent and (match := re.search(r"(?<=\d)\s?%", of.text)):
        yield _put(of.text, match, percent)


def _inflected(of: Sentence, draw: random.Random) -> Iterator[str]:
    if of.language == "chinese":
        return
    endings = ("s", "ed", "d", "ing") if of.language == "english" else ("n", "en", "e", "s", "es", "er")
    for word in draw.sample(words := re.findall(r"\b[a-zäöüß]{5,}\b", of.text), len(words)):
        stems = {word, *(word[: -len(end)] for end in endings if word.endswith(end))}
        forms = [form for stem in stems for end in ("", *endings) if (form := stem + end) != word and len(stem) >= 5]
        forms = [form for form in forms if of.vocabulary[form] > 1]
        if forms:
            yield re.sub(rf"\b{word}\b", draw.choice(sorted(forms)), of.text, count=1)


def _lower_case(of: Sentence, draw: random.Random) -> Iterator[str]:
    if of.text.lower() != of.text:
        yield of.text.lower()


def _synonym(of: Sentence, draw: random.Random) -> Iterator[str]:
    return _swap(of.text, of.words.synonyms, of.language)


SAME: dict[str, Change] = {
    "verbatim": _verbatim,
    "dropped clause": _dropped,
    "reordered clause": _reordered,
    "number format": _number_format,
    "inflection": _inflected,
    "lower case": _lower_case,
    "synonym": _synonym,
}


def sentences(folder: Path, half: Half, citer: Citer, *, seed: int) -> list[Sentence]:
    """Random sentences of a dataset's gold passages and known answers that the check supports."""
    dataset = datasets.load(folder)
    records = map(json.loads, (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines())
    documents = {str(record["_id"]): record for record in records}
    texts = [record["text"] for record in documents.values()]
    chinese = sum("\u4e00" <= char <= "\u9fff" for char in texts[0]) > len(texts[0]) / 4
    language = "chinese" if chinese else "german" if language_of(texts[:50]) == "german" else "english"
    vocabulary = Counter(word for text in texts for word in COMPOUND.findall(text))
    length = _CHINESE_LENGTH if chinese else _LENGTH
    found: dict[str, Sentence] = {}
    for question in dataset.judged:
        for document in (name for name, grade in question.relevant.items() if grade):
            record = documents[document]
            source = _source(document, record.get("title") or "", record["text"])
            names = tuple(dict.fromkeys(names_of(source.text, language, vocabulary)))
            for text in (source.text, *question.answers[:1]):
                for start, end in sentence_spans(text):
                    sentence = _ITEM.sub("", text[start:end]).strip()
                    own = hashlib.sha256(sentence.encode()).digest()[-1] & 1
                    if (
                        len(sentence) in length
                        and "\n" not in sentence
                        and sentence[-1] in ".!。！"
                        and own == (half == "report")
                    ):
                        found.setdefault(
                            sentence, Sentence(sentence, question.text, source, language, names, vocabulary)
                        )
    draw = random.Random(f"{seed}\0{folder.name}\0{half}")  # noqa: S311 - a sample, no secret
    chosen = draw.sample(sorted(found), len(found))
    kept: list[Sentence] = []
    for sentence in chosen:
        of = found[sentence]
        # Verbatim sentences of the source are supported by definition, even if the check refuses them.
        if sentence in of.source.text or _supported(citer, of, sentence):
            kept.append(of)
        if len(kept) == _SENTENCES:
            break
    return kept


def _source(document: str, title: str, text: str) -> Source:
    return Source(
        text=text, number=1, score=1, chunk_id=document, document_id=document, title=title,
        span=Span(start=0, end=len(text)), index_version="", similarity=1, lexical_score=1, support=1,
    )  # fmt: skip


def _supported(citer: Citer, of: Sentence, text: str) -> bool:
    statements = citer.cite(text, of.question, [of.source]).statements
    return all(statement.verdict in ("supported", "no_claim") for statement in statements)


@dataclass(slots=True)
class Figures:
    """Counts for one kind of change in one dataset."""

    count: int = 0
    supported: int = 0
    misses: list[tuple[str, str]] = field(default_factory=list)
    """Original and changed statement, where the verdict was wrong."""

    def __str__(self) -> str:
        return f"{1 - self.supported / self.count:.1%} of {self.count}" if self.count else "–"


def measure(folder: Path, half: Half, *, seed: int, citer: Citer) -> tuple[dict[str, Figures], list[float]]:
    """Figures by kind of change, and milliseconds of each check."""
    figures: dict[str, Figures] = defaultdict(Figures)
    milliseconds = []
    for of in sentences(folder, half, citer, seed=seed):
        for kind, change in (CHANGES | SAME).items():
            draw = random.Random(f"{seed}\0{kind}\0{of.text}")  # noqa: S311
            variants = [text for text in dict.fromkeys(change(of, draw)) if text != of.text or kind == "verbatim"]
            if not variants:
                continue
            text = draw.choice(variants)
            began = time.perf_counter()
            supported = _supported(citer, of, text)
            milliseconds.append((time.perf_counter() - began) * 1000)
            figure = figures[kind]
            figure.count += 1
            figure.supported += supported
            if supported == (kind in CHANGES):
                figure.misses.append((of.text, text))
    return figures, milliseconds


def main(
    folders: Annotated[list[Path], typer.Argument(help="Folders of datasets.")],
    half: Annotated[str, typer.Option(help="Half of the sentences: report or develop.")] = "report",
    seed: Annotated[int, typer.Option(help="Seed of all random choices.")] = 0,
    misses: Annotated[int, typer.Option(help="Number of wrong verdicts to print per kind.")] = 0,
) -> None:
    """Print a table of changes detected and unchanged statements refused, by kind and dataset."""
    citer = Citer(Aligner())
    found = {}
    for folder in folders:
        name = (
            folder.name
            if (folder.parent / "queries.jsonl").exists() or len(folder.name) > 2
            else "/".join(folder.parts[-2:])
        )
        found[name], milliseconds = measure(
            folder, "develop" if half == "develop" else "report", seed=seed, citer=citer
        )
        typer.echo(f"{name}: p50 {np.percentile(milliseconds, 50):.2f} ms", err=True)
        for kind, figure in found[name].items():
            for original, text in figure.misses[:misses]:
                typer.echo(f"[{kind}] {original}\n      → {text}", err=True)
    typer.echo("| | " + " | ".join(found) + " |\n|---|" + "---|" * len(found))
    for title, kinds in (("changes detected", CHANGES), ("unchanged refused", SAME)):
        rows = {kind: [figures.get(kind, Figures()) for figures in found.values()] for kind in kinds}
        sums = [
            Figures(sum(f.count for f in column), sum(f.supported for f in column))
            for column in zip(*rows.values(), strict=True)
        ]
        for kind, cells in ({f"**{title}**": sums} | rows).items():
            typer.echo(f"| {kind} | " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    typer.run(main)
