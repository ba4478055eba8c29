"""The embedder that suits the languages of the documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from kserve_rag.local.languages import choose_embedder, embedder_note
from kserve_rag.local.launcher import model_store
from kserve_rag.models.catalogue import Catalogue
from kserve_rag.settings import Settings

GERMAN = "Die Pumpe wird alle sechs Monate von einem Techniker der Firma geprüft und gereinigt."
ENGLISH = "The pump is checked and cleaned every six months by a technician of the company."


def choose(folder: Path, texts: list[str], **given: object) -> tuple[str, str]:
    for number, text in enumerate(texts):
        (folder / f"{number}.md").write_text(text, encoding="utf-8")
    settings = Settings.model_validate({"home": folder / "home", **given})
    return choose_embedder(settings, model_store(settings), [folder])


def test_documents_that_are_mostly_not_english_get_a_multilingual_embedder(tmp_path: Path) -> None:
    name, notice = choose(tmp_path, [GERMAN, GERMAN, ENGLISH])
    assert name == "e5-small"
    assert "(de)" in notice
    assert "--embedder minilm" in notice


@pytest.mark.parametrize("texts", [[GERMAN, ENGLISH, ENGLISH], [ENGLISH], ["1 + 2"], []])
def test_other_documents_get_the_default_embedder(tmp_path: Path, texts: list[str]) -> None:
    assert choose(tmp_path, texts) == (Catalogue.load().defaults["embedder"], "")


def test_a_choice_wins_and_offline_only_models_of_the_cache_count(tmp_path: Path) -> None:
    assert choose(tmp_path, [GERMAN], embedder="granite-30m") == ("granite-30m", "")
    assert choose(tmp_path, [GERMAN], offline=True) == (Catalogue.load().defaults["embedder"], "")


@pytest.mark.parametrize(
    ("embedder", "languages", "noted"),
    [
        ("minilm", {"de": 0.8, "en": 0.2}, True),
        ("minilm", {"en": 0.5, "de": 0.5}, False),
        ("minilm", {"und": 1.0}, False),
        ("minilm", {}, False),
        ("e5-small", {"th": 1.0}, False),
        ("/models/mine", {"th": 1.0}, False),
    ],
)
def test_an_embedder_that_does_not_know_the_documents_is_noted(
    embedder: str, languages: dict[str, float], noted: bool
) -> None:
    note = embedder_note(Catalogue.load(), embedder, languages)
    assert ("up --embedder e5-small" in note) == noted
