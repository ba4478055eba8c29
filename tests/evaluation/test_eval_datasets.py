"""Reading datasets, and the errors for invalid ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluation import datasets, questions, retrieval
from evaluation.datasets import BUNDLED, Dataset
from evaluation.errors import DatasetError, UnknownDatasetError, WrongIndexError
from tests.evaluation.conftest import WriteSet
from vectorstore.wire import Passage, Span

SHARED = Path(__file__).parents[3] / "shared" / "data"


def passage(text: str = "Ducks swim.", **fields: object) -> Passage:
    values = {"score": 1.0, "chunk_id": "c", "document_id": "x", "index_version": "v", "similarity": 0.5}
    values |= {"lexical_score": 0.0, "support": 0.5, "collection": "default"}
    return Passage.model_validate({"text": text, "span": Span(start=0, end=len(text)), **values, **fields})


def test_the_bundled_set_is_right() -> None:
    docs = datasets.load(BUNDLED / "docs")
    assert len(docs.judged) == 62
    assert sum(question.answerable is False for question in docs.questions) == 8
    assert all(question.answers for question in docs.judged)
    assert docs.left_out == ()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the datasets of ../shared/data are not on this machine")
@pytest.mark.parametrize(
    ("name", "judged", "unanswerable"),
    [("scifact", 300, 0), ("squad2-dev", 2910, 3168), ("mtrag-un", 377, 97), ("hpe-press-qa", 131, 0)],
)
def test_real_sets_are_read_whole(name: str, judged: int, unanswerable: int) -> None:
    found = datasets.load(SHARED / name)
    assert len(found.judged) == judged
    assert sum(question.answerable is False for question in found.questions) == unanswerable
    assert found.conversational == (name == "mtrag-un")


@pytest.mark.parametrize(
    ("qrels", "file"),
    [
        ("query-id\tcorpus-id\tscore\nq1\td1\t2\n", "qrels/test.tsv"),
        ("q1\td1\t2\n", "qrels.tsv"),
        ("q1\t0\td1\t2\n", "qrels.tsv"),
        ("q1 0 d1 2\n", "qrels.tsv"),
    ],
)
def test_formats_of_judgements(write_set: WriteSet, qrels: str, file: str) -> None:
    (question,) = datasets.load(write_set(qrels=qrels, qrels_file=file)).judged
    assert question.relevant == {"d1": 2}


def test_histories_and_answers(write_set: WriteSet) -> None:
    metadata = {"history": [["user", "a"], {"role": "agent", "content": "b"}], "answers": ["x", ""]}
    queries = [
        {"_id": 1, "text": "c?", "metadata": metadata},
        {"_id": "u", "text": "d?", "metadata": {"unanswerable": True, "answers": ["y"]}},
        {"_id": "other split", "text": "e?"},
    ]
    found = datasets.load(write_set(queries=queries, qrels="1\td1\t1\n"))
    first, hopeless, unjudged = found.questions
    assert [(turn.role, turn.content) for turn in first.history] == [("user", "a"), ("assistant", "b")]
    assert first.answers == ("x",)
    assert (hopeless.answerable, hopeless.answers) == (False, ())
    assert unjudged.answerable is None
    assert [question.id for question in found.judged] == ["1"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"qrels": "q1\td9\t1\nq1\td1\t1\n"}, "qrels.tsv, line 1: there is no document 'd9' in corpus.jsonl"),
        ({"qrels": "q9\td1\t1\nq1\td1\t1\n"}, "qrels.tsv, line 1: there is no query 'q9' in queries.jsonl"),
        ({"qrels": "q1\td1\t1\nq1\td1\t2\n"}, "qrels.tsv, line 2: an earlier line has another grade for 'q1' and 'd1'"),
        ({"qrels": "q1\td1\t1\nq1\td1\tgood\n"}, "qrels.tsv, line 2: the grade 'good' is not a whole number"),
        ({"qrels": "q1\td1\n"}, "qrels.tsv, line 1: 2 columns"),
        (
            {"corpus": [{"_id": "d1", "text": "a"}, {"_id": "d1", "text": "b"}]},
            "line 2: line 1 has the id 'd1' too",
        ),
        ({"corpus": [{"_id": "d1", "text": "a"}, {"_id": "d2", "text": " "}]}, "line 2: the text of 'd2' is empty"),
        (
            {"corpus": [{"_id": "d1", "text": "a"}, {"text": "b"}]},
            'corpus.jsonl, line 2: the object has no "_id"',
        ),
        ({"corpus": [{"_id": "d1", "text": "a"}, "{"]}, "corpus.jsonl, line 2: not JSON"),
        (
            {"corpus": b'{"_id": "d1", "text": "a"}\n{"_id": "d2", "text": "\xe9"}\n'},
            "corpus.jsonl, line 2: byte 24 is not UTF-8",
        ),
        (
            {"queries": [{"_id": "q1", "text": "a", "metadata": {"history": ["b"]}}]},
            "queries.jsonl, line 1: a turn of the history",
        ),
        ({"qrels": "q1\td1\t0\n"}, "qrels.tsv judges no document of any question as relevant"),
    ],
)
def test_errors_name_their_line(write_set: WriteSet, changes: dict[str, object], told: str) -> None:
    with pytest.raises(DatasetError) as caught:
        datasets.load(write_set(**changes))
    assert told in caught.value.message


def test_missing_files_and_fields_are_errors(write_set: WriteSet) -> None:
    folder = write_set()
    (folder / "qrels.tsv").unlink()
    with pytest.raises(DatasetError, match=r"qrels\.tsv is missing"):
        datasets.load(folder)


def test_many_problems_are_counted_and_the_first_listed(write_set: WriteSet) -> None:
    corpus = [{"_id": "d1", "text": "a"}, *({"_id": f"e{number}", "text": ""} for number in range(30))]
    with pytest.raises(DatasetError) as caught:
        datasets.load(write_set(corpus=corpus))
    assert "30 problems" in caught.value.message
    assert "and 20 more" in caught.value.message
    assert "--skip-bad" in caught.value.message


def test_invalid_records_can_be_left_out(write_set: WriteSet, tmp_path: Path) -> None:
    corpus = [{"_id": "d1", "text": "a"}, {"_id": "d2", "text": ""}, {"_id": "d1", "text": "other"}]
    found = datasets.load(write_set(corpus=corpus, qrels="q1\td1\t1\nq1\td2\t1\n"), skip_bad=tmp_path / "copy")
    assert found.corpus == tmp_path / "copy" / "corpus.jsonl"
    assert [json.loads(line)["_id"] for line in found.corpus.read_text().splitlines()] == ["d1"]
    assert found.judged[0].relevant == {"d1": 1}
    assert len(found.left_out) == 3


def test_a_valid_corpus_is_not_copied(write_set: WriteSet, tmp_path: Path) -> None:
    folder = write_set()
    assert datasets.load(folder, skip_bad=tmp_path / "copy").corpus == folder / "corpus.jsonl"
    assert not (tmp_path / "copy").exists()


def test_duplicate_documents_are_interchangeable(write_set: WriteSet) -> None:
    long = "word " * 100
    corpus = [{"_id": "d1", "title": "A", "text": long}, {"_id": "d2", "title": "B", "text": f"{long}\n"}]
    corpus += [{"_id": "d3", "title": "A", "text": "N/A"}, {"_id": "d4", "title": "B", "text": "N/A"}]
    assert datasets.load(write_set(corpus=corpus)).twins == {"d1": ("d1", "d2"), "d2": ("d1", "d2")}


def test_a_byte_order_mark_is_accepted(write_set: WriteSet) -> None:
    assert datasets.load(write_set(corpus=b'\xef\xbb\xbf{"_id": "d1", "text": "a"}\n')).documents == {"d1": "d1"}


def test_an_index_of_other_documents_is_an_error(write_set: WriteSet) -> None:
    found = datasets.load(write_set())
    retrieval.check_index(found, {"q1": ["x", "d1"]})
    retrieval.check_index(found, {"q1": []})
    with pytest.raises(WrongIndexError, match="another index"):
        retrieval.check_index(found, {"q1": ["x", "y"]})


def test_names_are_found_bundled_in_the_data_and_as_paths(write_set: WriteSet, tmp_path: Path) -> None:
    folder = write_set(name="ducks")
    assert datasets.find("docs", []) == BUNDLED / "docs"
    assert datasets.find("ducks", [tmp_path]) == folder
    assert datasets.find(str(folder), []) == folder
    assert datasets.available([tmp_path]) == ["docs", "ducks"]
    (tmp_path / "birds").mkdir()
    nested = folder.rename(tmp_path / "birds" / "ducks")
    assert datasets.available([tmp_path]) == ["docs", "birds/ducks"]
    assert datasets.find("birds/ducks", [tmp_path]) == nested
    with pytest.raises(UnknownDatasetError, match="Known: docs, birds/ducks"):
        datasets.find("geese", [tmp_path])


def test_samples_repeat_and_hold_both_kinds(write_set: WriteSet) -> None:
    queries = [{"_id": f"a{n}", "text": "?", "metadata": {"answers": ["x"]}} for n in range(50)]
    queries += [{"_id": f"u{n}", "text": "?", "metadata": {"unanswerable": True}} for n in range(3)]
    found = datasets.load(write_set(queries=queries, qrels="".join(f"a{n}\td1\t1\n" for n in range(50))))
    sample = found.sample(20, 1)
    assert sample == found.sample(20, 1)
    assert sample != found.sample(20, 2)
    assert len(sample) == 20
    assert sum(question.answerable is False for question in sample) == 3
    assert len(found.sample(1000, 1)) == 53


# A user's own questions


def load_questions(tmp_path: Path, content: str, name: str = "mine.csv") -> Dataset:
    (tmp_path / name).write_text(content, encoding="utf-8")
    return questions.load(tmp_path / name)


def test_a_csv_of_questions(tmp_path: Path) -> None:
    found = load_questions(
        tmp_path, "Question;Document;Answer\nWho swims?;ducks.md|geese.md;\nHow far?;;3 km|3,000 m\nWhy?;;\n"
    )
    swims, far, why = found.questions
    assert swims.relevant == {"ducks.md": 1, "geese.md": 1}
    assert far.relevant == {questions.ANSWER: 1}
    assert far.answers == ("3 km", "3,000 m")
    assert why.answerable is False
    assert found.name_of(passage(source="birds/Ducks.md"), swims) == "ducks.md"
    assert found.name_of(passage(source="birds/swans.md"), swims) == "x"
    assert found.name_of(passage("It is 3 km away."), far) == questions.ANSWER
    assert found.name_of(passage("It is 33 km away."), far) == "x"


def test_cells_of_a_csv_may_hold_ends_of_lines_of_any_kind(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_bytes(b'Question,Document,Content\r\nWho swims?,ducks.md,"a\rb\r\nc\nd"\r\n')
    (question,) = questions.load(tmp_path / "mine.csv").questions
    assert question.relevant == {"ducks.md": 1}


def test_json_lines_of_questions(tmp_path: Path) -> None:
    found = load_questions(tmp_path, '{"query": "Who?", "documents": ["a", "b"], "answers": ["me"]}\n', "mine.jsonl")
    (question,) = found.questions
    assert (question.relevant, question.answers) == ({"a": 1, "b": 1}, ("me",))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("question,document\nWho?,a\nWho?,b\n", "line 3: an earlier line has the same question"),
        ("question,document\n,b\n", "line 2: no question"),
        ("frage,document\nWer?,b\n", "no question (a column"),
        ("question,document\nWho?,\n", "no question names a document or an answer"),
        ("question,document\nWho?," + "a" * 200_000 + "\n", "not CSV (field larger than field limit"),
    ],
)
def test_invalid_questions_are_errors(tmp_path: Path, content: str, told: str) -> None:
    with pytest.raises(DatasetError) as caught:
        load_questions(tmp_path, content)
    assert told in caught.value.message


def test_a_missing_file_of_questions(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        questions.load(tmp_path / "none.csv")
