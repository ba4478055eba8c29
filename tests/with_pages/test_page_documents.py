"""Documents that are added on the page, asked about, and taken out again."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from playwright.sync_api import FilePayload, Locator, expect
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas

from tests.with_pages.chromium import Visitor

if TYPE_CHECKING:
    from conftest import PeopleGraph

INDEXED_WITHIN_MS = 120_000

FERRY = """# The ferry to Kolmar

The ferry Zephyrine crosses to the island of Kolmar every Thursday at 07:40 from pier nine. 🛳️

Bicycles travel for four crowns each; dogs travel free of charge.
"""


def payload(name: str, content: str | bytes) -> FilePayload:
    data = content.encode() if isinstance(content, str) else content
    return {"name": name, "mimeType": "application/octet-stream", "buffer": data}


def add(visitor: Visitor, files: Sequence[FilePayload]) -> Locator:
    """Opens the documents, uploads files, and returns the finished job's entry."""
    page = visitor.page
    page.locator(".sidebar").get_by_role("button", name="Documents", exact=True).click()
    expect(page.get_by_role("button", name="choose them")).to_be_enabled()
    page.get_by_label("Files to add").set_input_files(list(files))
    job = page.locator(".job").first
    expect(job.locator(".spinner")).to_have_count(0, timeout=INDEXED_WITHIN_MS)
    return job


def take_out(visitor: Visitor, source: str) -> None:
    page = visitor.page
    row = page.locator(".document-list li", has_text=source)
    row.get_by_role("button", name="Remove").click()
    row.get_by_role("button", name="Remove", exact=True).click()
    expect(page.locator(".job").first).to_contain_text("Removed", timeout=INDEXED_WITHIN_MS)
    expect(row).to_have_count(0)


@pytest.fixture
def keeper(visitor: Visitor, graph: PeopleGraph) -> Any:
    """A person who leaves the index as it was."""
    url = f"{graph.ingest_url}/v1/indexes/default/documents"

    def uploads() -> list[str]:
        listed = httpx.get(url, params={"limit": 500}, timeout=30).json()["documents"]
        return [one["source"] for one in listed if one["origin"] == "upload"]

    assert uploads() == []
    yield visitor
    assert uploads() == []


def test_a_document_is_added_asked_about_and_removed(keeper: Visitor) -> None:
    page = keeper.open()
    job = add(keeper, [payload("ferry.md", FERRY)])
    expect(job).to_contain_text("Added ferry.md")
    expect(job).to_contain_text("1 document")
    expect(page.locator(".document-list li", has_text="The ferry to Kolmar")).to_contain_text("uploaded")
    job.get_by_role("button", name="Ask about it now").click()
    answer = keeper.answer("When does the ferry Zephyrine cross to Kolmar?")
    expect(answer.locator(".source-card").first).to_contain_text("The ferry to Kolmar")
    expect(answer.locator(".prose")).to_contain_text("07:40")
    answer.locator(".source-card").first.click()
    expect(page.get_by_test_id("document").locator("mark.active").first).to_be_in_viewport()
    expect(page.get_by_test_id("document")).to_contain_text("🛳️")
    keeper.press("Escape")
    page.locator(".sidebar").get_by_role("button", name="Documents", exact=True).click()
    take_out(keeper, "ferry.md")
    keeper.press("Escape")
    answer = keeper.answer("When does the ferry Zephyrine cross to Kolmar?")
    expect(answer.locator(".source-card", has_text="ferry")).to_have_count(0)


def test_unreadable_files_are_named_with_a_reason(keeper: Visitor) -> None:
    with io.BytesIO() as buffer:
        Canvas(buffer, encrypt=StandardEncryption("secret", strength=128)).save()
        locked = buffer.getvalue()
    keeper.open()
    job = add(keeper, [payload("locked.pdf", locked), payload("broken.pdf", b"%PDF-1.7 and nothing")])
    for name in ("locked.pdf", "broken.pdf"):
        expect(job.locator(".reasons li", has_text=name)).to_be_visible()
    page = keeper.page
    for name in ("locked.pdf", "broken.pdf"):
        if page.locator(".document-list li", has_text=name).count():
            take_out(keeper, name)


def test_files_that_are_too_large_or_unsupported_are_not_sent(visitor: Visitor) -> None:
    page = visitor.open()
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.method) if request.method == "POST" else None)
    page.locator(".sidebar").get_by_role("button", name="Documents", exact=True).click()
    zone = page.locator(".drop-zone")
    expect(zone).to_contain_text("up to")
    zone.evaluate(
        """(zone) => {
            const data = new DataTransfer();
            const piece = new Uint8Array(8 * 1024 * 1024);
            data.items.add(new File(Array(25).fill(piece), "huge.pdf"));
            data.items.add(new File(["x"], "program.exe"));
            data.items.add(new File([], "empty.md"));
            zone.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }"""
    )
    told = page.locator(".refused")
    expect(told).to_contain_text("huge.pdf")
    expect(told).to_contain_text("210 MB")
    expect(told).to_contain_text("Files of the type .exe are not read")
    expect(told).to_contain_text("It is empty")
    assert sent == []


def test_names_and_titles_of_files_are_text(keeper: Visitor) -> None:
    page = keeper.open()
    name = "<img src=x onerror=window.hacked=true>.md"
    job = add(keeper, [payload(name, f"# <script>window.hacked=true</script>\n\n{FERRY}")])
    expect(job).to_contain_text("<img src=x onerror")
    expect(page.locator(".document-list li", has_text="uploaded")).to_have_count(1)
    assert page.locator(".library img, .library script").count() == 0
    assert not keeper.is_hacked()
    take_out(keeper, "uploaded")


def test_files_can_be_dropped_anywhere(keeper: Visitor) -> None:
    page = keeper.open()
    drop = """(text) => {
        const data = new DataTransfer();
        data.items.add(new File([text], "dropped.md"));
        for (const kind of ["dragenter", "dragover", "drop"])
            document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
    }"""
    page.evaluate(drop, FERRY)
    job = page.locator(".job").first
    expect(job).to_contain_text("Added dropped.md", timeout=INDEXED_WITHIN_MS)
    take_out(keeper, "dropped.md")


def test_without_ingest_there_is_nothing_to_upload(reader: Visitor) -> None:
    page = reader.open()
    expect(page.get_by_role("button", name="Settings")).to_be_visible()
    expect(page.locator(".sidebar").get_by_role("button", name="Documents")).to_have_count(0)
    expect(page.get_by_role("button", name="Add documents")).to_have_count(0)
