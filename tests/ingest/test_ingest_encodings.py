"""Encodings of text files, and the form of text that the embedder gets."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from embedder.tokens import compatible
from ingest.errors import SkippedFileError
from ingest.loaders import Limits, Notice, ParsedDocument, SourceFile, load
from ingest.loaders.document import normalise
from vectorstore.versions import content_key


def read(path: Path, content: bytes) -> tuple[list[ParsedDocument], list[str]]:
    path.write_bytes(content)
    items = list(load(SourceFile(path, path.name), Limits()))
    return (
        [item for item in items if isinstance(item, ParsedDocument)],
        [item.text for item in items if isinstance(item, Notice)],
    )


@pytest.mark.parametrize(
    ("label", "codec", "text"),
    [
        ("gb2312", "gb18030", "钥匙放在镕炉旁"),
        ("Shift_JIS", "cp932", "①髙島が点検します"),
        ("x-sjis", "cp932", "在庫は毎週月曜日に数えます"),
        ("euc-kr", "cp949", "뷁 창고의 열쇠"),
        ("ISO-8859-1", "cp1252", "“Schlüssel” – 5 €"),
        ("windows-1251", "cp1251", "Ключ в сейфе"),
        ("utf-16", "utf-8", "Ключ в сейфе"),  # the standard's answer to a label that cannot be true
        ("no-such-name", "utf-8", "Ключ в сейфе"),
    ],
)
def test_labels_mean_what_they_mean_on_the_web(tmp_path: Path, label: str, codec: str, text: str) -> None:
    page = f'<html><head><meta charset="{label}"></head><body><p>{text}</p></body></html>'
    (document,), notices = read(tmp_path / "page.html", page.encode(codec))
    assert (document.text, notices) == (text, [])


@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
@pytest.mark.parametrize(
    ("codec", "text", "name"),
    [
        ("cp1252", "“Die Brücke öffnet um fünf” – so stand es da", "Windows-1252 (cp1252)"),
        (
            "cp1250",
            "Brama jest zamykana o dziewiątej. Klucz leży w żółtym sejfie na piętrze, obok szafy na śruby",
            "cp1250",
        ),
        ("cp1251", "Ворота закрываются в девять часов вечера. Ключ лежит в синем сейфе", "cp1251"),
        ("cp932", "倉庫の在庫は毎週月曜日に数えます。鍵は青い箱にあります", "cp932"),
        ("euc_jp", "倉庫の在庫は毎週月曜日に数えます。鍵は青い箱にあります", "euc_jp"),
        ("cp949", "창고의 문은 저녁 아홉 시에 잠깁니다. 열쇠는 파란 금고에 있습니다", "cp949"),
        ("utf-16", "Die Brücke öffnet um fünf", None),
        ("utf-16-le", "Die Brücke öffnet um fünf", None),
        ("utf-16-be", "Die Brücke öffnet um fünf", None),
        ("iso2022_jp", "倉庫の在庫は毎週月曜日に数えます", None),
        ("utf-8-sig", "Die Brücke öffnet um fünf", None),
    ],
)
def test_undeclared_encodings_are_detected(
    tmp_path: Path, suffix: str, codec: str, text: str, name: str | None
) -> None:
    content = text if suffix == ".txt" else f'{{"title": "Gate", "text": "{text}"}}\n'
    (document,), notices = read(tmp_path / f"file{suffix}", content.encode(codec))
    assert document.text == text
    assert notices == ([f"not UTF-8: read as {name}"] if name else [])


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".html"])
def test_one_bad_byte_costs_one_character(tmp_path: Path, suffix: str) -> None:
    text = "La gare ferme à dix-huit heures, le café à midi#"
    content = f'{{"text": "{text}"}}' if suffix == ".jsonl" else text
    (document,), notices = read(tmp_path / f"file{suffix}", content.encode().replace(b"#", b"\xe9"))
    assert document.text == text.replace("#", "\ufffd")
    assert notices == ["1 bytes have no meaning in its encoding: \ufffd stands for each"]


def test_a_replacement_character_in_the_file_is_a_character(tmp_path: Path) -> None:
    (document,), notices = read(tmp_path / "file.txt", "It shows \ufffd for a damaged byte.".encode())
    assert (document.text, notices) == ("It shows \ufffd for a damaged byte.", [])


def test_an_encoding_that_cannot_be_recognised_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(SkippedFileError, match="its encoding cannot be recognised: save it as UTF-8"):
        read(tmp_path / "file.txt", "השער ננעל".encode("cp1255"))


def test_a_pdf_is_read_under_any_name(tmp_path: Path) -> None:
    sample = (Path(__file__).parents[1] / "contracts" / "samples" / "pdf.pdf").read_bytes()
    (document,), _ = read(tmp_path / "letter.txt", sample)
    assert "The kiln opens at first light." in document.text
    (text,), _ = read(tmp_path / "notes.txt", b"A file that begins with %PDF- is a PDF.")
    assert text.text == "A file that begins with %PDF- is a PDF."


def test_runs_of_marks_are_normalised_in_pieces() -> None:
    text = normalise("Kiln a" + "\u0301\u0323" * 50_000)
    assert unicodedata.is_normalized("NFC", text)
    assert max(map(len, text.split("\u034f"))) <= 40
    assert normalise(text) == text
    assert text.count("\u0301") + text.count("\u0323") + text.count("ạ") + text.count("á") >= 99_999


def test_the_embedder_gets_nfkc() -> None:
    assert compatible("The oﬃce ﬁle, № １２") == "The office file, No 12"
    assert content_key("model", "oﬃce") == content_key("model", "office") != content_key("model", "offices")
