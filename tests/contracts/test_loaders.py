"""The contract of a loader. Every registered loader passes these tests, except for its declared gaps.

The loader `NAME` needs a sample in `samples/NAME.SUFFIX` that holds the sentence `SENTENCE`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from ingest.chunking import ChunkedDocument
from ingest.errors import SkippedFileError
from ingest.loaders import Limits, Loaders, LoaderType, Notice, ParsedDocument, SourceFile
from ingest.loaders.encodings import SNIFFED_BYTES
from ingest.parser import Parser
from ingest.settings import IngestSettings
from tests.contracts.exercises import installed
from tests.contracts.gaps import Gap, declare

SAMPLES = Path(__file__).with_name("samples")
SENTENCE = "The kiln opens at first light."
LOADERS = Loaders()

_LIKE_TEXT = "any text may have this format, so that files without a known suffix are read as plain text"
GAPS = [
    *(
        Gap(name, "test_it_recognises_its_format", AssertionError, _LIKE_TEXT)
        for name in ("csv", "markdown", "mdx", "rst", "text", "yaml")
    ),
    *(
        Gap(
            name,
            "test_a_text_beyond_the_limit_is_skipped",
            AssertionError,
            "a notice names the limit: the other files or notes inside are read",
        )
        for name in ("archive", "enex")
    ),
]


@pytest.fixture(params=list(LOADERS.by_name))
def name(request: pytest.FixtureRequest) -> str:
    declare(request, request.param, GAPS)
    return str(request.param)


@pytest.fixture
def loader(name: str) -> LoaderType:
    return LOADERS.by_name[name]


@pytest.fixture
def sample(name: str) -> SourceFile:
    return sample_of(name)


def sample_of(name: str) -> SourceFile:
    (path,) = SAMPLES.glob(f"{name}.*")
    return SourceFile(path, path.name)


def documents(file: SourceFile, limits: Limits | None = None) -> list[ParsedDocument]:
    items = list(LOADERS.load(file, limits or Limits()))
    assert all(isinstance(item, ParsedDocument | Notice) for item in items)
    return [item for item in items if isinstance(item, ParsedDocument)]


def reason(path: Path, limits: Limits | None = None) -> str:
    with pytest.raises(SkippedFileError) as caught:
        documents(SourceFile(path, path.name), limits)
    return str(caught.value)


def test_suffixes_are_its_own(loader: LoaderType) -> None:
    assert loader.suffixes
    for suffix in loader.suffixes:
        assert suffix == suffix.lower()
        assert re.fullmatch(r"(\.\w+)?", suffix)
        assert LOADERS.by_suffix(f"file{suffix}") is loader


def test_text_comes_out(sample: SourceFile) -> None:
    first, *more = documents(sample)
    assert SENTENCE in first.text
    assert first.title
    ids = [document.id for document in (first, *more)]
    assert len(set(ids)) == len(ids)
    assert all(document.source == sample.source for document in (first, *more))
    assert documents(sample) == [first, *more]


def test_offsets_are_those_of_the_text(sample: SourceFile) -> None:
    for document in documents(sample):
        text = document.text
        assert unicodedata.is_normalized("NFC", text)
        assert text.strip()
        assert not [char for char in text if unicodedata.category(char) == "Cc" and char not in "\t\n"]
        assert "".join(text[section.start : section.end] for section in document.sections()) == text
        for heading in document.headings:
            assert heading.title in text[heading.start : heading.end]
        for block in document.blocks:
            assert text[block.start : block.end].strip()
        assert list(document.page_starts) == sorted(document.page_starts)


async def test_it_works_in_the_parser_process(sample: SourceFile, tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))  # noqa: S106 - not that kind of token
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    settings = IngestSettings(index_root=tmp_path, tokenizer=tmp_path / "tokenizer.json")
    async with Parser(settings) as parser:
        parsed = [item async for item in parser.parse(sample) if isinstance(item, ChunkedDocument)]
    assert [document.text for document in parsed] == [document.text for document in documents(sample)]
    for document in parsed:
        covered = {place for span in document.spans for place in range(span.start, span.end)}
        assert covered >= {place for place, char in enumerate(document.text) if not char.isspace()}


@pytest.mark.parametrize("content", [b"", b" \n\t\n"])
def test_an_empty_file_is_skipped(sample: SourceFile, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / sample.source
    path.write_bytes(content)
    assert reason(path) in ("empty", "holds no text")


def test_bad_bytes_are_skipped(sample: SourceFile, tmp_path: Path) -> None:
    path = tmp_path / sample.source
    path.write_bytes(bytes(range(256)) * 64)
    assert reason(path)


def test_a_missing_file_is_skipped(sample: SourceFile, tmp_path: Path) -> None:
    assert reason(tmp_path / sample.source) == "cannot be read: No such file or directory"


def test_a_file_beyond_the_limit_is_skipped(sample: SourceFile) -> None:
    said = reason(sample.path, Limits(max_file_bytes=10, max_rows_file_bytes=10))
    assert re.search(r"larger than 10 bytes \(INGEST_MAX_(ROWS_)?FILE_BYTES\)", said)


def test_a_text_beyond_the_limit_is_skipped(sample: SourceFile) -> None:
    assert "INGEST_MAX_TEXT_CHARS" in reason(sample.path, Limits(max_text_chars=10))


def test_it_recognises_its_format(loader: LoaderType, sample: SourceFile) -> None:
    assert loader.sniff(sample.head())
    assert LOADERS.choose("file.unknown", sample.head()) is loader
    assert LOADERS.choose("file", sample.head()) is loader


def test_it_recognises_no_other_format(name: str, loader: LoaderType) -> None:
    others = [sample_of(other).head() for other in LOADERS.by_name if other != name]
    for head in (*others, b"", b"\0" * SNIFFED_BYTES, b"words " * 100):
        assert not loader.sniff(head)


def test_files_that_nothing_recognises() -> None:
    assert LOADERS.choose("Makefile", b"all: words\n") is LOADERS.by_name["text"]
    with pytest.raises(SkippedFileError, match=r"files ending in \.pages are not read, only \.csv"):
        LOADERS.choose("report.pages", b"words")


def test_the_exercise_of_contributing(tmp_path: Path) -> None:
    with installed("Add a loader", tmp_path) as folder:
        run_contract("test_loaders.py", "subtitles", folder)


def run_contract(suite: str, member: str, folder: Path) -> None:
    """Runs a suite for one member, in a process that finds it by its entry point."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"tests/contracts/{suite}",
            "-k",
            f"[{member}",
        ],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(folder)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, done.stdout
    assert int(passed[1]) > 5
