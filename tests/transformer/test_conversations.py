"""Prompts of conversations that only grow, and the `turns` that continue them."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chassis.context import CallContext
from chassis.errors import InvalidRequestError
from predictor.client import EstimatedPromptFormat, PromptFormat
from predictor.tokenizer import TextTokenizer
from predictor.wire import Message as LlmMessage
from tests.fakes import passages as fakes
from transformer.conversations import Conversations, Turn, shown, with_texts
from transformer.prompt import PromptBuilder
from transformer.question import Question
from transformer.templates import PromptTemplate
from transformer.wire import MAX_TURNS_CHARS, GroundingParameters, Message, SamplingParameters
from vectorstore.wire import Passage

TEMPLATES = {
    "llama2": (
        "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{% set system = '<<SYS>>\n' + "
        "messages[0].content + '\n<</SYS>>\n\n' %}{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}"
        "{% for m in rest %}{% if m.role == 'user' %}{{ '<s>[INST] ' + (system if loop.first else '') + "
        "m.content.strip() + ' [/INST]' }}{% else %}{{ ' ' + m.content.strip() + ' </s>' }}{% endif %}{% endfor %}"
    ),
    "llama3": (
        "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + "
        "'<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "gemma": (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{% for m in messages %}"
        "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + "
        "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
}
"""Chat templates as the models' authors publish them, without tools."""

ANONYMOUS = CallContext.start(60, {})
ALICE = CallContext.start(60, {"authorization": "Bearer alice"})
BOB = CallContext.start(60, {"authorization": "Bearer bob"})


Served = tuple[PromptFormat | EstimatedPromptFormat, Callable[[Sequence[LlmMessage]], Sequence[object]]]
"""A prompt format, and what its server reads of messages: tokens, text, or the messages themselves."""


@pytest.fixture(params=["smollm2", *TEMPLATES, "estimate"])
def served(request: pytest.FixtureRequest, prompt_format: PromptFormat, llm_tokenizer: TextTokenizer) -> Served:
    if request.param == "estimate":
        return EstimatedPromptFormat(), list
    if request.param == "smollm2":
        return prompt_format, lambda messages: llm_tokenizer.encode(prompt_format.render(messages))
    other = PromptFormat(llm_tokenizer, TEMPLATES[request.param])
    return other, other.render


def passage(number: int) -> Passage:
    return fakes.passage(
        f"fact{number} " * 8, start=number, chunk_id=f"c{number}", document_id=f"d{number % 3}", title=f"T{number}"
    )


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=30) | st.sampled_from(
    ["<|im_end|>", " Yes.\n", '"""', "\nQuestion:", "[/INST]"]
)
QUESTIONS = st.lists(
    st.tuples(TEXTS, TEXTS, st.lists(st.integers(0, 5), max_size=3, unique=True), st.booleans()), min_size=2, max_size=5
)


def builder_of(served_format: PromptFormat | EstimatedPromptFormat, *, window: int) -> PromptBuilder:
    """Half of the window is for the question's passages, half for earlier turns."""
    return PromptBuilder(
        served_format,
        window=window,
        max_prompt_tokens=window // 2,
        max_history_tokens=window // 2,
        template=PromptTemplate(system="You answer.", instruction="Be brief."),
        plain_system_prompt="You help.",
    )


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(QUESTIONS)
def test_each_prompt_begins_with_the_one_before(
    served: Served,
    questions: Sequence[tuple[str, str, list[int], bool]],
) -> None:
    served_format, read = served
    builder = builder_of(served_format, window=100_000)
    turns: list[Turn] = []
    before: dict[bool, Sequence[object]] = {}
    """By whether the question has documents: one without has no passages of earlier turns either."""
    for question, answer, found, retrieved in questions:
        passages = [passage(n) for n in found] if retrieved else []
        given = turns if passages else with_texts(turns, defaultdict(str))
        prompt = builder.build(question, passages=passages, turns=given, max_tokens=10)
        now = read(prompt.messages)
        if earlier := before.get(bool(passages)):
            assert now[: len(earlier)] == earlier
        before[bool(passages)] = now
        shown_now = tuple(shown(source, source.number) for source in prompt.sources)
        turns = [*turns, Turn(question, answer, "documents" if shown_now else "plain", shown_now)]
    assert len(turns) == len(questions)
    numbers = {one.key: one.number for turn in turns for one in turn.passages}
    assert len(set(numbers.values())) == len(numbers), "a number means one passage in all of a conversation"


def test_a_passage_is_shown_once(prompt_format: PromptFormat) -> None:
    builder = builder_of(prompt_format, window=4000)
    turn = Turn("Why?", "So.", "documents", (shown(passage(1), 1), shown(passage(2), 2)))
    prompt = builder.build("How?", passages=[passage(0), passage(2)], turns=[turn], max_tokens=10)
    assert [(source.number, source.chunk_id) for source in prompt.sources] == [(2, "c2"), (3, "c0")]
    assert (
        prompt.messages[-1]["content"]
        == f'[2] T2 (see above)\n[3] T0\n"""\n{passage(0).text}\n"""\n\nBe brief.\nQuestion: How?'
    )
    gone = replace(turn, passages=tuple(replace(one, text="") for one in turn.passages))
    prompt = builder.build("How?", passages=[passage(2)], turns=[gone], max_tokens=10)
    assert prompt.messages[1]["content"] == "Why?"
    assert [(source.number, source.chunk_id) for source in prompt.sources] == [(2, "c2")]
    assert passage(2).text in prompt.messages[-1]["content"]
    assert prompt.replayed is not None
    assert prompt.replayed.incomplete == 1


def conversations(secret: bytes = b"secret", *, limit: int = 10, ttl_s: float = 60) -> Conversations:
    return Conversations(secret, limit=limit, ttl_s=ttl_s)


def question(text: str, *history: str, turns: str | None = None) -> Question:
    roles = ("user", "assistant") * len(history)
    return Question(
        text,
        SamplingParameters(),
        GroundingParameters(turns=turns),
        tuple(Message(role=role, content=content) for role, content in zip(roles, history, strict=False)),  # type: ignore[arg-type]
    )


FIRST = Turn("Why?", "So [1].", "documents", (shown(passage(1), 1),))
READ = replace(FIRST, passages=(replace(FIRST.passages[0], text=""),))
"""`FIRST` before its passage is read again."""


def remembered(kept: Conversations, ctx: CallContext = ANONYMOUS) -> str:
    field = kept.remember(question("Why?"), [FIRST], ctx)
    assert field is not None
    return field


def test_turns_return_with_the_next_question() -> None:
    kept = conversations()
    field = remembered(kept)
    assert kept.recall(question("How?", turns=field), ANONYMOUS) == [READ]
    assert conversations().recall(question("How?", "Why?", "So.", turns=field), ALICE) == [READ], "another replica"
    assert kept.recall(question("How?", "Hello", "Hi", "Why?", "So [2].", turns=field), ANONYMOUS) == [READ]
    document = " " + passage(1).text
    (turn,) = with_texts([READ], {("", "v", "d1"): document})
    assert turn == FIRST
    assert turn.complete
    (gone,) = with_texts([READ], {("", "v", "d1"): ""})
    assert not gone.complete


def changed(field: str) -> str:
    return field[:-8] + ("A" if field[-8] != "A" else "B") + field[-7:]


@pytest.mark.parametrize(
    "forge",
    [
        changed,
        lambda field: changed(field[::-1])[::-1],
        lambda field: field[:40],
        lambda _: "x",
        lambda _: "Käse",
        lambda _: remembered(conversations(b"another secret")),
    ],
    ids=["content", "signature", "cut", "short", "not base64", "foreign"],
)
def test_turns_that_were_not_issued_here_are_refused(forge: Callable[[str], str]) -> None:
    with pytest.raises(InvalidRequestError, match="turns: was not issued by this service") as caught:
        conversations().recall(question("How?", turns=forge(remembered(conversations()))), ANONYMOUS)
    assert caught.value.field == "turns"


def test_turns_of_other_messages_are_refused() -> None:
    field = remembered(conversations())
    with pytest.raises(InvalidRequestError, match="belongs to other messages"):
        conversations().recall(question("How?", "Why not?", "So [1].", turns=field), ANONYMOUS)


def test_messages_alone_find_their_turns() -> None:
    kept = conversations()
    remembered(kept)
    follow_up = question("How?", "Why?", "So.")  # OpenAI's clients may have the text before its numbers were corrected
    assert kept.recall(follow_up, ANONYMOUS) == [READ]
    kept.remember(follow_up, [FIRST, Turn("How?", "Thus.", "plain")], ANONYMOUS)
    third = question("When?", "Why?", "So.", "How?", "Thus.")
    assert [turn.kind for turn in kept.recall(third, ANONYMOUS)] == ["documents", "plain"]
    other = question("How?", "Why?", "Because.")
    assert kept.recall(other, ANONYMOUS) == [Turn("Why?", "Because.")]


def test_callers_with_equal_messages_do_not_meet() -> None:
    kept = conversations()
    remembered(kept, ALICE)
    follow_up = question("How?", "Why?", "So [1].")
    assert kept.recall(follow_up, ALICE) == [READ]
    for other in (BOB, ANONYMOUS):
        assert kept.recall(follow_up, other) == [Turn("Why?", "So [1].")]


def test_kept_conversations_are_bounded_in_number() -> None:
    kept = conversations(limit=3)
    for n in range(9):
        kept.remember(question(f"Q{n}"), [Turn(f"Q{n}", "A", "plain")], ANONYMOUS)
        assert kept.recall(question("How?", "Q0", "A"), ANONYMOUS)[0].kind == "plain", "one that is used stays"
    assert len(kept) == 3
    assert kept.recall(question("How?", "Q5", "A"), ANONYMOUS)[0].kind == "unknown"
    nothing = conversations(limit=0)
    remembered(nothing)
    assert len(nothing) == 0


def test_kept_conversations_are_bounded_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    kept = conversations(ttl_s=60)
    remembered(kept)
    now += 59
    assert kept.recall(question("How?", "Why?", "So."), ANONYMOUS) == [READ]
    now += 59
    assert kept.recall(question("How?", "Why?", "So."), ANONYMOUS) == [READ]
    now += 60
    assert kept.recall(question("How?", "Why?", "So."), ANONYMOUS) == [Turn("Why?", "So.")]
    assert len(kept) == 0


def test_turns_are_bounded_in_size() -> None:
    kept = conversations()
    random = [json.dumps([hash((n, m)) for m in range(2000)]) for n in range(6)]
    turns = [Turn(text, "A", "plain") for text in random]
    field = kept.remember(question(random[-1]), turns, ANONYMOUS)
    assert field is not None
    assert len(field) <= MAX_TURNS_CHARS
    recalled = kept.recall(question("How?", turns=field), ANONYMOUS)
    assert 0 < len(recalled) < 6
    assert recalled == turns[-len(recalled) :]
    assert kept.remember(question("Q"), [Turn(" ".join(random), "A", "plain")], ANONYMOUS) is None
    many = tuple(shown(passage(n), n) for n in range(150))
    field = kept.remember(question("Q"), [Turn("Q", "A", "documents", many)] * 2, ANONYMOUS)
    assert field is not None
    assert len(kept.recall(question("How?", turns=field), ANONYMOUS)) == 1


def test_messages_that_do_not_alternate_are_kept_in_order() -> None:
    said = [("assistant", "Hi"), ("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d")]
    history = tuple(Message(role=role, content=content) for role, content in said)  # type: ignore[arg-type]
    asked = Question("How?", SamplingParameters(), GroundingParameters(), history)
    turns = conversations().recall(asked, ANONYMOUS)
    assert [(one.role, one.content) for turn in turns for one in turn.messages()] == said
