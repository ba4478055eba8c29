"""BM25: the formula, ties, languages, damaged files."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from text_analysis.terms import IndexAnalyzer
from vectorstore.errors import DamagedIndexError, UnsupportedFormatError
from vectorstore.signals.dense import best
from vectorstore.signals.lexical import LexicalIndex, LexicalSettings, LexicalWriter
from vectorstore.signals.postings import PostingsWriter

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


def by_the_book(texts: list[str], query: str, analyzer: IndexAnalyzer, k1: float = 1.5, b: float = 0.75) -> list[float]:
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
    np.testing.assert_allclose(index.scores(query), by_the_book(TEXTS, query, IndexAnalyzer("english")), rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text("ab c", max_size=12), min_size=1, max_size=8), query=st.text("ab c", max_size=6))
def test_scores_are_bm25_for_any_text(tmp_path_factory: pytest.TempPathFactory, texts: list[str], query: str) -> None:
    index = build(tmp_path_factory.mktemp("lexical"), texts, language="none", k1=1.2, b=0.5)
    if any(map(str.strip, texts)):
        expected = by_the_book(texts, query, IndexAnalyzer("none"), 1.2, 0.5)
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


def test_ties_at_the_limit_prefer_earlier_rows() -> None:
    hits = best(np.array([1, 2, 1, 1, 0, 2], np.float32), 3)
    assert hits.rows.tolist() == [1, 5, 0]


def test_blocks_of_postings_join(tmp_path: Path) -> None:
    for name, block in (("whole", 1000), ("parts", 7)):
        writer = PostingsWriter(tmp_path / name)
        for row in range(100):
            writer.add([row % 3, 3 + row % 5], [row + 1, 0.5])
        writer.finish(8, block=block)
    for name in ("starts.i64", "rows.i32", "weights.f32"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_building_leaves_no_temporary_files(tmp_path: Path) -> None:
    build(tmp_path, TEXTS)
    assert not list(tmp_path.glob("*.tmp"))


def test_a_language_is_decided_early_and_for_all_rows(tmp_path: Path) -> None:
    texts = ["Das ist der Weg und die Häuser", "Ein Haus mit den Häusern"] * 250
    texts += ["the houses of the street", "the house is that of the king"] * 500
    auto, german = build(tmp_path / "auto", texts), build(tmp_path / "german", texts, language="german")
    np.testing.assert_array_equal(auto.scores("Haus the"), german.scores("Haus the"))
    assert json.loads((tmp_path / "auto" / "lexical.json").read_text())["language"] == "german"


def test_terms_of_version_2_are_read_unless_their_script_has_a_segmenter_now(tmp_path: Path) -> None:
    build(tmp_path, TEXTS)
    path = tmp_path / "lexical.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "analyzer": 2}))
    assert len(LexicalIndex(tmp_path)) == len(TEXTS)


@pytest.mark.parametrize(("analyzer", "texts"), [(1, TEXTS), (None, TEXTS), (2, ["ภาษาไทย"])])
def test_terms_of_another_analyzer_are_refused(tmp_path: Path, analyzer: int | None, texts: list[str]) -> None:
    build(tmp_path, texts)
    path = tmp_path / "lexical.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "analyzer": analyzer}))
    with pytest.raises(UnsupportedFormatError, match="kserve-rag ingest"):
        LexicalIndex(tmp_path)


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


@pytest.mark.parametrize("texts", [TEXTS, ["one two", "two", "two three two", "one " * 400]])
@pytest.mark.parametrize("constants", [{}, {"k1": 0.0}, {"b": 0.0}, {"k1": 3.0, "b": 1.0}])
def test_an_index_within_a_mask_is_the_index_of_these_rows(
    tmp_path: Path, texts: list[str], constants: dict[str, float]
) -> None:
    index = build(tmp_path / "all", texts, language="english", **constants)
    for seen in itertools.product([False, True], repeat=len(texts)):
        mask = np.array(seen)
        narrowed, expected = (
            index.within(mask),
            build(tmp_path / str(seen), list(itertools.compress(texts, seen)), language="english", **constants),
        )
        for query in ("quick search", "the dog", "one two two", "unknown"):
            np.testing.assert_allclose(narrowed.scores(query)[mask], expected.scores(query), rtol=1e-6)
            assert not narrowed.scores(query)[~mask].any()
            assert narrowed.analyse(query).greatest == expected.analyse(query).greatest
            for place, row in enumerate(np.flatnonzero(mask).tolist()):
                assert narrowed.matched(query, row) == pytest.approx(expected.matched(query, place), rel=1e-6)


def test_an_index_of_an_earlier_release_cannot_be_narrowed(tmp_path: Path) -> None:
    build(tmp_path, TEXTS)
    (tmp_path / "lengths.i32").unlink()
    with pytest.raises(UnsupportedFormatError, match="kserve-rag ingest"):
        LexicalIndex(tmp_path).within(np.zeros(len(TEXTS), np.bool_))
