"""A model folder: its files, its `embedder.json`, and the fingerprint of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from embedder.errors import ModelFolderError
from embedder.sentence_transformers import described, read_json

CARD_NAME = "embedder.json"
TOKENIZER_NAME = "tokenizer.json"
WEIGHTS_NAMES = ("model.safetensors", "pytorch_model.bin")
EXPORTED_MODEL_NAME = "openvino_model.xml"
EXPORTED_WEIGHTS_NAME = "openvino_model.bin"
Pooling = Literal["mean", "cls"]


@dataclass(frozen=True, slots=True)
class Card:
    """Facts about a model that its weights do not contain, all optional.

    Read from `embedder.json` or, if it does not exist, from sentence-transformers' files.
    """

    id: str | None = None
    pooling: Pooling | None = None
    max_tokens: int | None = None
    query_prefix: str = ""
    passage_prefix: str = ""


@dataclass(frozen=True, slots=True)
class EmbedderFolder:
    """A model folder of the embedder: `tokenizer.json`, weights, and optionally `embedder.json`."""

    path: Path
    card: Card

    @classmethod
    def open(cls, path: Path) -> EmbedderFolder:
        """Reads the card.

        Raises:
            ModelFolderError: there is no such folder, no `tokenizer.json`, or the card is invalid.
        """
        if not path.is_dir():
            raise ModelFolderError(f"There is no model folder {path}. Set EMBEDDER_MODEL_DIR.")
        folder = cls(path, read_card(path))
        folder.file(TOKENIZER_NAME)
        return folder

    def file(self, name: str) -> Path:
        """The path of a required file."""
        path = self.path / name
        if not path.is_file():
            raise ModelFolderError(f"The model folder {self.path} has no {name}.")
        return path

    def weights(self) -> Path:
        """The checkpoint in the Hugging Face layout: the first of `WEIGHTS_NAMES` that exists."""
        for name in WEIGHTS_NAMES:
            if (self.path / name).is_file():
                return self.path / name
        raise ModelFolderError(f"The model folder {self.path} has none of {', '.join(WEIGHTS_NAMES)}.")

    @property
    def name(self) -> str:
        """The model's default id: the card's id, else the folder's name."""
        return self.card.id or self.path.resolve().name

    def fingerprint(self, weights: Sequence[Path], model_id: str | None) -> str:
        """`<model id>@sha256:<hash>`. Equal weights have equal hashes, in any folder. See `digest`."""
        return f"{model_id or self.name}@sha256:{digest(file_hashes(weights))}"


def is_exported(path: Path) -> bool:
    """Whether `python -m embedder.export` wrote this folder, even if some of its files are missing."""
    return (path / EXPORTED_MODEL_NAME).is_file() or (path / EXPORTED_WEIGHTS_NAME).is_file()


def file_hashes(paths: Iterable[Path]) -> dict[str, str]:
    """File name → SHA-256 of its content, in hexadecimal."""
    return {path.name: _sha256(path) for path in paths}


def digest(hashes: Mapping[str, str]) -> str:
    """One hash for all files of weights.

    For one file, its SHA-256. For several, the SHA-256 of their `sha256sum` listing, sorted by name.
    """
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
    """The card in `embedder.json`, else from sentence-transformers' files, else an empty one.

    Raises:
        ModelFolderError: the card is invalid.
    """
    card = folder / CARD_NAME
    path = card if card.exists() else folder
    content: dict[str, Any] = read_json(card, dict) if card.exists() else described(folder)
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
