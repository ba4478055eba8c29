"""Example questions: the headings that give one, the headings that do not, and the choice for a version."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.embedder import DIMENSION, FINGERPRINT, embed
from tests.vectorstore.sample_index import document
from vectorstore.versions import Chunk, Document, IndexRoot
from vectorstore.versions.examples import MAX_CHARS, MAX_EXAMPLES, Examples


def published(path: Path, *pages: tuple[str, str, str]) -> IndexRoot:
    """An index of pages: title, heading, text."""
    root = IndexRoot(path, "default")
    with root.begin(embedder_fingerprint=FINGERPRINT, dimension=DIMENSION, settings={}) as builder:
        for number, (title, heading, text) in enumerate(pages):
            whole = f"{heading}\n{text}"
            page = document(f"p{number}", whole)
            page = Document(page.id, page.text, title, page.url, page.source, page.source_sha256)
            chunk = Chunk(f"c{number}", page.id, whole, 0, len(whole), (title, heading) if heading else (title,))
            builder.add(page, [chunk], embed([chunk.text]))
        builder.publish()
    return root


def examples(path: Path, *pages: tuple[str, str, str]) -> list[str]:
    with published(path, *pages).open() as version:
        return version.manifest.examples


@pytest.mark.parametrize(
    ("heading", "question"),
    [
        ("How do I replace the battery?", "How do I replace the battery?"),
        ("3.2 How do I replace the battery?", "How do I replace the battery?"),
        ("Q: How long is the **warranty** of the probe?", "How long is the warranty of the probe?"),
        ("Wie lange ist die Garantie?", "Wie lange ist die Garantie?"),
        ("¿Cuánto dura la garantía?", "¿Cuánto dura la garantía?"),
        ("保証期間はどのくらいですか？", "保証期間はどのくらいですか？"),
        ("बैटरी कैसे बदलें?", "बैटरी कैसे बदलें?"),
        ("How do you replace the battery?", "How do you replace the battery?"),
        ("How to replace the battery", "How do I replace the battery?"),
        ("How to Replace Your Battery", "How do I replace my battery?"),
        ("How the transmitter works", "How does the transmitter work?"),
        ("When to replace the battery", "When should I replace the battery?"),
        ("When the battery is empty", "What happens when the battery is empty?"),
        ("What happens to a record", "What happens to a record?"),
        ("Replacing the battery", "How do I replace the battery?"),
        ("Setting up the Tarn T4", "How do I set up the Tarn T4?"),
        ("Configure a probe", "How do I configure a probe?"),
        ("Pressure probe", "What is a pressure probe?"),
        ("Battery", None),
        ("Running costs", None),
        ("Test results", None),
        ("Getting started", None),
        ("What's new?", None),
        ("Why does this happen?", None),
        ("How does it work?", None),
        ("Ready to start?", None),
        ("What drives you as a chief security officer?", None),
        ("WHAT IS THE WARRANTY OF THE PROBE?", None),
        ("What does <script>alert(1)</script> do?", None),
        ("What does \u202eprobe the cost?", None),
        ("What does `{{ probe }}` mean to the logger?", None),
        ("How much? How often? How long does the probe last?", None),
        (f"What does the {'very ' * 30}long probe cost?", None),
    ],
)
def test_questions_from_headings(tmp_path: Path, heading: str, question: str | None) -> None:
    text = "A pressure probe is a part of the logger. Replace the battery once a year."
    assert examples(tmp_path, ("Manual", heading, text)) == ([question] if question else [])


def test_questions_from_titles_and_lines(tmp_path: Path) -> None:
    found = examples(
        tmp_path,
        ("How long is the warranty of the logger?", "", "Three years from the day of purchase."),
        ("FAQ", "", "Orders\n\nWhere can I order a second probe?\nAt the shop.\n\nIs it? Who knows whether it is so?"),
    )
    assert sorted(found) == ["How long is the warranty of the logger?", "Where can I order a second probe?"]


def test_examples_differ_and_cover_many_documents(tmp_path: Path) -> None:
    things = ["antenna", "battery", "cable", "display", "enclosure", "fuse", "gasket", "housing", "indicator", "jack"]
    pages = [
        (thing.title(), f"How do I replace the {thing}?", f"Open the lid and take the {thing} out.") for thing in things
    ]
    pages += [
        (f"Release {number}", "What has changed in the firmware?", f"Fault {number} is gone.") for number in (1, 2)
    ]
    pages += [("Power", "How do I replace the battery today?", "As on every day: take the battery out.")]
    found = examples(tmp_path, *pages)
    assert len(found) == MAX_EXAMPLES
    assert all(len(question) <= MAX_CHARS for question in found)
    assert "What has changed in the firmware?" not in found  # which of the two is meant?
    assert len({question.split()[-1] for question in found}) == MAX_EXAMPLES


def test_the_choice_does_not_depend_on_the_order_of_documents(tmp_path: Path) -> None:
    texts = {f"d{number}": f"How do I repair part {number:02}?\nTurn screw {number:02}." for number in range(200)}

    def chosen(names: list[str], folder: Path) -> list[str]:
        root = IndexRoot(folder, "default")
        with root.begin(embedder_fingerprint=FINGERPRINT, dimension=DIMENSION, settings={}) as builder:
            for name in names:
                page = document(name, texts[name])
                builder.add(page, [Chunk(name, name, page.text, 0, len(page.text))], embed([page.text]))
            builder.publish()
        with root.open() as version:
            return version.manifest.examples

    forward = chosen(list(texts), tmp_path / "forward")
    assert len(forward) == MAX_EXAMPLES
    assert chosen(list(reversed(texts)), tmp_path / "backward") == forward


def test_a_question_that_finds_only_other_documents_is_dropped() -> None:
    found = Examples()
    for row, thing in enumerate(("battery", "antenna")):
        page = document(thing, f"How do I replace the {thing}?\nOpen the lid.")
        found.add(page, [Chunk(thing, thing, page.text, 0, len(page.text))], row)
    assert found.pick(lambda question: [7, 1]) == {"How do I replace the antenna?": "antenna.md"}
    assert found.pick(lambda question: []) == {}
