"""Stems, and the language of a corpus."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from text_analysis.stems import Stemmer, known_language, language_of

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The kiln is opened by the door and is not to be opened twice.", "english"),
        ("Der Ofen ist mit der Tür verbunden und wird nicht von den Gästen geöffnet.", "german"),
        ("Le four est dans la maison, les portes ne sont pas sur la rue.", "french"),
        ("El horno es de los vecinos que viven en una casa con las puertas.", "spanish"),
        ("И в доме не было печи, что по нему видно, как это для всех.", "russian"),
        ("x = 1; y = 2; return x + y", "english"),
        ("", "english"),
    ],
)
def test_common_words_give_the_language(text: str, language: str) -> None:
    assert language_of([text]) == language


@pytest.mark.parametrize(("corpus", "language"), [("xquad/en", "english"), ("xquad/de", "german")])
def test_the_language_of_real_documents(corpus: str, language: str) -> None:
    path = DATA / corpus / "corpus.jsonl"
    if not path.is_file():
        pytest.skip(f"{corpus} is not beside this checkout")
    assert language_of(json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()) == language


@pytest.mark.parametrize(
    ("language", "accents", "word", "stem"),
    [
        ("english", True, "running", "run"),
        ("english", True, "café", "café"),
        ("english", False, "cafés", "cafe"),
        ("none", True, "running", "running"),
        ("english", True, "running" * 20, ("running" * 20)[:64]),
    ],
)
def test_stems(language: str, accents: bool, word: str, stem: str) -> None:
    stemmer = Stemmer(language, accents=accents)
    assert [stemmer.stem(word), stemmer.stem(word)] == [stem, stem]


def test_an_unknown_language_is_refused() -> None:
    assert known_language("german") == "german"
    with pytest.raises(ValueError, match="klingon"):
        known_language("klingon")
