"""Which files of folders are listed, and under which names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ingest.errors import SourceNotFoundError
from ingest.sources import list_files, open_source


def listed(*paths: Path) -> tuple[list[str], dict[str, str]]:
    listing = list_files(open_source(path) for path in paths)
    return [file.name for file in listing.files], listing.skipped


def test_folders_are_read_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.md", "a/z.md", "a/b/c.txt", ".git/config.md", "a/.hidden.md", "a/.content.xml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("words", "utf-8")
    assert listed(tmp_path) == (["a/.content.xml", "a/b/c.txt", "a/z.md", "b.md"], {})
    assert listed(tmp_path / "b.md") == (["b.md"], {})


def test_links_stay_inside_the_folder(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "..data").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.md").write_text("secret", "utf-8")
    (root / "..data" / "page.md").write_text("words", "utf-8")
    (root / "page.md").symlink_to(root / "..data" / "page.md")
    (root / "leak.md").symlink_to(outside / "secret.md")
    (root / "loop").symlink_to(root)
    (root / "gone.md").symlink_to(root / "nothing")
    os.mkfifo(root / "pipe.md")
    assert listed(root) == (
        ["page.md"],
        {
            "gone.md": "broken symbolic link",
            "leak.md": "symbolic link that leaves the folder: not followed",
            "loop": "symbolic link to a folder: not followed",
            "pipe.md": "not a regular file",
        },
    )


def test_ignore_file_names_what_is_not_indexed(tmp_path: Path) -> None:
    for name in ("a.md", "drafts/b.md", "drafts/keep.md", "sub/drafts/c.md", "sub/old.tmp.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".ragignore").write_text("# unfinished\n/drafts/*\n!/drafts/keep.md\n*.tmp.md\n", "utf-8")
    assert listed(tmp_path) == (["a.md", "drafts/keep.md", "sub/drafts/c.md"], {})
    (tmp_path / ".ragignore").write_text("/drafts/\n!/drafts/keep.md\n", "utf-8")
    assert listed(tmp_path)[0] == ["a.md", "sub/drafts/c.md", "sub/old.tmp.md"]


@pytest.mark.parametrize(
    ("make", "message"), [(lambda file: file.write_text("!\n"), "'!'"), (Path.mkdir, "cannot be read")]
)
def test_unreadable_ignore_file_is_an_error(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    (tmp_path / "a.md").touch()
    make(tmp_path / ".ragignore")
    with pytest.raises(SourceNotFoundError, match=rf"\.ragignore: .*{message}"):
        listed(tmp_path)


def test_several_folders_with_the_same_names_stay_apart(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "page.md").write_text(folder, "utf-8")
    assert listed(tmp_path / "one", tmp_path / "two", tmp_path / "one") == (["page.md", "two/page.md"], {})


def test_names_of_uploads_are_reserved(tmp_path: Path) -> None:
    for folder in ("docs/uploads", "uploads/uploads"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.md").touch()
    assert listed(tmp_path / "docs", tmp_path / "uploads") == (["docs/uploads/a.md", "uploads~2/uploads/a.md"], {})


def test_folders_nested_too_deep_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.md").touch()
    monkeypatch.chdir(tmp_path)
    for _ in range(250):
        Path("d").mkdir()
        monkeypatch.chdir("d")
    names, skipped = listed(tmp_path)
    assert names == ["page.md"]
    assert list(skipped.values()) == ["folder more than 200 levels deep: not read"]
