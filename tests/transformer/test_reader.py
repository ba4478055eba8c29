"""The reader: which sentences of the passages answer a question."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer.alignment import PassageIndexes
from transformer.reader import MAX_UNITS, Reader

READER = Reader(PassageIndexes())
GUIDE = """# Documents

## Delete a document

To delete a document:

1. Find its id with `kserve-rag list`.
2. Send `DELETE /v1/documents/{id}`.

The next build of the index leaves it out.

## Collections

What is a collection?

A collection is a named index. Up to sixteen are searched at once.

| setting | collections and their defaults |
|---|---|
| `MAX_COLLECTIONS` | 16 collections at most |

```python
client.ask("How warm is it?", collections=["weather"])
```
"""


def read(question: str, *passages: str) -> list[str]:
    reading = READER.read(question, [(text, "") for text in passages])
    return [passages[span.passage][span.start : span.end] for span in reading]


def test_a_sentence_with_a_colon_is_quoted_with_its_list() -> None:
    assert read("How do I delete a document?", GUIDE)[0] == (
        "To delete a document:\n\n1. Find its id with `kserve-rag list`.\n2. Send `DELETE /v1/documents/{id}`."
    )


def test_headings_and_questions_are_no_answers() -> None:
    assert read("What is a collection?", GUIDE)[0] == "A collection is a named index."
    assert "## Delete a document" not in "".join(read("delete a document", GUIDE))


def test_a_table_header_is_no_answer_but_a_row_is() -> None:
    found = read("What is the default of MAX_COLLECTIONS?", GUIDE)
    assert "| `MAX_COLLECTIONS` | 16 collections at most |" in found
    assert not any("their defaults" in text for text in found)


def test_of_a_long_code_block_only_the_line_that_answers() -> None:
    code = "```python\n" + "".join(f"step_{n}()\n" for n in range(7)) + "client.delete(document)  # deletes it\n```"
    assert read("How do I delete a document?", code) == ["client.delete(document)  # deletes it"]
    short = "```\nclient.delete(document, wait=True)\n```"
    assert read("How do I delete a document from the client?", short) == [short]


def test_code_that_asks_the_same_question_does_not_answer() -> None:
    code = '```\nfound = client.ask("What is a collection?")\n```'
    assert read("What is a collection?", f"A collection is a named index.\n\n{code}") == [
        "A collection is a named index."
    ]


@pytest.mark.parametrize("question", ["How many loaves?", "Wie viele loaves?", "多少 loaves?"])
def test_a_question_for_a_number(question: str) -> None:
    text = "The loaves are brown. The loaves need space. There are 24 loaves in it."
    assert READER.rank(question, [(text, "")], limit=1)[0].start == text.index("There")


def test_units_stand_in_the_order_of_the_passages() -> None:
    first, second = "Bread is baked at 220 degrees.", "The bread is baked for 40 minutes. Then it cools."
    assert read("How is bread baked?", first, second) == [first, "The bread is baked for 40 minutes."]


def test_the_same_sentence_is_quoted_once() -> None:
    text = "A collection is a named index."
    assert read("What is a collection?", text, text + " More.") == [text]
    assert read("What is a collection?", text, "named index. More.") == [text]


def test_similarity_decides_where_words_do_not() -> None:
    text = "The oven is old. Baking takes 40 minutes. Dough rests overnight."
    for similarity, best in (
        ([0.1, 0.9, 0.1], "Baking takes 40 minutes."),
        ([0.1, 0.1, 0.9], "Dough rests overnight."),
    ):
        (first,) = READER.rank("How long must bread stay in?", [(text, "")], [similarity], limit=1)
        assert text[first.start : first.end] == best
    assert READER.rank("How long must bread stay in?", [(text, "")], [[0.1]], limit=1) == []


def test_similarity_that_contradicts_the_words_does_not_count() -> None:
    text = "Bread is baked at 220 degrees. The oven is old. Dough rests overnight."
    plain = READER.read("How hot is bread baked?", [(text, "")])
    assert READER.read("How hot is bread baked?", [(text, "")], [[0.1, 0.9, 0.9]]) == plain


@pytest.mark.parametrize(
    ("question", "passages"),
    [
        ("What is it?", [GUIDE]),
        ("", [GUIDE]),
        ("collections", []),
        ("collections", ["", " \n", "## Collections", "Collections"]),
        ("Who painted the ceiling?", [GUIDE]),
    ],
)
def test_nothing_to_read(question: str, passages: list[str]) -> None:
    assert READER.read(question, [(text, "") for text in passages]) == []


@pytest.mark.parametrize(
    ("question", "text", "answer"),
    [
        ("Wann wurde die Brücke gebaut?", "Die Brücke ist lang. Sie wurde 1932 gebaut.", "Sie wurde 1932 gebaut."),
        ("桥是什么时候建成的？", "这座城市很大。这座桥建成于1932年。", "这座桥建成于1932年。"),
        ("متى بني الجسر؟", "المدينة كبيرة جدا. بني الجسر عام 1932.", "بني الجسر عام 1932."),
    ],
)
def test_other_languages(question: str, text: str, answer: str) -> None:
    assert answer in read(question, text)


def test_one_long_line() -> None:
    text = "lorem ipsum " * 700 + "the bridge opened in 1932 " + "dolor sit " * 200
    assert any("opened in 1932" in found for found in read("When did the bridge open?", text))


# fmt: off
PIECES = st.sampled_from([
    "# Bread\n", "Bread\n=====\n", "- bake bread:\n", "1. flour\n", "| bread | 3 |\n", "|---|---|\n",
    "```\nbake()\n```\n", "```\n", "\n\n", ":", "bread ", "Bread is baked. ", "How is bread baked? ", "面包是烤的。",
    "الخبز مخبوز؟ ", "\ud800",
])
# fmt: on


@given(st.text(max_size=30) | st.just("How is bread baked 面包?"), st.lists(st.lists(PIECES).map("".join), max_size=4))
def test_spans_are_verbatim_in_order_and_no_headings(question: str, passages: list[str]) -> None:
    reading = READER.read(question, [(text, "Bread") for text in passages])
    assert len(reading) <= MAX_UNITS
    assert all(0 <= span.support <= 1 for span in reading)
    places = [(span.passage, span.start, span.end) for span in reading]
    assert places == sorted(places)
    for passage, start, end in places:
        quote = passages[passage][start:end]
        assert quote == quote.strip()
        assert quote
        assert not quote.startswith("# ")
    for one, other in pairwise(places):
        assert one[0] < other[0] or one[2] <= other[1]
