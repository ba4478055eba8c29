"""Export and import of versions."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from tests.fakes.embedder import FINGERPRINT
from tests.vectorstore.sample_index import publish
from vectorstore.errors import EmbedderMismatchError, InvalidArchiveError
from vectorstore.versions import AccessFile, Acl, Archive, IndexRoot, export_version

Members = dict[str, bytes]


def unread(done: int, total: int) -> None:
    assert 0 < done <= total


def exported(tmp_path: Path) -> Path:
    publish(tmp_path / "there", name="pets", bits=2)
    file = tmp_path / "pets.tar"
    export_version(IndexRoot(tmp_path / "there", "pets"), None, file, unread)
    return file


def members(file: Path) -> Members:
    with tarfile.open(file) as archive:
        opened = ((member.name, archive.extractfile(member)) for member in archive)
        return {name: content.read() for name, content in opened if content is not None}


def written(file: Path, content: Members, mode: str = "w") -> None:
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def imported(file: Path, root: IndexRoot, **arguments: object) -> tuple[str, bool]:
    with Archive(file) as archive:
        options = {"store": "exact", "embedders": {FINGERPRINT}, "on_bytes": unread} | arguments
        return archive.publish(root, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("store", ["exact", "chroma"])
def test_a_version_moves_to_another_index(tmp_path: Path, store: str) -> None:
    there = IndexRoot(tmp_path / "there", "pets")
    file = exported(tmp_path)
    here = IndexRoot(tmp_path / "here", "animals")
    version, left_out = imported(file, here, store=store)
    assert (here.current(), left_out) == (version, False)
    with there.open() as old, here.open() as new:
        new.verify()
        assert list(new.documents()) == list(old.documents())
        assert list(new.chunks()) == list(old.chunks())
        assert (new.exact.vectors == old.exact.vectors).all()
        assert (new.manifest.name, new.manifest.store) == ("animals", store)
        assert new.manifest.trust == old.manifest.trust
        with_store = new.open_store()
        assert with_store.count() == old.manifest.counts.chunks
        with_store.close()
    again, _ = imported(file, here)
    assert here.versions() == [version, again]


def test_a_file_may_be_compressed(tmp_path: Path) -> None:
    file = exported(tmp_path)
    packed = tmp_path / "pets.tar.gz"
    written(packed, members(file), "w:gz")
    here = IndexRoot(tmp_path / "here", "pets")
    assert imported(packed, here)[0] == here.current()


def test_calibration_and_rules_move_too(tmp_path: Path) -> None:
    version = publish(tmp_path / "there", name="pets")
    there, here = (IndexRoot(tmp_path / where, "pets") for where in ("there", "here"))
    there.calibration_file(version).write_text('{"threshold": 0.2}')
    rules = {"cats.md": Acl(allow={"group:vets"})}
    with AccessFile(there.folder).changing() as held:
        held.update(rules)
    file = tmp_path / "pets.tar"
    export_version(there, version, file, unread)
    new, left_out = imported(file, here)
    assert here.calibration(new) == {"threshold": 0.2}
    assert (AccessFile(here.folder).read().rules, left_out) == (rules, False)
    own = {"dogs.md": Acl(allow={"user:ann"})}
    with AccessFile(here.folder).changing() as held:
        held.clear()
        held.update(own)
    assert imported(file, here)[1]
    assert AccessFile(here.folder).read().rules == own


def test_another_embedder_is_refused(tmp_path: Path) -> None:
    file, here = exported(tmp_path), IndexRoot(tmp_path / "here", "pets")
    with pytest.raises(EmbedderMismatchError, match=f"{FINGERPRINT}, but the indexes here with other@1"):
        imported(file, here, embedders={"other@1"})
    assert imported(file, here, embedders=())[0] == here.current()


def without_a_file(content: Members) -> Members:
    return {name: data for name, data in content.items() if name != "chunks.jsonl"}


def with_a_changed_byte(content: Members) -> Members:
    changed = bytearray(content["chunks.jsonl"])
    changed[10] ^= 1
    return content | {"chunks.jsonl": bytes(changed)}


def with_a_changed_manifest(content: Members) -> Members:
    return content | {"manifest.json": content["manifest.json"].replace(b"cats.md", b"cows.md")}


def with_another_format(content: Members) -> Members:
    return content | {"manifest.json": orjson.dumps(orjson.loads(content["manifest.json"]) | {"format": 99})}


def with_a_path_outside(content: Members) -> Members:
    manifest = orjson.loads(content["manifest.json"])
    manifest["files"]["../../escaped"] = 1
    return content | {"manifest.json": orjson.dumps(manifest), "../../escaped": b"x"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_a_file, r"incomplete: chunks\.jsonl is missing"),
        (with_a_changed_byte, r"SHA-256 of chunks\.jsonl differs"),
        (with_a_changed_manifest, r"SHA-256 of manifest\.json differs"),
        (with_another_format, "has format 99, but this release reads format"),
        (with_a_path_outside, r"'\.\./\.\./escaped' is outside"),
        (lambda content: content | {"chunks.jsonl": b"short"}, r"'chunks\.jsonl' is not as the manifest has it"),
        (lambda content: content | {"surprise": b""}, "'surprise' is not as the manifest has it"),
        (lambda content: content | {"manifest.json": b"{"}, r"no readable manifest\.json"),
        (lambda content: {"README": b""} | content, r"it has no manifest\.json"),
        (lambda content: content | {"access.json": b'{"rules": 5}'}, r"invalid access\.json"),
    ],
)
def test_a_wrong_file_changes_nothing(tmp_path: Path, change: Callable[[Members], Members], message: str) -> None:
    file, here = exported(tmp_path), IndexRoot(tmp_path / "here" / "deep", "pets")
    written(file, change(members(file)))
    with pytest.raises(InvalidArchiveError, match=message):
        imported(file, here)
    assert here.current() is None
    assert not here.folder.exists() or not [path for path in here.folder.iterdir() if path.is_dir()]
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize("content", [b"", b"no tar" * 200])
def test_a_file_that_is_no_tar(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "pets.tar"
    file.write_bytes(content)
    with pytest.raises(InvalidArchiveError, match=r"pets\.tar is no"):
        Archive(file)


def test_a_truncated_file(tmp_path: Path) -> None:
    file, here = exported(tmp_path), IndexRoot(tmp_path / "here", "pets")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InvalidArchiveError, match=r"no complete tar file|is incomplete"):
        imported(file, here)
    assert here.current() is None


def test_a_compressed_file_that_was_changed(tmp_path: Path) -> None:
    file, here = exported(tmp_path), IndexRoot(tmp_path / "here", "pets")
    content = file.read_bytes()
    parts = [bytearray(gzip.compress(part)) for part in (content[:20_000], content[20_000:])]
    parts[0][-5] ^= 1  # in the checksum
    file.write_bytes(b"".join(parts))
    with pytest.raises(InvalidArchiveError, match="no complete tar file"):
        imported(file, here)
    assert here.current() is None


def test_links_are_not_followed(tmp_path: Path) -> None:
    file, here = exported(tmp_path), IndexRoot(tmp_path / "here", "pets")
    content = members(file)
    with tarfile.open(file, "w") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            if name == "chunks.jsonl":
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                archive.addfile(member)
            else:
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    with pytest.raises(InvalidArchiveError, match=r"'chunks\.jsonl' is not as the manifest has it"):
        imported(file, here)
