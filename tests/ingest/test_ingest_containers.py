"""E-books, OpenDocument, mail, notebooks, RTF, and files inside files."""

from __future__ import annotations

import io
import json
import zipfile
from email.message import EmailMessage
from pathlib import Path

import pytest

from ingest.errors import SkippedFileError
from ingest.loaders import Limits, Notice, ParsedDocument, SourceFile, load

OFFICE = "urn:oasis:names:tc:opendocument:xmlns"
NAMES = " ".join(
    f'xmlns:{prefix}="{OFFICE}:{name}:1.0"'
    for prefix, name in {
        "office": "office",
        "text": "text",
        "table": "table",
        "draw": "drawing",
        "style": "style",
        "presentation": "presentation",
        "manifest": "manifest",
        "meta": "meta",
    }.items()
)


def packed(parts: dict[str, str | bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return stream.getvalue()


def read(
    tmp_path: Path, name: str, content: bytes, limits: Limits | None = None
) -> tuple[list[ParsedDocument], list[str]]:
    path = tmp_path / name
    path.write_bytes(content)
    items = list(load(SourceFile(path, name), limits or Limits()))
    documents = [item for item in items if isinstance(item, ParsedDocument)]
    assert all(document.source == name for document in documents)
    assert len({document.id for document in documents}) == len(documents)
    return documents, [item.text for item in items if isinstance(item, Notice)]


def reason(tmp_path: Path, name: str, content: bytes, limits: Limits | None = None) -> str:
    with pytest.raises(SkippedFileError) as caught:
        read(tmp_path, name, content, limits)
    return str(caught.value)


# E-books


def book(parts: dict[str, str | bytes]) -> bytes:
    return packed(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
            '<rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>',
            "OEBPS/book.opf": '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">'
            "<metadata><dc:title>Kilns</dc:title><dc:creator>A. Potter</dc:creator><dc:date>2024-05-06</dc:date>"
            "</metadata>"
            '<manifest><item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
            '<item id="two" href="b%20two.xhtml" media-type="application/xhtml+xml"/>'
            '<item id="one" href="text/one.xhtml" media-type="application/xhtml+xml"/></manifest>'
            '<spine><itemref idref="nav"/><itemref idref="one"/><itemref idref="two"/></spine></package>',
            "OEBPS/nav.xhtml": "<html><body><ol><li>Contents</li></ol></body></html>",
            "OEBPS/b two.xhtml": "<html><body><h1>Heat</h1><p>Hot.</p></body></html>",
            "OEBPS/text/one.xhtml": '<?xml version="1.0"?><!DOCTYPE html><html><head><title/></head><body>'
            "<h1>Opening</h1>"
            '<p>At first light<a epub:type="noteref" href="#n1">1</a>.</p></body></html>',
            **parts,
        }
    )


def test_an_e_book_is_read_in_the_order_of_its_spine(tmp_path: Path) -> None:
    ((found,), notices) = read(tmp_path, "kilns.epub", book({}))
    assert found.text == "# Opening\n\nAt first light.\n\n# Heat\n\nHot."
    assert found.title == "Kilns"
    assert (found.metadata["author"], found.metadata["date"]) == ("A. Potter", "2024-05-06")
    assert not notices


def test_a_protected_e_book_is_skipped(tmp_path: Path) -> None:
    locked = '<e xmlns:enc="http://www.w3.org/2001/04/xmlenc#"><enc:CipherReference URI="OEBPS/text/one.xhtml"/></e>'
    content = book({"META-INF/encryption.xml": locked})
    assert reason(tmp_path, "kilns.epub", content) == "encrypted: protected against copying (DRM)"
    fonts = locked.replace("text/one.xhtml", "font.otf")
    assert read(tmp_path, "kilns.epub", book({"META-INF/encryption.xml": fonts}))[0]


# OpenDocument


def opendocument(kind: str, body: str, parts: dict[str, str | bytes]) -> bytes:
    return packed(
        {
            "mimetype": f"application/vnd.oasis.opendocument.{kind}",
            "content.xml": f"<office:document-content {NAMES}><office:automatic-styles>"
            '<text:list-style style:name="L1"><text:list-level-style-number text:level="1"/></text:list-style>'
            f"</office:automatic-styles><office:body>{body}</office:body></office:document-content>",
            **parts,
        }
    )


def test_a_text_of_libreoffice(tmp_path: Path) -> None:
    body = """<office:text><text:tracked-changes><text:p>Deleted.</text:p></text:tracked-changes>
      <text:table-of-content><text:p>Opening 1</text:p></text:table-of-content>
      <text:h text:outline-level="1">Opening</text:h>
      <text:p>At <text:span>first</text:span><text:s/>light<text:note><text:note-citation>1</text:note-citation>
        <text:note-body><text:p>In summer.</text:p></text:note-body></text:note>, daily.</text:p>
      <text:list text:style-name="L1"><text:list-item><text:p>Fill</text:p>
        <text:list><text:list-item><text:p>Slowly</text:p></text:list-item></text:list></text:list-item></text:list>
      <text:list><text:list-item><text:p>Close</text:p></text:list-item></text:list>
      <table:table><table:table-header-rows><table:table-row><table:table-cell><text:p>Zone</text:p></table:table-cell>
        <table:table-cell><text:p>Peak</text:p></table:table-cell></table:table-row></table:table-header-rows>
        <table:table-row><table:table-cell><text:p>A</text:p></table:table-cell>
        <table:table-cell table:number-rows-spanned="2"><text:p>1,050</text:p></table:table-cell></table:table-row>
        <table:table-row><table:table-cell><text:p>B</text:p></table:table-cell><table:covered-table-cell/>
        </table:table-row></table:table>
      <text:p><draw:frame><draw:text-box><text:p>In a box.</text:p></draw:text-box></draw:frame></text:p>
      </office:text>"""
    styles = (
        f"<office:document-styles {NAMES}><style:header><text:p>Pottery Ltd</text:p></style:header>"
        "<style:footer><text:p>Page <text:page-number>3</text:page-number></text:p></style:footer>"
        "</office:document-styles>"
    )
    title = '<dc:title xmlns:dc="http://purl.org/dc/elements/1.1/">Handbook</dc:title>'
    meta = f"<office:document-meta {NAMES}>{title}</office:document-meta>"
    content = opendocument("text", body, {"styles.xml": styles, "meta.xml": meta})
    ((found,), _) = read(tmp_path, "handbook.odt", content)
    assert found.text == (
        "Pottery Ltd\n\n# Opening\n\nAt first light, daily.\n\n1. Fill\n  1. Slowly\n- Close\n\n"
        "| Zone | Peak |\n| --- | --- |\n| A | 1,050 |\n| B | 1,050 |\n\nIn a box.\n\n1. In summer."
    )
    assert found.title == "Handbook"
    assert [block.header for block in found.blocks] == ["Zone | Peak"]


def test_slides_of_libreoffice(tmp_path: Path) -> None:
    body = """<office:presentation><draw:page><draw:frame presentation:class="title"><draw:text-box>
      <text:p>Plan</text:p></draw:text-box></draw:frame><draw:frame><draw:text-box><text:list><text:list-item><text:p>Early</text:p>
      </text:list-item></text:list></draw:text-box></draw:frame><presentation:notes><draw:frame><draw:text-box>
      <text:p>Say why.</text:p></draw:text-box></draw:frame></presentation:notes></draw:page></office:presentation>"""
    ((found,), _) = read(tmp_path, "plan.odp", opendocument("presentation", body, {}))
    assert (found.title, found.text) == ("Plan", "# Slide 1: Plan\n\n- Early\n\nNotes: Say why.")


def test_an_encrypted_opendocument_is_skipped(tmp_path: Path) -> None:
    manifest = f"<manifest:manifest {NAMES}><manifest:encryption-data/></manifest:manifest>"
    content = opendocument("text", "", {"META-INF/manifest.xml": manifest})
    assert reason(tmp_path, "a.odt", content) == "encrypted: needs a password"


# Mail


def message(subject: str, text: str, **attachments: bytes) -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"], mail["From"], mail["Date"] = subject, "A <a@example.org>", "Mon, 6 May 2024 10:00:00 +0200"
    mail.set_content(text)
    for name, data in attachments.items():
        mail.add_attachment(data, "application", "octet-stream", filename=name.replace("_", "."))
    return mail


def test_a_message_and_its_attachments(tmp_path: Path) -> None:
    mail = message("Früh", "The kiln opens.", prices_csv=b"Zone,Price\nA,4\n", photo_png=b"\x89PNG")
    documents, notices = read(tmp_path, "mail.eml", mail.as_bytes())
    assert [(document.key, document.title, document.text) for document in documents] == [
        ("", "Früh", "From: A <a@example.org>\nDate: Mon, 06 May 2024 10:00:00 +0200\n\nThe kiln opens."),
        ("prices.csv/rows 1", "prices", "Zone: A; Price: 4"),
    ]
    assert documents[0].metadata["date"] == "2024-05-06"
    assert documents[1].metadata["file"] == "prices.csv"
    assert notices == ["1 files inside are of types that are not read: 1 .png"]


def test_a_message_in_html_only(tmp_path: Path) -> None:
    mail = message("Prices", "x")
    mail.set_content("<ul><li>Four</li><li>Five</li></ul>", subtype="html", charset="iso-8859-1")
    assert read(tmp_path, "mail.eml", mail.as_bytes())[0][0].text.endswith("\n\n- Four\n- Five")


def test_a_mailbox(tmp_path: Path) -> None:
    first, second = message("One", "First."), message("Two", "Second.")
    first["Message-ID"] = second["Message-ID"] = "<same@example.org>"
    content = b"".join(
        b"From a@example.org Mon May  6 10:00:00 2024\n" + mail.as_bytes() + b"\n" for mail in (first, second)
    )
    documents, _ = read(tmp_path, "all.mbox", content)
    assert [(document.key, document.title) for document in documents] == [("<same@example.org>", "One"), ("#2", "Two")]


def test_messages_in_messages_end(tmp_path: Path) -> None:
    mail = message("0", "Innermost.")
    for number in range(1, 6):
        outer = message(str(number), "Around.")
        outer.add_attachment(mail)
        mail = outer
    documents, notices = read(tmp_path, "mail.eml", mail.as_bytes())
    assert [document.title for document in documents] == ["5", "4", "3", "2"]
    assert len(notices) == 1
    assert notices[0].endswith("more than 3 levels of files inside files")


# Notebooks and RTF


def test_a_notebook(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Heat\n", "How hot it gets."]},
        {
            "cell_type": "code",
            "source": "peak()",
            "outputs": [
                {"output_type": "stream", "text": ["\x1b[31mhot\x1b[0m\n"]},
                {"output_type": "display_data", "data": {"image/png": "AAAA", "text/plain": ["1050"]}},
            ],
        },
    ]
    notebook = {"cells": cells, "metadata": {"kernelspec": {"language": "python"}}, "nbformat": 4}
    ((found,), _) = read(tmp_path, "heat.ipynb", json.dumps(notebook).encode())
    assert found.text == ("# Heat\nHow hot it gets.\n\n```python\npeak()\n```\n\n```\nhot\n```\n\n```\n1050\n```")
    assert (found.title, len(found.blocks)) == ("Heat", 3)
    assert reason(tmp_path, "a.ipynb", b'{"cells": [1]}').startswith("not a notebook")


def test_rtf(tmp_path: Path) -> None:
    content = (
        rb"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 Arial;}}{\info{\title Kiln rules}}\pard Fr\'fch \u8364?5\par"
        rb"{\pict\pngblip " + b"89504e47" * 500 + rb"}\trowd Zone\cell Price\cell\row Last.}"
    )
    ((found,), _) = read(tmp_path, "rules.rtf", content)
    assert (found.title, found.text) == ("Kiln rules", "Früh €5\nZone|Price|\nLast.")
    assert read(tmp_path, "old.doc", content)[0][0].text == found.text
    assert reason(tmp_path, "a.rtf", b"plain").startswith("not RTF")


# Archives


def test_an_archive(tmp_path: Path) -> None:
    content = packed(
        {"guide/a.md": "# A\n\nWords.", "guide/.hidden.md": "x", "LICENSE": "More.", "bad.docx": "x", "c.png": b"x"}
    )
    documents, notices = read(tmp_path, "all.zip", content)
    assert [(document.key, document.title, document.metadata) for document in documents] == [
        ("LICENSE", "LICENSE", {"file": "LICENSE"}),
        ("guide/a.md", "A", {"file": "guide/a.md"}),
    ]
    assert notices == [
        "bad.docx: broken Word document: File is not a zip file",
        "1 files inside are of types that are not read: 1 .png",
    ]


def test_what_an_archive_unpacks_to_is_bounded_over_all_levels(tmp_path: Path) -> None:
    inner = packed({"a.txt": b"words " * 200})
    content = packed({"1.zip": inner, "2.zip": inner, "b.txt": "More."})
    documents, notices = read(tmp_path, "all.zip", content, Limits(max_unpacked_bytes=len(inner) * 2 + 2_000))
    assert [document.key for document in documents] == ["1.zip/a.txt", "b.txt"]
    assert notices == [f"2.zip: unpacks to more than {len(inner) * 2 + 2_000:,} bytes (INGEST_MAX_UNPACKED_BYTES)"]
    assert reason(tmp_path, "all.zip", content, Limits(max_unpacked_bytes=10)).startswith("unpacks to more than 10")


def test_files_with_the_same_name_in_an_archive_stay_apart(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as twice:
        twice.writestr("a.txt", "One.")
        with pytest.warns(UserWarning, match="Duplicate name"):
            twice.writestr("a.txt", "Two.")
    documents, _ = read(tmp_path, "all.zip", stream.getvalue())
    assert [(document.key, document.text) for document in documents] == [("a.txt", "One."), ("a.txt (2)", "Two.")]
