"""English word lists and rules that show what a question asks for. Other languages have none yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from text_analysis.word_lists import word_set

AnswerKind = Literal["person", "place", "time", "amount", "other"]

# fmt: off
FUNCTION_WORDS = word_set(
    "a an the of in on at to for from by with as and or but if than then that this these those it its is are was were "
    "be been being do does did done have has had having can could will would shall should may might must i you he she "
    "they we me him her them us my your his their our who whom whose what which when where why how there here into "
    "about over such also so some any other another please tell give explain describe list s t"
)
NEGATIONS = word_set(
    "not no never without none nor cannot neither except unable fail fails failed lack lacks lacked dont doesnt didnt "
    "isnt wasnt werent cant couldnt wont wouldnt shouldnt arent hasnt havent hadnt"
)
_OPPOSITES = (
    "more-less most-least before-after increase-decrease increased-decreased increasing-decreasing high-low "
    "higher-lower highest-lowest first-last large-small larger-smaller largest-smallest big-small bigger-smaller "
    "biggest-smallest early-late earlier-later earliest-latest north-south northern-southern east-west "
    "eastern-western positive-negative internal-external inside-outside minimum-maximum best-worst better-worse "
    "win-lose won-lost rise-fall rose-fell begin-end began-ended beginning-end start-end started-ended start-stop "
    "open-close opened-closed buy-sell bought-sold accept-reject accepted-rejected agree-disagree support-oppose "
    "supported-opposed public-private rich-poor strong-weak stronger-weaker old-new older-newer oldest-newest "
    "young-old younger-older male-female men-women man-woman light-dark hot-cold fast-slow faster-slower many-few "
    "majority-minority always-never import-export allow-prohibit allowed-prohibited allow-forbid include-exclude "
    "included-excluded common-rare add-remove added-removed upper-lower left-right above-below modern-ancient "
    "domestic-foreign good-bad easy-difficult easy-hard simple-complex ally-enemy friend-enemy victory-defeat "
    "success-failure succeed-fail gain-loss expand-shrink create-destroy created-destroyed build-destroy even-odd "
    "constant-variable same-different similar-different outer-inner wet-dry life-death birth-death born-died "
    "arrive-leave rural-urban attack-defend offensive-defensive raise-lower raised-lowered cause-prevent "
    "caused-prevented longest-shortest longer-shorter long-short broad-narrow wide-narrow rejected-approved "
    "approve-reject denied-granted entry-exit input-output upload-download horizontal-vertical enable-disable "
    "enabled-disabled encourage-discourage encouraged-discouraged"
)
NEGATING_PREFIXES = ("un", "in", "im", "il", "ir", "dis", "non", "mis")
AMOUNT_WORDS = word_set(
    "one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty hundred thousand million "
    "billion trillion dozen half third quarter twice once several"
)
TIME_WORDS = word_set(
    "january february march april may june july august september october november december monday tuesday wednesday "
    "thursday friday saturday sunday century centuries decade decades year years day days month months week weeks "
    "spring summer autumn winter today tomorrow ago bc ad hours minutes"
)
_ASK_TIME = word_set("year years date century decade month day time period era")
_ASK_AMOUNT = word_set("percentage percent number amount rate size temperature age population proportion")
_MEASURED = word_set("many much long large big old far often tall high fast deep wide few")
# fmt: on


def _opposites() -> dict[str, frozenset[str]]:
    opposites: dict[str, set[str]] = {}
    for pair in _OPPOSITES.split():
        one, other = pair.split("-")
        opposites.setdefault(one, set()).add(other)
        opposites.setdefault(other, set()).add(one)
    return {word: frozenset(others) for word, others in opposites.items()}


OPPOSITES = _opposites()
"""Word → its opposites."""


def singular(word: str) -> str:
    """The word without a final `s`, unless it ends in `ss` or has at most three letters."""
    return word[:-1] if len(word) > 3 and word[-1] == "s" and word[-2] != "s" else word


def answer_kind(words: Sequence[str]) -> AnswerKind:
    """The kind of answer that a question asks for, by its first question word; `other` if it is unclear.

    Args:
        words: words of the question, in lower case.
    """
    for place, word in enumerate(words):
        after = words[place + 1 : place + 4]
        if word in ("who", "whom", "whose"):
            return "person"
        if word == "when":
            return "time"
        if word == "where":
            return "place"
        if word == "how" and after and after[0] in _MEASURED:
            return "amount"
        if word in ("what", "which"):
            for noun in after:
                if noun in _ASK_TIME:
                    return "time"
                if noun in _ASK_AMOUNT:
                    return "amount"
                if noun in FUNCTION_WORDS:
                    break
            return "other"
    return "other"
