"""The contract of a source. Every registered source passes these tests, except for its declared gaps.

The source `NAME` needs an origin in `ORIGINS`: how a test fills it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Protocol

import pytest

from chassis.registry import Registry
from ingest.errors import SourceNotFoundError
from ingest.sources import Entry, Source, SourceType, open_source
from tests.contracts.exercises import installed
from tests.contracts.gaps import Gap, declare
from tests.contracts.test_loaders import run_contract
from tests.fakes.s3 import ACCESS_KEY, SECRET_KEY, s3_server
from tests.fakes.website import Website

SOURCES: Registry[SourceType] = Registry("kserve_rag.sources", "source")

GAPS = [
    Gap(
        "sitemap",
        "test_all_files_are_listed_by_name",
        SourceNotFoundError,
        "a sitemap that becomes empty must not empty the index",
    ),
    Gap("s3", "test_an_unreadable_file_is_reported", KeyError, "a server lists no object that it cannot send"),
    Gap(
        "links",
        "test_all_files_are_listed_by_name",
        SourceNotFoundError,
        "a list that becomes empty must not empty the index",
    ),
    Gap(
        "uploads",
        "test_a_missing_origin_is_an_error",
        pytest.fail.Exception,
        "an index without uploads has no folder for them",
    ),
]


class Origin(Protocol):
    """The origin of a source, filled by a test."""

    location: str
    environment: Mapping[str, str]
    """Settings of the source."""

    def put(self, name: str, content: bytes) -> None: ...
    def remove(self, name: str) -> None: ...
    def spoil(self, name: str) -> None:
        """Makes an entry unreadable."""

    def close(self) -> None: ...


class FolderOrigin:
    environment: ClassVar[Mapping[str, str]] = {}

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.location, self.files = str(folder), folder

    def put(self, name: str, content: bytes) -> None:
        self.files.mkdir(exist_ok=True)
        (self.files / name).write_bytes(content)

    def remove(self, name: str) -> None:
        (self.files / name).unlink()

    def spoil(self, name: str) -> None:
        self.remove(name)
        (self.files / name).symlink_to("nothing")

    def close(self) -> None: ...


class UploadsOrigin(FolderOrigin):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.location, self.files = f"uploads:{folder}", folder / "uploads"


class ListOrigin(FolderOrigin):
    """The exercise of CONTRIBUTING.md."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.location = f"list:{folder / 'list.txt'}"
        self._write()

    def put(self, name: str, content: bytes) -> None:
        super().put(name, content)
        self._write()

    def remove(self, name: str) -> None:
        super().remove(name)
        self._write()

    def spoil(self, name: str) -> None:
        (self.files / name).unlink()

    def _write(self) -> None:
        names = [f"{path.name}\n" for path in self.files.iterdir() if path.name != "list.txt"]
        (self.files / "list.txt").write_text("".join(names), encoding="utf-8")


class LinksOrigin:
    environment: ClassVar[Mapping[str, str]] = {
        "INGEST_WEB_PRIVATE_HOSTS": "127.0.0.1",
        "INGEST_WEB_REQUESTS_PER_S": "100000",
    }

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.list = folder / "links.txt"
        self.list.touch()
        self.location = f"links:{self.list}"
        self.site = Website()
        self.site.__enter__()

    def put(self, name: str, content: bytes) -> None:
        self.site.put(f"/{name}", content)
        self._write()

    def remove(self, name: str) -> None:
        del self.site.pages[f"/{name}"]
        self._write()

    def spoil(self, name: str) -> None:
        self.site.answer(f"/{name}", 503)

    def close(self) -> None:
        self.site.__exit__()

    def _write(self) -> None:
        self.list.write_text("".join(f"{self.site.url}{path}\n" for path in self.site.pages), encoding="utf-8")


class SitemapOrigin(LinksOrigin):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.location = f"sitemap:{self.site.url}/sitemap.xml"
        self._write()

    def _write(self) -> None:
        pages = (path for path in self.site.pages if path != "/sitemap.xml")
        entries = "".join(f"<url><loc>{self.site.url}{path}</loc></url>" for path in pages)
        self.site.put("/sitemap.xml", f"<urlset>{entries}</urlset>")


class S3Origin(FolderOrigin):
    """A bucket of rclone's S3 server, which is a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.location = f"s3://{folder.name}"
        self._server = contextlib.ExitStack()
        url = self._server.enter_context(s3_server(folder.parent))
        self.environment = {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_EC2_METADATA_DISABLED": "true",
            "INGEST_S3_ENDPOINT_URL": url,
            "INGEST_S3_PATH_STYLE": "true",
        }

    def spoil(self, name: str) -> None:
        self.remove(name)

    def close(self) -> None:
        self._server.close()


ORIGINS: dict[str, Callable[[Path], Origin]] = {
    "folder": FolderOrigin,
    "links": LinksOrigin,
    "list": ListOrigin,
    "s3": S3Origin,
    "sitemap": SitemapOrigin,
    "uploads": UploadsOrigin,
}


@pytest.fixture(params=SOURCES.names())
def name(request: pytest.FixtureRequest) -> str:
    declare(request, request.param, GAPS)
    return str(request.param)


@pytest.fixture
def origin(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Origin]:
    with contextlib.closing(ORIGINS[name](tmp_path / "origin")) as made:
        for variable, value in made.environment.items():
            monkeypatch.setenv(variable, value)
        yield made


@pytest.fixture
def source(origin: Origin, tmp_path: Path) -> Iterator[Source]:
    with contextlib.closing(open_source(origin.location, tmp_path / "cache")) as opened:
        yield opened


def entries(source: Source) -> dict[str, Entry]:
    """By the last part of their names."""
    return {entry.name.rsplit("/", 1)[-1]: entry for entry in source.list()}


def test_all_files_are_listed_by_name(origin: Origin, source: Source) -> None:
    assert entries(source) == {}
    for name in ("c.md", "a.md", "b.txt"):
        origin.put(name, name.encode())
    listed = list(source.list())
    assert [entry.name.rsplit("/", 1)[-1] for entry in listed] == ["a.md", "b.txt", "c.md"]
    assert [entry.problem for entry in listed] == [None] * 3
    assert len({entry.key for entry in listed}) == 3
    assert not [entry.name for entry in listed if entry.name.startswith(("/", "."))]


def test_the_content_is_fetched(origin: Origin, source: Source) -> None:
    origin.put("a.md", b"The kiln opens.")
    (entry,) = source.list()
    assert source.fetch(entry).read_bytes() == b"The kiln opens."
    assert source.fetch(entry).read_bytes() == b"The kiln opens."


def test_the_token_changes_exactly_when_the_content_does(origin: Origin, source: Source) -> None:
    def tokens() -> dict[str, str]:
        return {name: source.token(entry) for name, entry in entries(source).items()}

    origin.put("a.md", b"The kiln opens.")
    origin.put("b.md", b"The shelf is for pots.")
    before = tokens()
    assert before["a.md"] != before["b.md"]
    origin.put("a.md", b"The kiln opens.")
    assert tokens() == before
    origin.put("a.md", b"The kiln close.")  # as long as before
    after = tokens()
    assert after["a.md"] != before["a.md"]
    assert after["b.md"] == before["b.md"]
    origin.put("a.md", b"The kiln opens.")
    assert tokens() == before


def test_a_removed_file_disappears(origin: Origin, source: Source) -> None:
    origin.put("a.md", b"The kiln opens.")
    origin.put("b.md", b"The shelf is for pots.")
    origin.remove("a.md")
    assert list(entries(source)) == ["b.md"]


def test_an_unreadable_file_is_reported(origin: Origin, source: Source) -> None:
    origin.put("a.md", b"The kiln opens.")
    origin.put("b.md", b"The shelf is for pots.")
    origin.spoil("a.md")
    listed = entries(source)
    if listed["a.md"].problem is None:
        with pytest.raises(OSError, match="No such file"):
            source.token(listed["a.md"])
        with pytest.raises(OSError, match="No such file"):
            source.fetch(listed["a.md"]).read_bytes()
    assert source.fetch(listed["b.md"]).read_bytes() == b"The shelf is for pots."


def test_the_location_opens_it_again(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(open_source(origin.location.replace(f"{tmp_path}/", ""))) as source:
        origin.put("a.md", b"The kiln opens.")
        expected = list(source.list())
        location, prefix = source.location, source.prefix
    monkeypatch.chdir("/")
    with contextlib.closing(open_source(location)) as again:
        assert list(again.list()) == expected
        assert again.prefix == prefix != ""


def test_a_missing_origin_is_an_error(origin: Origin) -> None:
    with contextlib.closing(open_source(f"{origin.location}-none")) as missing, pytest.raises(SourceNotFoundError):
        list(missing.list())


def test_the_exercise_of_contributing(tmp_path: Path) -> None:
    with installed("Add a source", tmp_path) as folder:
        run_contract("test_sources.py", "list", folder)
