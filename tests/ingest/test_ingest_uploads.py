"""Uploaded files on disk, and their names."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.errors import UnsupportedFileError
from ingest.settings import IngestServerSettings
from ingest.sources.uploads import uploaded
from ingest.uploads import UploadFolder, safe_name, same_file


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("guide.md", "guide.md"),
        ("Größe & Gewicht (2).PDF", "Größe & Gewicht (2).PDF"),
        ("Gro\u0308ße.txt", "Größe.txt"),
        ("../../etc/passwd.txt", "passwd.txt"),
        ("/absolute/guide.md", "guide.md"),
        ("C:\\Users\\me\\guide.md", "guide.md"),
        ("..\\..\\guide.md", "guide.md"),
        ("a/../guide.md", "guide.md"),
        ("null\0byte.md", "nullbyte.md"),
        ("guide.pdf\0.md", "guide.pdf.md"),
        ("line\r\nbreak\tand\x1b[31m.md", "linebreakand[31m.md"),
        ("\u202egpj.exe\u202c.md", "gpj.exe.md"),
        ("zero\u200bwidth\ufeff.md", "zerowidth.md"),
        ("half\ud800pair.md", "halfpair.md"),
        (".htaccess.md", "htaccess.md"),
        ("  spaced \u00a0 out  .md", "spaced out.md"),
        ("...dots....md", "dots.md"),
        ("NUL.txt", "_NUL.txt"),
        ("com1.backup.md", "_com1.backup.md"),
        ("console.md", "console.md"),
        ("<script>alert(1)</script>.html", "script>.html"),
        ("<b>bold.html", "<b>bold.html"),
        ("-rf.md", "-rf.md"),
        ("名前.md", "名前.md"),
    ],
)
def test_names_are_made_safe(sent: str, kept: str) -> None:
    assert safe_name(sent) == kept


@pytest.mark.parametrize(
    "sent", ["", ".", "..", "/", ".md", "\u202e.pdf", "guide", "guide.", "guide.md/", "guide.exe", "a.md\u2024exe.sh"]
)
def test_unusable_names_are_refused(sent: str) -> None:
    with pytest.raises(UnsupportedFileError, match="are not read here"):
        safe_name(sent)


@pytest.mark.parametrize("letter", ["a", "é", "語", "😀"])
def test_long_names_are_cut_and_keep_their_suffix(letter: str) -> None:
    kept = safe_name(letter * 500 + ".markdown")
    assert kept.endswith(letter + ".markdown")
    assert len(kept.encode()) <= 180


def test_names_that_count_as_the_same() -> None:
    assert same_file("Straße.MD") == same_file("STRASSE.md")
    assert same_file("ﬁle.md") == same_file("File.md")
    assert same_file("guide.md") != same_file("guide.txt")


def test_leftovers_are_not_followed(tmp_path: Path) -> None:
    assert uploaded(tmp_path) == {}
    (tmp_path / "uploads" / ".staged-1").mkdir(parents=True)
    (tmp_path / "uploads" / "b.md").touch()
    (tmp_path / "uploads" / "a.md").touch()
    assert list(uploaded(tmp_path)) == ["uploads/a.md", "uploads/b.md"]


def test_staged_files_may_become_uploads_while_others_arrive(tmp_path: Path) -> None:
    folder = UploadFolder(tmp_path, IngestServerSettings(index_root=tmp_path, tokenizer=tmp_path))
    body = b'--b\r\nContent-Disposition: form-data; name="files"; filename="%s"\r\n\r\ntext\r\n--b--\r\n'

    def arrive(name: bytes, task_id: str, waiting: list[str]) -> list[str]:
        with folder.incoming("multipart/form-data; boundary=b") as receiver:
            receiver.write(body % name)
            receiver.finish()
            return folder.stage(receiver, task_id, waiting)

    class Waiting(list[str]):
        """The staged tasks; once they are read, a run ends."""

        def __iter__(self) -> Iterator[str]:
            yield from ("1",)
            keeping.start()
            kept.wait(0.2)

    def keep() -> None:
        folder.keep("1", ["uploads/a.md"])
        kept.set()

    kept, keeping = threading.Event(), threading.Thread(target=keep)
    arrive(b"a.md", "1", [])
    assert arrive(b"b.md", "2", Waiting()) == ["uploads/b.md"]
    keeping.join()
    assert list(folder.files()) == ["uploads/a.md"]
    assert list(folder.staged("2")) == ["uploads/b.md"]
