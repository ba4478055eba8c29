"""Secrets of a service: texts, or files that Kubernetes mounts and replaces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, SecretStr

from chassis.errors import NotReadyError


class SecretFile:
    """The secret in a file, which is read again when the file changes. White space around it is ignored.

    Kubernetes replaces a mounted Secret by changing a symbolic link, so a new secret is a new file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._version: tuple[int, ...] = ()
        self._text = ""

    def read(self) -> str:
        """The secret.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is empty or no text.
        """
        found = self.path.stat()
        version = (found.st_ino, found.st_mtime_ns, found.st_size)
        if version != self._version:
            text = self.path.read_text(encoding="utf-8").strip()
            if not text:
                raise ValueError("is empty")
            self._version, self._text = version, text
        return self._text


def _readable(path: Path) -> Path:
    try:
        SecretFile(path).read()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no UTF-8 text") from None
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    return path


SecretPath = Annotated[Path, AfterValidator(_readable)]
"""Type of settings that name a file with a secret. The file must exist at the start."""


class Secret:
    """A secret of a service, from a setting or from a file. Its text is only in `read`."""

    def __init__(self, text: SecretStr | None, path: Path | None) -> None:
        self._text = text
        self._file = SecretFile(path) if path is not None else None

    @property
    def known(self) -> bool:
        """Whether there is a secret."""
        return self._text is not None or self._file is not None

    def read(self) -> str | None:
        """The secret; None if there is none.

        Raises:
            NotReadyError: the file is away, for example while it is being replaced.
        """
        if self._file is None:
            return self._text.get_secret_value() if self._text is not None else None
        try:
            return self._file.read()
        except (OSError, ValueError) as error:
            missing = NotReadyError("The file with this service's key cannot be read. The operator must restore it.")
            missing.upstream_reason = f"{self._file.path}: {error}"
            raise missing from error
