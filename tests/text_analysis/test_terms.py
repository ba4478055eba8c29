"""Terms of an index, and terms of a sentence."""

from __future__ import annotations

import pytest

from text_analysis.terms import IndexAnalyzer, SentenceAnalyzer


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Running RUNS", ["run", "run"]),
        ("VECTORSTORE_NUM_DOCS", ["vectorstor", "num", "doc"]),
        ("ﬁle Ⅳ Straße", ["file", "iv", "strass"]),
        ("東京タ2024年", ["東", "京", "タ", "東京", "京タ", "2024", "年"]),
        ("naïve東", ["naïv", "東"]),
        ("हिन्दी कुंजी", ["हिन्दी", "कुंजी"]),
        ("كَتَبَ שָׁלוֹם", ["كتب", "שלום"]),
        ("Μαΐου ΜΑΪ́ΟΥ", ["μαΐου", "μαΐου"]),
        ("ภาษาไทย2500คน", ["ภาษา", "ไทย", "2500", "คน"]),
        ("ខ្ញុំចូលចិត្តភាសាខ្មែរ។", ["ខ្ញុំ", "ចូលចិត្ត", "ភាសាខ្មែរ"]),
        ("ຂ້ອຍມັກພາສາລາວ", ["ຂ້ອຍ", "ມັກ", "ພາສາ", "ລາວ"]),
        ("မြန်မာဘာသာစကား", ["မြန်မာဘာသာ", "စကား"]),
        ("\x00 -- !", []),
    ],
)
def test_index_terms(text: str, terms: list[str]) -> None:
    assert IndexAnalyzer("english").terms(text) == terms


def test_forms_of_a_word_share_a_term() -> None:
    assert IndexAnalyzer("german").terms("Häuser") == IndexAnalyzer("german").terms("Häusern")


@pytest.mark.parametrize("unknown", ["klingon", "auto"])
def test_an_unknown_language_is_refused(unknown: str) -> None:
    with pytest.raises(ValueError, match=unknown):
        IndexAnalyzer(unknown)


@pytest.mark.parametrize(
    ("sentence", "terms", "content"),
    [
        ("The pumps, 1,200.5 of them", ["the", "pump", "12005", "of", "them"], ["pump", "12005"]),
        ("Error E08 at 40%", ["error", "e08", "at", "40", "percent"], ["error", "e08", "40", "percent"]),
        ("It isn't Bob's café", ["it", "bob", "cafe"], ["bob", "cafe"]),
        ("Three 東京都", ["3", "東京", "京都"], ["3", "東京", "京都"]),
        ("ภาษาไทย E08", ["ภาษา", "ไทย", "e08"], ["ภาษา", "ไทย", "e08"]),
        ("in IT", ["in", "it"], ["it"]),
        ("", [], []),
    ],
)
def test_sentence_terms(sentence: str, terms: list[str], content: list[str]) -> None:
    found = SentenceAnalyzer().analyse(sentence)
    assert found.terms == terms
    assert found.content_terms() == content


def test_a_negation_covers_the_next_content_words() -> None:
    assert SentenceAnalyzer().analyse("It does not cover the battery, pump, cable or hose").negated == {
        "cover",
        "batteri",
        "pump",
    }
