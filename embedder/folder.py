"""A model folder: what its `embedder.json` says, and the fingerprint of its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from embedder.errors import ModelFolderError
from embedder.sentence_transformers import described

CARD_NAME = "embedder.json"
TOKENIZER_NAME = "tokenizer.json"
EXPORTED_MODEL_NAME = "openvino_model.xml"
EXPORTED_WEIGHTS_NAME = "openvino_model.bin"
Pooling = Literal["mean", "cls"]


@dataclass(frozen=True, slots=True)
class Card:
    """What is known about a model beyond its weights. Every field may be absent.

    It is the content of `embedder.json`; without that file, what sentence-transformers' files say.
    """

    id: str | None = None
    pooling: Pooling | None = None
    max_tokens: int | None = None
    query_prefix: str = ""
    passage_prefix: str = ""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder with `tokenizer.json`, weights and perhaps `embedder.json`."""

    path: Path
    card: Card

    @classmethod
    def open(cls, path: Path) -> ModelFolder:
        """Reads the card.

        Raises:
            ModelFolderError: no such folder, no `tokenizer.json`, or a card that cannot be used.
        """
        if not path.is_dir():
            raise ModelFolderError(f"There is no model folder {path}. Set EMBEDDER_MODEL_DIR.")
        folder = cls(path, read_card(path))
        folder.file(TOKENIZER_NAME)
        return folder

    def file(self, name: str) -> Path:
        """The path of a file that must be there.

        Raises:
            ModelFolderError: it is not.
        """
        path = self.path / name
        if not path.is_file():
            raise ModelFolderError(f"The model folder {self.path} has no {name}.")
        return path

    @property
    def name(self) -> str:
        """The model's id, where nobody chose another: the card's, else the folder's name."""
        return self.card.id or self.path.resolve().name

    def fingerprint(self, weights: Sequence[Path], model_id: str | None) -> str:
        """`<model id>@sha256:<hash>`: equal for equal weights, wherever they lie. See `digest`."""
        return f"{model_id or self.name}@sha256:{digest(file_hashes(weights))}"


def is_exported(path: Path) -> bool:
    """Whether `python -m embedder.export` wrote this folder, however little of that is left."""
    return (path / EXPORTED_MODEL_NAME).is_file() or (path / EXPORTED_WEIGHTS_NAME).is_file()


def file_hashes(paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each file's content, by the file's name, in hexadecimal digits."""
    return {path.name: _sha256(path) for path in paths}


def digest(hashes: Mapping[str, str]) -> str:
    """One hash of weights: of one file its SHA-256; of several that of their `sha256sum` listing in order of name."""
    if len(hashes) == 1:
        (only,) = hashes.values()
        return only
    listing = "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes))
    return hashlib.sha256(listing.encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_card(folder: Path) -> Card:
    """What `embedder.json` says, or sentence-transformers' files where there is none; an empty card without either.

    Raises:
        ModelFolderError: a card that cannot be used.
    """
    path = folder / CARD_NAME
    if not path.exists():
        return _card(described(folder), folder)
    try:
        content: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelFolderError(f"{path} must hold a JSON object.")
    return _card(content, path)


def _card(content: Mapping[str, Any], path: Path) -> Card:
    """The card with this content, which `path` holds."""
    if content.get("normalize", True) is not True:
        raise ModelFolderError(f"{path}: normalize is {content['normalize']!r}; embeddings are always L2-normalised.")
    pooling, max_tokens = content.get("pooling"), content.get("max_tokens")
    if pooling is not None and pooling not in get_args(Pooling):
        raise ModelFolderError(f"{path}: pooling is {pooling!r}; choose one of {', '.join(get_args(Pooling))}.")
    if max_tokens is not None and (type(max_tokens) is not int or max_tokens < 3):
        raise ModelFolderError(f"{path}: max_tokens is {max_tokens!r}; it must be a whole number of at least 3.")
    texts: dict[str, str] = {}
    for name in ("id", "query_prefix", "passage_prefix"):
        value = content.get(name)
        if value is not None and not isinstance(value, str):
            raise ModelFolderError(f"{path}: {name} is {value!r}; it must be a string.")
        texts[name] = value or ""
    return Card(texts["id"] or None, pooling, max_tokens, texts["query_prefix"], texts["passage_prefix"])
