"""Loaders: one module per file format, found by entry points. A file goes in, parsed documents come out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import Protocol

from chassis.registry import Registry, RegistryError
from ingest.errors import IngestError, SkippedFileError
from ingest.loaders.document import Limits, Notice, ParsedDocument
from ingest.loaders.file import ZIP, SourceFile

__all__ = [
    "LOADERS",
    "Limits",
    "LoaderType",
    "Loaders",
    "Notice",
    "ParsedDocument",
    "SourceFile",
    "load",
    "suffix_of",
]


_MAGIC_BYTES = 8
"""Number of bytes at the beginning that identify a binary format."""


class LoaderType(Protocol):
    """Reads one file format. It runs in the parser process, which limits its time and memory."""

    @property
    def suffixes(self) -> Sequence[str]:
        """Suffixes of the files it reads, lower case, with the dot; `""` for names without a suffix."""

    @property
    def binary(self) -> bool:
        """Whether the format is not text. An upload of a binary format must pass `sniff`."""

    def sniff(self, head: bytes) -> bool:
        """Whether a file that begins like this certainly has this format.

        Used for files whose suffix no loader has. Always False if the format looks like plain text.
        """

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """The documents of the file, and notices about it.

        Raises SkippedFileError if the file cannot be used; the message gives the reason.
        """


class Loaders:
    """All registered loaders."""

    def __init__(self) -> None:
        """Imports nothing yet."""
        self._registry: Registry[LoaderType] = Registry("kserve_rag.loaders", "loader")
        self._missing: list[str] = []

    @cached_property
    def by_name(self) -> dict[str, LoaderType]:
        """The loaders whose libraries are installed, sorted by name."""
        return {name: loader for name in self._registry.names() for loader in self._installed(name)}

    def _installed(self, name: str) -> Iterator[LoaderType]:
        try:
            yield self._registry.get(name)
        except RegistryError as error:
            self._missing.append(str(error))

    @cached_property
    def _by_suffix(self) -> dict[str, LoaderType]:
        by_suffix: dict[str, LoaderType] = {}
        for name, loader in self.by_name.items():
            for suffix in loader.suffixes:
                if by_suffix.setdefault(suffix, loader) is not loader:
                    raise IngestError(f"The loader {name!r} and another one both read {suffix} files: uninstall one.")
        return by_suffix

    @cached_property
    def suffixes(self) -> tuple[str, ...]:
        """All suffixes of the loaders, sorted, without the empty one."""
        return tuple(sorted(suffix for suffix in self._by_suffix if suffix))

    def by_suffix(self, source: str) -> LoaderType | None:
        """The loader for the suffix of a file's name."""
        return self._by_suffix.get(suffix_of(source))

    def choose(self, source: str, head: bytes) -> LoaderType:
        """The loader for a file: by its suffix, else by its first bytes. Raises SkippedFileError if there is none.

        If the first bytes identify a binary format, the suffix is ignored.
        """
        suffix = suffix_of(source)
        loader = self._by_suffix.get(suffix) if suffix else None
        if loader is not None and not loader.binary:
            begin = head if head.startswith(ZIP) else head[:_MAGIC_BYTES]
            binary = (each for each in self.by_name.values() if each.binary and each.sniff(begin))
            loader = next(binary, loader)
        if loader is None:
            sniffed = (candidate for candidate in self.by_name.values() if candidate.sniff(head))
            loader = next(sniffed, self._by_suffix.get(suffix))
        if loader is None:
            missing = "".join(f"; {reason}" for reason in self._missing)
            raise SkippedFileError(f"files ending in {suffix} are not read, only {', '.join(self.suffixes)}{missing}")
        return loader

    def load(self, file: SourceFile, limits: Limits) -> Iterator[ParsedDocument | Notice]:
        """The documents of one file. A file that cannot be used raises SkippedFileError and nothing else."""
        documents = 0
        try:
            for item in self.choose(file.source + file.suffix, file.head()).load(file, limits):
                documents += isinstance(item, ParsedDocument)
                yield item
        except OSError as error:
            raise SkippedFileError(f"cannot be read: {error.strerror or type(error).__name__}") from error
        except MemoryError as error:
            raise SkippedFileError("needs more memory than the parser may use (INGEST_PARSER_MEMORY_BYTES)") from error
        except RecursionError as error:
            raise SkippedFileError("nested too deep") from error
        if not documents:
            raise SkippedFileError("holds no text")


def suffix_of(source: str) -> str:
    """The suffix of a file's name, lower case; empty if it has none."""
    return PurePosixPath(source).suffix.lower()


LOADERS = Loaders()
load = LOADERS.load
