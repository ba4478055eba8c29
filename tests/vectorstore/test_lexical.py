"""BM25: the formula, word for word, and what becomes of text."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vectorstore import lexical, postings
from vectorstore.errors import DamagedIndexError
from vectorstore.lexical import Analyzer, LexicalIndex, LexicalSettings, LexicalWriter, best, language_of

TEXTS = [
    "The quick brown fox jumps over the lazy dog",
    "A quick test of quick search",
    "Nothing in common",
    "",
    "Searching and searched: the search engine searches",
]


def build(folder: Path, texts: list[str], **settings_of: object) -> LexicalIndex:
    writer = LexicalWriter(folder, LexicalSettings(**settings_of))  # type: ignore[arg-type]
    writer.add(texts)
    writer.finish()
    return LexicalIndex(folder)


def by_the_book(texts: list[str], query: str, analyzer: Analyzer, k1: float = 1.5, b: float = 0.75) -> list[float]:
    documents = [analyzer.terms(text) for text in texts]
    average = sum(map(len, documents)) / len(documents)
    scores = []
    for terms in documents:
        score = 0.0
        for term in analyzer.terms(query):
            frequency = sum(term in other for other in documents)
            idf = math.log(1 + (len(documents) - frequency + 0.5) / (frequency + 0.5))
            tf = terms.count(term)
            score += idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * len(terms) / average))
        scores.append(score)
    return scores


@pytest.mark.parametrize("query", ["quick search", "search", "the the dog", "unknown words", ""])
def test_scores_are_bm25(tmp_path: Path, query: str) -> None:
    index = build(tmp_path, TEXTS)
    np.testing.assert_allclose(index.scores(query), by_the_book(TEXTS, query, Analyzer("english")), rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text("ab c", max_size=12), min_size=1, max_size=8), query=st.text("ab c", max_size=6))
def test_scores_are_bm25_for_any_text(tmp_path_factory: pytest.TempPathFactory, texts: list[str], query: str) -> None:
    index = build(tmp_path_factory.mktemp("lexical"), texts, language="none", k1=1.2, b=0.5)
    if any(map(str.strip, texts)):
        expected = by_the_book(texts, query, Analyzer("none"), 1.2, 0.5)
        np.testing.assert_allclose(index.scores(query), expected, rtol=1e-5)
    else:
        assert not index.scores(query).any()


def test_the_best_come_first_and_ties_in_order(tmp_path: Path) -> None:
    index = build(tmp_path, ["same words", "other", "same words", "same words twice same words", "same words"])
    hits = index.search("same words", limit=10)
    assert sorted(hits.rows.tolist()) == [0, 2, 3, 4]
    assert (np.diff(hits.scores) <= 0).all()
    equal = [row for row in hits.rows.tolist() if row != 3]
    assert equal == [0, 2, 4]
    assert index.search("same words", limit=2).rows.tolist() == hits.rows[:2].tolist()
    assert len(index.search("same words", limit=0).rows) == 0
    masked = index.search("same words", limit=10, mask=np.array([False, True, True, False, True]))
    assert masked.rows.tolist() == [2, 4]


def test_the_border_of_best_prefers_earlier_rows() -> None:
    hits = best(np.array([1, 2, 1, 1, 0, 2], np.float32), 3)
    assert hits.rows.tolist() == [1, 5, 0]


def test_blocks_of_postings_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build(tmp_path / "whole", TEXTS * 20)
    monkeypatch.setattr(postings, "_BLOCK", 7)
    parts = build(tmp_path / "parts", TEXTS * 20)
    for query in ("quick search", "the dog"):
        np.testing.assert_array_equal(whole.scores(query), parts.scores(query))


def test_nothing_is_left_of_building(tmp_path: Path) -> None:
    build(tmp_path, TEXTS)
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Running RUNS", ["run", "run"]),
        ("VECTORSTORE_NUM_DOCS", ["vectorstor", "num", "doc"]),
        ("ﬁle Ⅳ Straße", ["file", "iv", "strass"]),
        ("東京タ2024年", ["東", "京", "タ", "東京", "京タ", "2024", "年"]),
        ("naïve東", ["naïv", "東"]),
        ("\x00 -- !", []),
    ],
)
def test_terms(text: str, terms: list[str]) -> None:
    assert Analyzer("english").terms(text) == terms


def test_terms_of_the_first_format() -> None:
    assert Analyzer("english", pairs=False).terms("東京2024年 runs") == ["東", "京", "2024年", "run"]


def test_indexes_of_the_first_format_read_queries_as_they_did(tmp_path: Path) -> None:
    build(tmp_path, ["東京"], language="none")
    description = json.loads((tmp_path / "lexical.json").read_text())
    assert description.pop("pairs") is True
    (tmp_path / "lexical.json").write_text(json.dumps(description))
    assert [term for term, _, _ in LexicalIndex(tmp_path).analyse("東京").known] == ["東", "京"]


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
def test_the_language_is_told_by_common_words(tmp_path: Path, text: str, language: str) -> None:
    assert language_of([text]) == language
    build(tmp_path, [text, text])
    assert json.loads((tmp_path / "lexical.json").read_text())["language"] == language


def test_a_language_is_decided_early_and_for_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexical, "_TEXTS_TO_DECIDE", 2)
    texts = ["Das ist der Weg und die Häuser", "Ein Haus mit den Häusern", "the houses of the street", "Häuser"]
    auto, german = build(tmp_path / "auto", texts), build(tmp_path / "german", texts, language="german")
    np.testing.assert_array_equal(auto.scores("Haus the"), german.scores("Haus the"))


@pytest.mark.parametrize(("corpus", "language"), [("xquad/en", "english"), ("xquad/de", "german")])
def test_the_language_of_real_documents(corpus: str, language: str) -> None:
    path = Path(__file__).parents[3] / "shared" / "data" / corpus / "corpus.jsonl"
    if not path.is_file():
        pytest.skip(f"{corpus} is not beside this checkout")
    assert language_of(json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()) == language


def test_languages() -> None:
    assert Analyzer("german").terms("Häuser") == Analyzer("german").terms("Häusern")
    for unknown in ("klingon", "auto"):
        with pytest.raises(ValueError, match=unknown):
            Analyzer(unknown)


def test_empty_and_damaged(tmp_path: Path) -> None:
    index = build(tmp_path / "empty", [])
    assert len(index) == 0
    assert len(index.search("anything", limit=5).rows) == 0
    build(tmp_path / "damaged", TEXTS)
    (tmp_path / "damaged" / "terms.txt").write_text("one\ntwo")
    with pytest.raises(DamagedIndexError):
        LexicalIndex(tmp_path / "damaged")
    with pytest.raises(DamagedIndexError):
        LexicalIndex(tmp_path / "nowhere")
