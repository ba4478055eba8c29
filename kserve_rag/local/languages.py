"""Which embedder suits the languages of the documents."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kserve_rag.local.graph import index_on_disk
from kserve_rag.models.catalogue import Catalogue, EmbedderModel
from kserve_rag.models.store import ModelStore
from kserve_rag.settings import Settings

_SAMPLED_FILES = 40
_SAMPLED_BYTES = 4_000
_TEXT_SUFFIXES = frozenset((".txt", ".md", ".html", ".htm"))
_MARKUP = re.compile(r"<[^>]*>|[{}\[\]#*|`]|https?://\S+")


def choose_embedder(settings: Settings, store: ModelStore, paths: Sequence[Path]) -> tuple[str, str]:
    """Name or path of the embedder, and the reason if it is not the default one.

    Args:
        settings: an explicit `embedder` wins; offline, only models of the cache count.
        store: the models.
        paths: documents to index. Text files among them are sampled; without any, the index of the last time counts.
    """
    default = store.catalogue.defaults["embedder"]
    if settings.embedder:
        return settings.embedder, ""
    languages = _sampled_languages(paths)
    if paths and not languages and (indexed := index_on_disk(settings)) is not None:
        languages = indexed.languages
    other = _better(store.catalogue, default, languages)
    if other is None or (settings.offline and not store.cached(other)):
        return default, ""
    return other, (
        f"The embedder is {other}, because {default} does not know the language of most documents "
        f"({', '.join(languages)}). `kserve-rag up --embedder {default}` chooses it all the same."
    )


def embedder_note(catalogue: Catalogue, embedder: str, languages: Mapping[str, float]) -> str:
    """A note for the user if the embedder does not know the language of most documents; empty if it does.

    Args:
        catalogue: the known models.
        embedder: name of the embedder, or the path of a folder, of which nothing is known.
        languages: language (ISO 639-1) → share of the documents.
    """
    other = _better(catalogue, embedder, languages)
    if other is None:
        return ""
    return (
        f"Most documents are in languages that {embedder} does not know ({', '.join(languages)}), so words alone find "
        f"them. {other} knows them: `kserve-rag down`, then `kserve-rag up --embedder {other}`."
    )


def _better(catalogue: Catalogue, embedder: str, languages: Mapping[str, float]) -> str | None:
    """The first embedder of the catalogue that knows most documents, unless `embedder` does."""
    entry = catalogue.models.get(embedder)
    if not isinstance(entry, EmbedderModel) or not languages or _known(entry, languages) >= 0.5:
        return None
    knowing = (
        name
        for name in catalogue.names("embedder")
        if isinstance(model := catalogue.models[name], EmbedderModel) and _known(model, languages) >= 0.5
    )
    return next(knowing, None)


def _known(model: EmbedderModel, languages: Mapping[str, float]) -> float:
    """Share of the documents whose language the model knows."""
    if "multilingual" in model.languages:
        return 1.0
    # A text without letters is as good in any language.
    return sum(share for language, share in languages.items() if language in (*model.languages, "und"))


def _sampled_languages(paths: Sequence[Path]) -> dict[str, float]:
    from text_analysis.languages import language_shares

    files = itertools.islice((file for path in paths for file in _text_files(path)), _SAMPLED_FILES)
    return language_shares(_MARKUP.sub(" ", _beginning(file)) for file in files)


def _text_files(path: Path) -> Iterator[Path]:
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    return (file for file in found if file.suffix.lower() in _TEXT_SUFFIXES and file.is_file())


def _beginning(file: Path) -> str:
    with file.open("rb") as opened:
        return opened.read(_SAMPLED_BYTES).decode("utf-8", "ignore")
