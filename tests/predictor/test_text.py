"""Text out of tokens, one by one, with the real tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from predictor.engines.text import TextAssembler
from predictor.tokenizer import TextTokenizer

PROPERTY = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def tokenizer(llm_folder: Path) -> TextTokenizer:
    return TextTokenizer.load(llm_folder)


def grow(tokenizer: TextTokenizer, text: str, stop: list[str]) -> tuple[TextAssembler, list[str]]:
    assembler = TextAssembler(tokenizer.decode, stop)
    shown = []
    for token in tokenizer.encode(text):
        assembler.push([token])
        shown.append(assembler.visible)
    assembler.finish()
    return assembler, [*shown, assembler.visible]


@PROPERTY
@given(text=st.text(st.characters(exclude_categories=("Cs", "Cn", "Co"), exclude_characters="\ufffd"), max_size=60))
def test_texts_grow_by_whole_characters(tokenizer: TextTokenizer, text: str) -> None:
    assume(tokenizer.decode(tokenizer.encode(text)) == text)  # this vocabulary lacks some control characters
    assembler, shown = grow(tokenizer, text, [])
    assert assembler.visible == text
    for earlier, later in zip(["", *shown], shown, strict=False):
        assert later.startswith(earlier)
        assert "\ufffd" not in later


@PROPERTY
@given(
    text=st.text("ab🙂 \n", max_size=40),
    stop=st.lists(st.text("ab🙂 \n", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_the_first_complete_stop_string_ends_the_text(tokenizer: TextTokenizer, text: str, stop: list[str]) -> None:
    assembler, shown = grow(tokenizer, text, stop)
    found = [(at + len(each), -len(each)) for each in stop if (at := text.find(each)) >= 0]
    assert (assembler.stopped_by is not None) == bool(found)
    expected = text[: sum(min(found))] if found else text
    assert assembler.visible == expected
    assert all(expected.startswith(each) for each in shown)


def test_an_incomplete_last_character_is_dropped(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode("ok 🦉")
    assembler = TextAssembler(tokenizer.decode)
    assembler.push(ids[:-1])
    assembler.finish()
    assert assembler.visible.strip() == "ok"


def test_control_tokens_are_not_text(tokenizer: TextTokenizer) -> None:
    assembler, _ = grow(tokenizer, "yes<|im_end|> and", [])
    assert assembler.visible == "yes and"
