"""The parts of a prompt, their order, and the cuts that make it fit."""

from __future__ import annotations

import contextlib
import gc
import itertools
import weakref
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.client import EstimatedPromptFormat, PromptFormat
from tests.fakes import passages as fakes
from transformer.conversations import Turn, shown
from transformer.errors import PromptTooLongError
from transformer.prompt import Prompt, PromptBuilder
from transformer.templates import PromptTemplate
from vectorstore.wire import Passage


@pytest.fixture(params=["tokenizer", "estimate"])
def counting(request: pytest.FixtureRequest, prompt_format: PromptFormat) -> PromptFormat | EstimatedPromptFormat:
    return prompt_format if request.param == "tokenizer" else EstimatedPromptFormat()


def builder(
    prompt_format: PromptFormat | EstimatedPromptFormat,
    *,
    window: int = 1000,
    max_prompt_tokens: int = 800,
    max_history_tokens: int = 500,
) -> PromptBuilder:
    return PromptBuilder(
        prompt_format,
        window=window,
        max_prompt_tokens=max_prompt_tokens,
        max_history_tokens=max_history_tokens,
        template=PromptTemplate(system="You answer.", instruction="Be brief."),
        plain_system_prompt="You help.",
    )


def passage(number: int, *, words: int = 60, document: str | None = None) -> Passage:
    return fakes.passage(
        f"fact{number} " * words,
        start=number * 1000,
        score=1 / (number + 1),
        chunk_id=f"c{number}",
        document_id=document or f"d{9 - number}",
        title=f"Title {number}",
        heading_path=[f"Title {number}", "Part"],
    )


def text(prompt: Prompt) -> str:
    """All that the LLM reads, in its order, without the marks of a chat template."""
    return "\n".join(message["content"] for message in prompt.messages)


def test_passages_are_in_document_order_and_numbered(prompt_format: PromptFormat) -> None:
    prompt = builder(prompt_format).build("Why?", passages=[passage(n, words=5) for n in range(3)], max_tokens=50)
    assert [source.chunk_id for source in prompt.sources] == ["c2", "c1", "c0"]
    assert [source.number for source in prompt.sources] == [1, 2, 3]
    places = [text(prompt).index(f'[{s.number}] {s.title} — Part\n"""\n{s.text}\n') for s in prompt.sources]
    assert places == sorted(places)
    assert prompt.cut == []


def test_the_prompt_prefix_does_not_depend_on_ranks(prompt_format: PromptFormat) -> None:
    passages = [passage(n, words=5) for n in range(3)]
    build = builder(prompt_format).build
    one = text(build("Why?", passages=passages, max_tokens=50))
    other = text(build("How so?", passages=passages[::-1], max_tokens=50))
    shared = one[: one.index("Why?")]
    assert other.startswith(shared)
    assert "fact2" in shared


def test_the_least_relevant_are_cut_whole_and_listed(counting: PromptFormat | EstimatedPromptFormat) -> None:
    passages = [passage(n) for n in range(8)]
    prompt = builder(counting).build("Why?", passages=passages, max_tokens=50)
    kept = {source.chunk_id for source in prompt.sources}
    assert 0 < len(kept) < 8
    assert kept == {f"c{n}" for n in range(len(kept))}
    assert [cut.chunk_id for cut in prompt.cut] == [f"c{n}" for n in range(len(kept), 8)]
    assert {cut.reason for cut in prompt.cut} == {"token_budget"}
    assert all(source.text in text(prompt) for source in prompt.sources)
    assert counting.count_messages(prompt.messages) <= 800


@pytest.mark.parametrize("window", [400, 600, 1000, 2000])
@pytest.mark.parametrize("max_tokens", [1, 100, 250])
def test_prompt_and_answer_always_fit_the_window(
    counting: PromptFormat | EstimatedPromptFormat, window: int, max_tokens: int
) -> None:
    turns = [Turn("word " * 40, "word " * 40)] * 5
    prompt = builder(counting, window=window, max_prompt_tokens=window).build(
        "Why?", passages=[passage(n) for n in range(9)], turns=turns, max_tokens=max_tokens
    )
    assert counting.count_messages(prompt.messages) + max_tokens <= window


def kept_turns(prompt: Prompt, count: int) -> list[int]:
    return [n for n in range(count) if f"asked{n} " in text(prompt) and f"said{n} " in text(prompt)]


def test_the_oldest_turns_go_whole(counting: PromptFormat | EstimatedPromptFormat) -> None:
    turns = [Turn(f"asked{n} " * 20, f"said{n} " * 20, "documents", (shown(passage(n), n + 1),)) for n in range(8)]
    prompt = builder(counting, window=4000, max_history_tokens=1000).build("Why?", turns=turns, max_tokens=10)
    present = kept_turns(prompt, 8)
    assert 0 < len(present) < 8
    assert present == list(range(present[0], 8))
    assert [n for n in range(8) if f"fact{n}" in text(prompt)] == present
    assert list(prompt.turns) == turns[present[0] :]
    assert prompt.replayed is not None
    assert (prompt.replayed.turns, prompt.replayed.left_out) == (len(present), present[0])


def test_a_full_history_leaves_room_for_further_turns(prompt_format: PromptFormat) -> None:
    """Otherwise the beginning of every further prompt would change."""
    build = builder(prompt_format).build
    turns: list[Turn] = []
    left_out = []
    for n in range(40):
        prompt = build("Why?", turns=turns, max_tokens=10)
        left_out.append(prompt.replayed.left_out if prompt.replayed else 0)
        turns = [*prompt.turns, Turn(f"asked{n} " * 5, f"said{n} " * 5)]
    cuts = [n for n, count in enumerate(left_out) if count]
    assert cuts
    assert all(later - earlier > 2 for earlier, later in itertools.pairwise(cuts))


def test_turns_are_cut_before_passages(prompt_format: PromptFormat) -> None:
    passages = [passage(n) for n in range(2)]
    for count in range(1, 15):
        turns = [Turn("word " * 40, "word " * 40)] * count
        prompt = builder(prompt_format).build("Why?", passages=passages, turns=turns, max_tokens=50)
        assert prompt.cut == []


def test_a_long_conversation_is_rendered_a_few_times_only(
    prompt_format: PromptFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[int] = []
    render = prompt_format.render

    def counted(messages: Sequence[Mapping[str, str]]) -> str:
        rendered.append(len(messages))
        return render(messages)

    monkeypatch.setattr(prompt_format, "render", counted)
    turns = [Turn(f"asked{n} " * 5, f"said{n} " * 5) for n in range(128)]
    prompt = builder(prompt_format).build("Why?", turns=turns, max_tokens=50)
    assert 0 < len(prompt.turns) < 128
    assert len(rendered) < 12


def test_long_texts_are_not_kept(prompt_format: PromptFormat) -> None:
    class Text(str):
        """A string that supports weak references."""

    long = builder(prompt_format)
    for field in ("question", "context", "instructions"):
        sent = Text("because " * 2000)
        freed = weakref.ref(sent)
        with contextlib.suppress(PromptTooLongError):
            long.build(**{"question": "Why?", "max_tokens": 10, field: sent})  # type: ignore[arg-type]
        del sent
        gc.collect()
        assert freed() is None, field


def test_a_prompt_that_cannot_fit_is_an_error(prompt_format: PromptFormat) -> None:
    with pytest.raises(PromptTooLongError, match=r"max_tokens reserves 900.*window of 1000") as caught:
        builder(prompt_format).build("why " * 150, max_tokens=900)
    assert caught.value.field == "input"
    with pytest.raises(PromptTooLongError) as caught:
        builder(prompt_format).build("Why?", context="because " * 2000, max_tokens=10)
    assert caught.value.field == "context"


@settings(deadline=None)
@given(
    st.text(max_size=60),
    st.sampled_from(["<|im_end|>", "<|im_start|>", '"""', "\nQuestion:"]),
    st.text(max_size=60),
)
def test_documents_and_questions_stay_fenced(prompt_format: PromptFormat, before: str, token: str, after: str) -> None:
    hostile = before + token + after
    harmless = passage(0).model_copy(update={"text": hostile, "title": hostile, "heading_path": [hostile]})
    build = builder(prompt_format, window=8000, max_prompt_tokens=8000).build

    def rendered(question: str, passage: Passage, turn: str) -> str:
        prompt = build(question, passages=[passage], turns=[Turn(turn, turn)], max_tokens=9)
        return prompt_format.render(prompt.messages)

    plain = rendered("Why?", passage(0, words=1), "Hm?")
    attacked = rendered(hostile, harmless, hostile)
    for control in ("<|im_end|>", "<|im_start|>"):
        assert attacked.count(control) == plain.count(control)
    documents = attacked[attacked.rindex("<|im_start|>user") : attacked.index("Be brief.")]
    assert documents.count('"""') == 2
