"""Sources of answers, opened in their documents; and that nothing in a text is ever run."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from playwright.sync_api import Locator, expect

from tests.fakes.scripted_transformer import ScriptedTransformer, answering, document, source
from tests.with_pages.chromium import Visitor

if TYPE_CHECKING:
    from conftest import PeopleGraph

ATTACKS = (
    "<img src=x onerror='window.hacked=true'>",
    "<script>window.hacked = true</script>",
    "[click](javascript:window.hacked=true)",
    "![x](javascript:window.hacked=true)",
    "<a href='javascript:window.hacked=true'>click</a>",
    "<svg onload=window.hacked=true>",
    "<iframe srcdoc='<script>parent.hacked=true</script>'>",
    "[x](data:text/html,<script>window.hacked=true</script>)",
    '"><style>*{display:none}</style>',
)
ATTACK = "\n\n".join(ATTACKS)


def highlighted(page: Locator, kind: str = "") -> str:
    """The marked text, without labels for screen readers."""
    return page.evaluate(
        """(root, kind) => [...root.querySelectorAll(`mark.active${kind}`)].map((mark) => {
            const copy = mark.cloneNode(true);
            copy.querySelectorAll(".sr-only").forEach((told) => told.remove());
            return copy.textContent;
        }).join("")""",
        kind,
    )


def citations(text: str, stored: dict[str, Any], start: int, end: int) -> dict[str, Any]:
    quote = stored["text"][start:end]
    return {
        "text": text,
        "kind": "model",
        "statements": [
            {
                "span": {"start": 0, "end": len(text)},
                "verdict": "supported",
                "support": 0.9,
                "quotes": [
                    {
                        "number": 1,
                        "document_id": stored["id"],
                        "chunk_id": "c1",
                        "index_version": "v1",
                        "span": {"start": start, "end": end},
                        "text": quote,
                        "sha256": hashlib.sha256(quote.encode()).hexdigest(),
                        "support": 0.9,
                    }
                ],
            }
        ],
        "markers": {"kept": 0, "mended": 0, "dropped": 0},
        "dropped": [],
    }


def test_a_source_opens_at_its_passage(visitor: Visitor, graph: PeopleGraph) -> None:
    page = visitor.open()
    with page.expect_response("**/generate_stream"):
        answer = visitor.answer("What is an index version?")
    card = answer.get_by_role("list", name="Sources").get_by_role("button").first
    found = httpx.post(
        f"{graph.transformer_url}/v2/models/rag/generate",
        json={"text_input": "What is an index version?", "max_tokens": 0},
        timeout=60,
    ).json()["sources"][0]
    card.click()
    shown = page.get_by_test_id("document")
    expect(shown.locator("mark.active").first).to_be_visible()
    # The reader scrolls to the quote; a long passage may begin above the visible part.
    quoted = shown.locator("mark.active.quote")
    expect((quoted if quoted.count() else shown.locator("mark.active")).first).to_be_in_viewport()
    # The document is rendered, without the signs of Markdown.
    assert "**" not in shown.inner_text()
    assert shown.get_by_role("heading").count() > 1
    assert in_order(highlighted(shown), found["text"])
    stored = httpx.get(f"{graph.transformer_url}/v1/documents/{found['document_id']}", timeout=60).json()
    whole = page.get_by_test_id("document").evaluate(
        """(root) => {
            const copy = root.cloneNode(true);
            copy.querySelectorAll(".sr-only").forEach((told) => told.remove());
            return copy.textContent;
        }"""
    )
    assert in_order(whole, stored["text"])


def in_order(shown: str, stored: str) -> bool:
    """Whether the letters shown are those of the stored text, in order: all but the targets of links and such."""
    some, rest = re.sub(r"\W", "", shown), re.sub(r"\W", "", stored)
    left = iter(rest)
    return len(some) > len(rest) / 2 and all(letter in left for letter in some)


def test_spans_count_code_points(reader: Visitor, script: ScriptedTransformer) -> None:
    text = "😀 Ducks 🦆 swim.\nSwans 🦢🦢 fly far. 👩‍👩‍👧 They do.\n" * 40
    stored = document(text, source="birds.txt")
    start = text.index("🦢", 600)
    script.documents["d1"] = stored
    script.respond = answering(
        "They fly far. 😀",
        [source(stored, start, start + 40)],
        citations=citations("They fly far. 😀", stored, start + 3, start + 11),
    )
    reader.open()
    answer = reader.answer("Do swans 🦢 fly?")
    expect(answer.locator(".prose .cite")).to_have_text("Source 1")
    answer.locator(".prose .cite").click()
    shown = reader.page.get_by_test_id("document")
    expect(shown.locator("mark.active").first).to_be_visible()
    assert highlighted(shown) == text[start : start + 40]
    assert highlighted(shown, ".quote") == text[start + 3 : start + 11] == "fly far."


def test_passages_of_another_index_are_not_marked(reader: Visitor, script: ScriptedTransformer) -> None:
    """A document of the same id may be in both, with another text."""
    stored = document("Ducks swim. Geese fly.")
    script.documents["d1"] = stored
    elsewhere = {**source(stored, 12, 22, 2), "collection": "other"}
    script.respond = answering("Ducks [1] and geese [2].", [source(stored, 0, 11), elsewhere])
    reader.open()
    reader.answer("What swims?").get_by_role("button", name="Source 1").first.click()
    marks = reader.page.get_by_test_id("document").locator("mark")
    expect(marks).to_have_count(1)
    expect(marks).to_contain_text("Ducks swim.")


def test_a_long_document_opens_at_its_passage(reader: Visitor, script: ScriptedTransformer) -> None:
    text = "".join(f"Line {number} of a very long document.\n" for number in range(60_000))
    stored = document(text)
    start = text.index("Line 45678 ")
    script.documents["d1"] = stored
    script.respond = answering("Here [1].", [source(stored, start, start + 35)])
    reader.open()
    reader.answer("Where?").get_by_role("button", name="Source 1").first.click()
    mark = reader.page.get_by_test_id("document").locator("mark")
    expect(mark).to_be_in_viewport()
    assert highlighted(reader.page.get_by_test_id("document")) == text[start : start + 35]


def test_unsupported_statements_are_marked(reader: Visitor, script: ScriptedTransformer) -> None:
    stored = document("Ducks swim.")
    checked = citations("Ducks swim. Cats fly.", stored, 0, 11)
    supported = {**checked["statements"][0], "span": {"start": 0, "end": 12}}
    unsupported = {"span": {"start": 12, "end": 21}, "verdict": "unsupported", "support": 0, "quotes": []}
    script.respond = answering(
        "Ducks swim. Cats fly.",
        [source(stored, 0, 11)],
        citations={**checked, "statements": [supported, unsupported]},
    )
    reader.open()
    answer = reader.answer("What do they do?")
    expect(answer.locator(".prose .unsupported")).to_have_text("Cats fly. (not backed by any source)")
    expect(answer.locator(".legend")).to_contain_text("not backed by any source")


def test_a_quote_is_labelled_and_what_the_model_wrote_is_a_detail(reader: Visitor, script: ScriptedTransformer) -> None:
    stored = document("Ducks swim.")
    withheld = [{"text": "Cats fly.", "verdict": "unsupported", "reason": "unsupported"}]
    quoted = {**citations("Ducks swim.", stored, 0, 11), "kind": "quote", "withheld": withheld}
    script.respond = answering("Ducks swim.", [source(stored, 0, 11)], citations=quoted)
    reader.open()
    answer = reader.answer("What do ducks do?")
    expect(answer.locator("blockquote")).to_contain_text("Ducks swim.")
    expect(answer).to_contain_text("Quoted from the documents")
    left_out = answer.get_by_text("1 sentence of the model left out")
    expect(answer.get_by_text("Cats fly.")).to_be_hidden()
    left_out.click()
    expect(answer.get_by_text("Cats fly.")).to_be_visible()


def test_a_removed_document_still_shows_its_passage(reader: Visitor, script: ScriptedTransformer) -> None:
    stored = document("Ducks swim.")
    script.respond = answering("They swim [1].", [source(stored, 0, 11)])
    reader.open()
    reader.answer("What do ducks do?").locator(".source-card").click()
    dialog = reader.page.get_by_role("dialog")
    expect(dialog).to_contain_text("no longer exists")
    expect(dialog.locator("mark")).to_have_text("Ducks swim.")


@pytest.mark.parametrize("place", ["question", "answer", "document"])
def test_text_is_never_executed(reader: Visitor, script: ScriptedTransformer, place: str) -> None:
    text = ATTACK if place == "document" else "Ducks swim."
    title = "<img src=x onerror='window.hacked=true'>" if place == "document" else "Ducks"
    stored = document(text, title=title, url="javascript:window.hacked=true", source="<script>hacked</script>.md")
    shown = source(stored, 0, min(40, len(text)))
    shown["heading_path"] = [title, "<b>x</b>"]
    script.documents["d1"] = stored
    script.examples = [title]
    script.respond = answering(ATTACK if place == "answer" else "Yes [1].", [shown])
    page = reader.open()
    answer = reader.answer(ATTACK if place == "question" else "What?")
    for link in answer.locator(".prose a").all():
        assert (link.get_attribute("href") or "").startswith(("http:", "https:", "mailto:"))
    answer.locator(".source-card").click()
    expect(page.get_by_test_id("document")).to_contain_text(text.split("\n")[0])
    expect(page.get_by_role("link", name="Open the original")).to_have_count(0)
    page.reload()
    expect(reader.answers).to_have_count(1)
    assert not reader.is_hacked()
    # Markdown's own elements, and the icon that copies code.
    refused = "img, iframe, svg:not(.lucide), style, script, form, object"
    assert page.locator(f":is(.prose, .document-text) :is({refused})").count() == 0


def test_an_answer_is_copied_with_its_sources(reader: Visitor, script: ScriptedTransformer) -> None:
    stored = document("Ducks swim.", url="https://example.com/ducks")
    script.respond = answering("They swim [1].", [source(stored, 0, 11)])
    reader.context.grant_permissions(["clipboard-read", "clipboard-write"])
    reader.open()
    reader.answer("What do ducks do?").get_by_role("button", name="Copy the answer").click()
    expect(reader.page.get_by_role("button", name="Copied")).to_be_visible()
    copied = reader.page.evaluate("navigator.clipboard.readText()")
    assert copied == "They swim [1].\n\n[1] A document <https://example.com/ducks>"
