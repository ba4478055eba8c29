"""Every format against golden files, except PDF."""

from __future__ import annotations

import json
import unicodedata
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.loaders import LOADERS, Limits, Notice, ParsedDocument, SourceFile, load
from ingest.loaders.dates import date_metadata, parse_date
from ingest.loaders.document import normalise, one_line
from tests.ingest.golden import FILES, SOURCES, golden_path, loaded


def documents(path: Path, limits: Limits | None = None) -> list[ParsedDocument]:
    items = load(SourceFile(path, path.name), limits or Limits())
    return [item for item in items if isinstance(item, ParsedDocument)]


@pytest.mark.parametrize("source", SOURCES)
def test_every_format_gives_the_golden_documents(source: str) -> None:
    assert loaded(source) == json.loads(golden_path(source).read_text("utf-8"))


@pytest.mark.parametrize("source", SOURCES)
def test_structure_quotes_the_text(source: str) -> None:
    for item in load(SourceFile(FILES / source, source), Limits()):
        if not isinstance(item, ParsedDocument):
            continue
        sections = item.sections()
        assert "".join(item.text[section.start : section.end] for section in sections) == item.text
        assert unicodedata.is_normalized("NFC", item.text)
        assert all(section.start <= section.body <= section.end for section in sections)
        assert item.id == ParsedDocument(source, item.key, "other text").id


def test_sections_know_the_headings_above() -> None:
    (guide,) = documents(FILES / "guide.md")
    assert [section.path for section in guide.sections()] == [
        (),
        ("Kiln guide",),
        ("Kiln guide", "Loading"),
        ("Kiln guide", "Temperatures"),
        ("Kiln guide", "Cooling"),
        ("Kiln guide", "Cooling", "Cracks"),
    ]


def test_ids_differ_between_records_and_sources() -> None:
    first, second = documents(FILES / "news.csv")
    assert len({first.id, second.id, ParsedDocument("other.csv", first.key, first.text).id}) == 3


def test_a_record_keeps_its_id_when_it_moves(tmp_path: Path) -> None:
    lines = (FILES / "passages.jsonl").read_text("utf-8").splitlines()
    moved = tmp_path / "passages.jsonl"
    moved.write_text("\n".join(reversed(lines)), "utf-8")
    before = {item.key: item.id for item in documents(FILES / "passages.jsonl")}
    assert {item.key: item.id for item in documents(moved)} == before


def test_json_lines_with_the_same_id_stay_apart(tmp_path: Path) -> None:
    path = tmp_path / "twice.jsonl"
    path.write_text('{"_id": "a", "text": "one text"}\n{"_id": "a", "text": "another text"}\n', "utf-8")
    assert len({item.id for item in documents(path)}) == 2


@pytest.mark.parametrize(
    "records",
    [
        {"documents": [{"text": "Some words."}]},
        {"content": "Some words."},
        [{"page_content": "Some words."}],
        [{"body": "Some words."}],
    ],
)
def test_other_shapes_of_json(tmp_path: Path, records: object) -> None:
    path = tmp_path / "records.json"
    path.write_text(json.dumps(records), "utf-8")
    assert [item.text for item in documents(path)] == ["Some words."]


def test_json_values_that_no_index_stores_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "odd.json"
    path.write_text(
        '[{"_id": "\\ud800", "url": "\\udc00", "title": "A\\ud800b", "text": "Words \\ud83d.", "$where": "x", '
        '"chroma:document": "x", "big": 1' + "0" * 30 + ', "nan": NaN, "list": [1], "fine": 1.5}]',
        "utf-8",
    )
    (document,) = documents(path)
    assert document.metadata == {"fine": 1.5}
    assert (document.title, document.text, document.url) == ("Ab", "Words .", None)
    document.id.encode()


def test_csv_without_usual_names_takes_the_column_of_prose(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("nr;remark;code\n1;The pot fell off the shelf.;x1\n2;The wheel squeaks again today.;x2\n", "utf-8")
    first, second = documents(path)
    assert first.text == "The pot fell off the shelf."
    assert second.metadata == {"nr": "2", "code": "x2", "row": 2}


def test_csv_of_questions_and_answers_is_read_as_such(tmp_path: Path) -> None:
    path = tmp_path / "faq.csv"
    path.write_text("Question,Answer\nWhen is it open?,From nine to five.\n", "utf-8")
    (document,) = documents(path)
    assert (document.title, document.text) == ("When is it open?", "From nine to five.")


def test_csv_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "cafe.csv"
    path.write_bytes("title,text\nCafé,Das Café schließt früh.\n".encode("cp1252"))
    items = list(load(SourceFile(path, path.name), Limits()))
    assert [item.text for item in items] == ["not UTF-8: read as Windows-1252 (cp1252)", "Das Café schließt früh."]
    assert isinstance(items[0], Notice)
    path.write_bytes("title,text\nCafé,Das Café schließt früh.\n".encode("utf-16"))
    assert [item.text for item in documents(path)] == ["Das Café schließt früh."]


def test_html_reads_the_declared_charset(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_bytes('<meta charset="iso-8859-2"><p>Żółta łódź</p>'.encode("iso-8859-2"))
    assert documents(path)[0].text == "Żółta łódź"


def test_html_of_sidebars_only_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text('<body><div class="sidebar"><p>All there is.</p></div></body>', "utf-8")
    assert documents(path)[0].text == "All there is."


def test_html_layout_table_is_read_as_prose(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("<table><tr><td><h1>Head</h1><p>One.</p></td><td><p>Two.</p></td></tr></table>", "utf-8")
    assert documents(path)[0].text == "# Head\n\nOne.\n\nTwo."


def test_a_thematic_break_is_not_front_matter(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("---\nJust a line of words\n---\nMore.\n", "utf-8")
    assert "Just a line of words" in documents(path)[0].text


def test_a_file_without_suffix_is_text(tmp_path: Path) -> None:
    path = tmp_path / "LICENSE"
    path.write_text("Do as you like.", "utf-8")
    assert documents(path)[0].title == "LICENSE"


def test_suffixes_of_all_formats_are_listed() -> None:
    assert {".md", ".txt", ".html", ".pdf", ".csv", ".json", ".jsonl", ".xml"} <= set(LOADERS.suffixes)


# Text


@settings(deadline=None)
@given(st.text())
def test_normalised_text_is_clean_and_stays_so(text: str) -> None:
    clean = normalise(text)
    assert normalise(clean) == clean
    assert unicodedata.is_normalized("NFC", clean)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in clean)
    assert not any(line.endswith(" ") for line in clean.split("\n"))


@settings(deadline=None)
@given(st.text(min_size=200))
def test_one_line_is_short(text: str) -> None:
    assert len(one_line(text, 50)) <= 50
    assert "\n" not in one_line(text, 50)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("June 20, 2023", date(2023, 6, 20)),
        ("Tuesday, June 20th, 2023", date(2023, 6, 20)),
        ("20 June 2023", date(2023, 6, 20)),
        ("Sept. 5, 2023", date(2023, 9, 5)),
        ("{Date}2022-01-20T00:00:00.000-05:00", date(2022, 1, 20)),
        ("D:20231129214411", date(2023, 11, 29)),
        ("2023/06/20", date(2023, 6, 20)),
        ("06/07/2023", None),
        ("February 30, 2023", None),
        ("soon", None),
        ("", None),
    ],
)
def test_dates(text: str, expected: date | None) -> None:
    assert parse_date(text) == expected


def test_a_date_that_cannot_be_read_stays_as_written() -> None:
    assert date_metadata("06/07/2023") == {"date": "06/07/2023"}
    assert date_metadata(" ") == {}


# The real corpus


def test_press_releases(press_releases: Path) -> None:
    found, skipped = 0, []
    for path in sorted(press_releases.rglob(".content.xml")):
        try:
            (document,) = documents(path)
        except Exception as error:
            skipped.append(str(error))
            continue
        found += 1
        assert str(document.metadata["date"]).startswith(("2022-", "2023-"))
        assert "<" not in document.title
        assert "&lt;" not in document.text
    assert found == 99
    assert skipped == ["JCR page without a pageTitle"] * 26


def test_press_release_rows(press_releases: Path) -> None:
    rows = documents(press_releases / "HPE_2023_Press_Releases.csv")
    assert len(rows) >= 50
    assert rows[0].title == "HPE: Your strategic partner for AI"
    assert rows[0].metadata["date"] == "2023-06-20"
    assert sum(1 for row in rows if row.url and row.url.startswith("https://")) > 40
    assert not any("questions" in row.metadata for row in rows)
    (interview,) = documents(press_releases / "output.pdf")
    assert interview.metadata["pages"] == 4
