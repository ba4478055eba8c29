"""The loop detector: it stops every loop soon, and no text that people wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from transformer.loops import LoopDetector

ROOT = Path(__file__).parents[2]
REMOVAL = "The removal is not the same. "
VERSIONS = "Versions are immutable. They are built once. "
LOOPS = {
    "a sentence": ("To delete a document, use the API. " + REMOVAL, REMOVAL, 19),
    "two sentences": (VERSIONS, VERSIONS, 6),
    "a phrase": ("The document is deleted from ", "the index and the index is deleted from ", 20),
    "a word": ("The answer is", " a", 200),
    "a letter": ("Yes a", "a", 400),
    "Chinese": ("您可以删除文档。删除不一样。", "删除不一样。", 20),
    "Chinese without stops": ("我们可以删除文档哈", "哈", 60),
    "Thai": ("เอกสารถูกลบแล้วจากดัชนี", "เอกสารถูกลบแล้วจากดัชนี", 10),
    "lines of code": ("```\nkserve-rag ingest docs\n", "kserve-rag ingest docs\n", 20),
    "exclamation marks": ("Great!", "!", 300),
    "line breaks": ("Done.\n", "\n", 600),
}


def tokens(text: str) -> list[str]:
    """About the tokens of an LLM: words with the space before them, at most six letters of each; other characters."""
    return re.findall(r" ?[A-Za-z]{1,6}| ?[^\sA-Za-z]|\s", text)


def followed(text: str) -> tuple[int | None, str]:
    """Number of tokens at which the text is stopped, and the part of it that was safe to show."""
    detector, safe, given = LoopDetector(), 0, ""
    for number, token in enumerate(tokens(text), 1):
        given += token
        if detector.feed(token):
            return number, given[:safe]
        safe = max(safe, detector.safe)
    return None, given[:safe]


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_stopped_within_24_tokens_of_its_second_repetition(name: str) -> None:
    beginning, repeated, times = LOOPS[name]
    stopped, _ = followed(beginning + repeated * times)
    assert stopped is not None
    layout = 200 if not repeated.strip() else 0  # empty lines may be layout
    assert stopped <= len(tokens(beginning + 2 * repeated)) + 24 + layout


@pytest.mark.parametrize("name", ["a sentence", "two sentences", "Chinese", "lines of code"])
def test_the_repetition_of_sentences_and_lines_is_never_shown(name: str) -> None:
    beginning, repeated, times = LOOPS[name]
    _, shown = followed(beginning + repeated * times)
    assert shown.count(repeated.strip()) == 1


@pytest.mark.parametrize("separator", ["\n", " "])
def test_numbers_do_not_hide_a_loop(separator: str) -> None:
    items = [f"{n}. Delete the document from the index." for n in range(1, 20)]
    stopped, shown = followed(separator.join(items))
    assert stopped is not None
    assert stopped <= len(tokens(separator.join(items[:3]))) + 24
    assert shown.strip() == items[0]


def test_a_sentence_that_keeps_returning_is_a_loop() -> None:
    things = ("pump", "valve", "hose", "tank", "lid")
    text = "".join(f"The warranty lasts for exactly three years. It covers the {thing}. " for thing in things)
    stopped, _ = followed(text)
    assert stopped is not None


def test_what_looks_like_a_repetition_is_shown_once_it_goes_on_differently() -> None:
    text = "The pump is covered. The pump is covered by the warranty for three years."
    detector = LoopDetector()
    detector.feed("The pump is covered. The pump is cov")
    assert detector.safe == len("The pump is covered. ")
    detector.feed("ered by the warranty for three years.")
    assert (detector.looping, detector.safe) == (False, len(text))


TABLE = "| part | covered | tested |\n|------|---------|--------|\n" + "".join(
    f"| {part} | yes | yes |\n" for part in ("pump", "valve", "hose", "tank", "lid", "frame", "seal", "cable")
)
LISTS = "The ports:\n\n" + "".join(f"- port {n}: the default is used\n" for n in range(8080, 8092))
NUMBERS = "[0, 0, 0, 0, 0, 0, 0, 0]\n" + "\n".join(f"{year}: {year % 7} of 7" for year in range(1990, 2020))
VERY = "It is very, very, very hot. No, no, no! Ha ha ha ha."


@pytest.mark.parametrize("text", [TABLE, LISTS, NUMBERS, VERY])
def test_tables_and_lists_with_repeated_words_are_no_loops(text: str) -> None:
    assert followed(text)[0] is None


def _pages() -> Iterator[Path]:
    yield from sorted(ROOT.glob("docs/**/*.md"))
    yield from sorted(ROOT.glob("*/README.md"))


def test_no_page_of_the_documentation_is_a_loop() -> None:
    """As transformer/README.md says: the same holds for all passages of the datasets that evaluation/ uses."""
    sections = [part for page in _pages() for part in re.split(r"(?m)^#+ ", page.read_text(encoding="utf-8"))]
    assert len(sections) > 300
    assert [section[:60] for section in sections if LoopDetector().feed(section)] == []
