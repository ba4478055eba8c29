"""Chooses an embedder that supports the languages of the documents."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kserve_rag.local.graph import index_on_disk
from kserve_rag.models.catalogue import Catalogue, EmbedderModel
from kserve_rag.models.store import ModelStore
from kserve_rag.settings import Settings

_MAX_FILES = 40
_MAX_BYTES = 4_000
_TEXT_SUFFIXES = frozenset((".txt", ".md", ".html", ".htm"))
_MARKUP = re.compile(r"<[^>]*>|[{}\[\]#*|`]|https?://\S+")


def choose_embedder(settings: Settings, store: ModelStore, paths: Sequence[Path]) -> tuple[str, str]:
    """Name or path of the embedder, and the reason if it is not the default.

    Args:
        settings: an explicit `embedder` wins; offline, only cached models are considered.
        store: the models.
        paths: documents to index. Languages are detected in the first text files among them, in the order of their
            paths. Without text files, the languages of the existing index apply.
    """
    default = store.catalogue.defaults["embedder"]
    if settings.embedder:
        return settings.embedder, ""
    languages = _detected_languages(paths)
    if paths and not languages and (indexed := index_on_disk(settings)) is not None:
        languages = indexed.languages
    other, unsupported = _alternative(store.catalogue, default, languages)
    if other is None or (settings.offline and not store.cached(other)):
        return default, ""
    return other, (
        f"The embedder is {other}, because {default} does not support the language of most documents "
        f"({', '.join(unsupported)}). To use {default}: `kserve-rag up --embedder {default}`."
    )


def embedder_note(catalogue: Catalogue, embedder: str, languages: Mapping[str, float]) -> str:
    """A note for the user if the embedder does not support the language of most documents; else empty.

    Args:
        catalogue: the known models.
        embedder: name of the embedder, or the path of a folder, whose languages are unknown.
        languages: language (ISO 639-1) → share of the documents.
    """
    other, unsupported = _alternative(catalogue, embedder, languages)
    if other is None:
        return ""
    return (
        f"{embedder} does not support the language of most documents ({', '.join(unsupported)}), so only words find "
        f"them. {other} supports it: `kserve-rag down`, then `kserve-rag up --embedder {other}`."
    )


def _alternative(catalogue: Catalogue, embedder: str, languages: Mapping[str, float]) -> tuple[str | None, list[str]]:
    """An embedder that supports most documents, and the languages that `embedder` lacks. None: `embedder` is fine."""
    entry = catalogue.models.get(embedder)
    if not isinstance(entry, EmbedderModel) or _supports_most(entry, languages):
        return None, []
    for name in catalogue.names("embedder"):
        if isinstance(model := catalogue.models[name], EmbedderModel) and _supports_most(model, languages):
            return name, _unsupported(entry, languages)
    return None, []


def _supports_most(model: EmbedderModel, languages: Mapping[str, float]) -> bool:
    return sum(languages[language] for language in _unsupported(model, languages)) <= 0.5


def _unsupported(model: EmbedderModel, languages: Mapping[str, float]) -> list[str]:
    """The languages that the model does not support. "und" (texts without letters) needs no support."""
    if "multilingual" in model.languages:
        return []
    return [language for language in languages if language not in (*model.languages, "und")]


def _detected_languages(paths: Sequence[Path]) -> dict[str, float]:
    # Imported late: it loads the model of the language detector.
    from text_analysis.languages import language_shares

    files = itertools.islice((file for path in paths for file in _text_files(path)), _MAX_FILES)
    return language_shares(_MARKUP.sub(" ", _beginning(file)) for file in files)


def _text_files(path: Path) -> Iterator[Path]:
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    return (file for file in found if file.suffix.lower() in _TEXT_SUFFIXES and file.is_file())


def _beginning(file: Path) -> str:
    with file.open("rb") as opened:
        return opened.read(_MAX_BYTES).decode("utf-8", "ignore")
