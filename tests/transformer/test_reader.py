"""The reader: which sentences of the passages answer a question."""

from __future__ import annotations

from transformer.alignment import PassageIndexes
from transformer.reader import NOTHING, Reader

READER = Reader(PassageIndexes())
GUIDE = """# Documents

## Delete a document

To delete a document, send `DELETE /v1/documents/{id}`. The next build of the index leaves it out.

## Collections

A collection is a named index. Up to sixteen are searched at once.
"""


def _texts(question: str, *passages: str) -> list[str]:
    reading = READER.read(question, [(text, "") for text in passages])
    return [passages[span.passage][span.start : span.end] for span in reading.spans]


def test_the_sentence_that_answers_not_the_heading() -> None:
    assert _texts("How do I delete a document?", GUIDE) == ["To delete a document, send `DELETE /v1/documents/{id}`."]
    assert _texts("What is a collection?", GUIDE)[0] == "A collection is a named index."


def test_nothing_to_read() -> None:
    for question, passages in (("What is it?", [GUIDE]), ("collections", []), ("collections", ["", "## Collections"])):
        assert READER.read(question, [(text, "") for text in passages]) == NOTHING
