"""Files that cannot be used: each is skipped with an understandable reason and does no harm."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas

from ingest.errors import SkippedFileError
from ingest.loaders import Limits, ParsedDocument, SourceFile, load


def reason(path: Path, limits: Limits | None = None) -> str:
    with pytest.raises(SkippedFileError) as caught:
        list(load(SourceFile(path, path.name), limits or Limits()))
    return str(caught.value)


def blank_pdf(**options: object) -> bytes:
    stream = io.BytesIO()
    canvas = Canvas(stream, **options)
    canvas.drawString(50, 50, "Words behind a lock.")
    canvas.save()
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("invisible.txt", "\u200b\u200b".encode(), "holds no text"),
        ("comment.md", b"<!-- nothing else -->\n", "holds no text"),
        ("image.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary, not text"),
        ("broken16.txt", b"\xff\xfea\0b", "begins as utf-16 but is not"),
        (
            "script.html",
            b"<html><body><script>var a;</script></body></html>",
            "holds no text besides links and headings",
        ),
        ("fake.pdf", b"<html>Not found</html>", "not a PDF: no %PDF- header"),
        ("cut.pdf", blank_pdf()[:300], "broken PDF"),
        ("locked.pdf", blank_pdf(encrypt=StandardEncryption("secret", strength=128)), "encrypted: needs a password"),
        ("broken.json", b'{"a": [1, 2', "invalid JSON: Expecting ',' delimiter in line 1, column 12"),
        ("deep.json", b"[" * 200_000, "invalid JSON: nested too deep"),
        ("number.json", b"42", "JSON without records"),
        ("words.json", b'{"a": "b"}', "holds no text in its fields ('a'): name one of them 'text' or 'content'"),
        ("texts.jsonl", b"one\ntwo\n", "no line is a JSON object (first: line 1)"),
        ("broken.xml", b"<jcr:root>", "invalid XML"),
        ("other.xml", b"<feed><entry/></feed>", "holds no text: the root element is 'feed'"),
        ("notes.enex", b"<notes/>", "not an export of Evernote: it does not begin with <en-export>"),
        ("cut.enex", b"<en-export><note><title>A", "invalid XML"),
        ("header.csv", b"name,remark\n", "holds no text"),
        ("qrels.tsv", b"query-id\tcorpus-id\tscore\nq1\td1\t1\n", "relevance judgements"),
    ],
)
def test_bad_files_are_skipped_with_a_reason(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert reason(path).startswith(expected)


def test_pdf_without_text_layer(tmp_path: Path) -> None:
    stream = io.BytesIO()
    canvas = Canvas(stream)
    canvas.rect(10, 10, 50, 50)
    canvas.save()
    path = tmp_path / "scan.pdf"
    path.write_bytes(stream.getvalue())
    assert reason(path) == "holds no text: scanned pages? Run text recognition (OCR) on it first"


def test_pdf_locked_against_changes_only_is_read(tmp_path: Path) -> None:
    path = tmp_path / "owner.pdf"
    path.write_bytes(blank_pdf(encrypt=StandardEncryption("", ownerPassword="secret", strength=128)))
    (document,) = load(SourceFile(path, path.name), Limits())
    assert isinstance(document, ParsedDocument)
    assert document.text == "Words behind a lock."


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE r [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE r [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE r SYSTEM "http://127.0.0.1:1/evil.dtd" [<!ENTITY % a SYSTEM "http://127.0.0.1:1/a"> %a;]>',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_with_entities_is_refused_unread(tmp_path: Path, declaration: str, encoding: str) -> None:
    path = tmp_path / "bomb.xml"
    xml = f'<?xml version="1.0" encoding="{encoding}"?>{declaration}<r x="&b;">&b;</r>'
    path.write_bytes(xml.encode(encoding))
    assert reason(path) == "XML with a document type declaration: refused, it may define entities"


JCR = (
    '<jcr:root xmlns:jcr="http://www.jcp.org/jcr/1.0"><jcr:content {title}><textonlycomponent textOnly="{text}"/>'
    "</jcr:content></jcr:root>"
)


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        (JCR.format(title="", text="Words"), "JCR page without a pageTitle"),
        (JCR.format(title='pageTitle="T"', text=" "), "JCR page without text"),
        (JCR.format(title='pageTitle="T"', text="&lt;script>x&lt;/script>"), "JCR page without text"),
        ('<jcr:root xmlns:jcr="http://www.jcp.org/jcr/1.0"/>', "JCR node without jcr:content: a folder, not a page"),
    ],
)
def test_jcr_pages_without_content(tmp_path: Path, xml: str, expected: str) -> None:
    path = tmp_path / ".content.xml"
    path.write_text(xml, "utf-8")
    assert reason(path) == expected


def test_html_nested_beyond_the_parser_is_skipped_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "deep.html"
    path.write_text("<div>" * 50_000 + "words" + "</div>" * 50_000, "utf-8")
    assert reason(path) == "its elements are nested deeper than the parser reads"


def test_a_line_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    rows = tmp_path / "large.jsonl"
    rows.write_text('{"text": "word"}\n', "utf-8")
    assert "a line is longer than" in reason(rows, Limits(max_text_chars=5))


def test_too_many_pages_are_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    canvas = Canvas(stream)
    for _ in range(3):
        canvas.drawString(50, 50, "Words.")
        canvas.showPage()
    canvas.save()
    path = tmp_path / "pages.pdf"
    path.write_bytes(stream.getvalue())
    assert reason(path, Limits(max_pages=2)) == "3 pages, more than 2 (INGEST_MAX_PAGES)"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "private.txt"
    path.write_text("words", "utf-8")
    path.chmod(0)
    assert reason(path) == "cannot be read: Permission denied"
