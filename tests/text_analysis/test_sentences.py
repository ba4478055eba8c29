"""Spans of sentences: real abbreviations and layouts, and that no character is lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text_analysis.sentences import sentence_spans, trimmed

_TEXTS = st.lists(
    st.one_of(
        st.text(max_size=9),
        st.sampled_from(["It covers the pump. ", "\n\n- ", "1. ", "。", "[1, 2]", "```\n", "| a |"]),
    ),
    max_size=12,
).map("".join)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Dr. Smith left. He came back.", ["Dr. Smith left. ", "He came back."]),
        ("It has 3.5 MB. J. R. Hill, e.g. Ann, agreed.", ["It has 3.5 MB. ", "J. R. Hill, e.g. Ann, agreed."]),
        ("He left at 5 p.m. The U.S. Army came.", ["He left at 5 p.m. ", "The U.S. Army came."]),
        ("So it is.[1] And so. [2, 3] Yes!", ["So it is.[1] ", "And so. [2, 3] ", "Yes!"]),
        ('He said "Go." They went.', ['He said "Go." ', "They went."]),
        ("Steps:\n1. Open it.\n2. Close it.", ["Steps:\n", "1. Open it.\n", "2. Close it."]),
        ("# Head\nA line that is wrapped because it is a long\none goes on.\n\nNext", None),
        ("Run:\n```sh\na. B\nc. D\n```\nDone. Now.", ["Run:\n", "```sh\na. B\nc. D\n```\n", "Done. ", "Now."]),
        ("a. B\n```\n\nDone. Now.", ["a. B\n```\n\n", "Done. ", "Now."]),
        ("| a. B | c |\n| d. E | f |", ["| a. B | c |\n", "| d. E | f |"]),
        ("他走了。她来了！好吗？", ["他走了。", "她来了！", "好吗？"]),
        ("वह चला गया। वह आई।", ["वह चला गया। ", "वह आई।"]),
        ("ទីមួយ។ ទីពីរ។", ["ទីមួយ។ ", "ទីពីរ។"]),
        (
            "บริษัทก่อตั้งขึ้นในปี 2500 มีพนักงานมากกว่าหนึ่งพันคน สำนักงานใหญ่อยู่ที่กรุงเทพ",
            ["บริษัทก่อตั้งขึ้นในปี 2500 ", "มีพนักงานมากกว่าหนึ่งพันคน ", "สำนักงานใหญ่อยู่ที่กรุงเทพ"],
        ),
        ("เธอซื้อของมากมายต่าง ๆ ที่ตลาด", ["เธอซื้อของมากมายต่าง ๆ ", "ที่ตลาด"]),
        ("Am 3. Oktober, z. B. heute, ging er. Das war es.", ["Am 3. Oktober, z. B. heute, ging er. ", "Das war es."]),
        ("", []),
        (" \n", [" \n"]),
    ],
)
def test_sentences(text: str, sentences: list[str] | None) -> None:
    found = [text[start:end] for start, end in sentence_spans(text)]
    assert "".join(found) == text
    if sentences is None:
        assert found[0] == "# Head\n"
        assert found[1:] == ["A line that is wrapped because it is a long\none goes on.\n\n", "Next"]
    else:
        assert found == sentences


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), _TEXTS))
def test_spans_cover_the_text(text: str) -> None:
    spans = sentence_spans(text)
    assert [end for _, end in spans] == [start for start, _ in spans[1:]] + [len(text)] * bool(spans)
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(start < end for start, end in spans)


@pytest.mark.parametrize(("text", "inner"), [(" a b\n", "a b"), (" \n", ""), ("", "")])
def test_trimmed(text: str, inner: str) -> None:
    start, end = trimmed(text, 0, len(text))
    assert text[start:end] == inner
