"""A BGE-M3 as `python -m embedder.export` writes it: one OpenVINO model with three heads, and what it was made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import openvino as ov

from embedder.encoders.linear import Storage
from embedder.errors import ModelFolderError
from embedder.folder import (
    CARD_NAME,
    EXPORTED_MODEL_NAME,
    EXPORTED_WEIGHTS_NAME,
    TOKENIZER_NAME,
    ModelFolder,
    digest,
    file_hashes,
)
from embedder.settings import Arithmetic

FILES = (EXPORTED_MODEL_NAME, EXPORTED_WEIGHTS_NAME, TOKENIZER_NAME)

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ExportedFolder:
    """A folder with `FILES`, whose `embedder.json` tells under `export` how they came about."""

    folder: ModelFolder
    precision: Storage
    padding_id: int
    max_tokens: int
    """Tokens that have a position."""
    source: Mapping[str, str]
    """SHA-256 of each file of weights that this was made of."""

    @classmethod
    def open(cls, path: Path) -> ExportedFolder:
        """Reads the card and compares every file with the hash that was recorded for it.

        Raises:
            ModelFolderError: a file is missing, or is not the one that was exported.
        """
        folder = ModelFolder.open(path)
        card = folder.file(CARD_NAME)
        files = [folder.file(name) for name in FILES]
        try:
            export = json.loads(card.read_text("utf-8"))["export"]
            if export["format"] != _FORMAT or export["precision"] not in get_args(Storage):
                raise ModelFolderError(f"{card} is of another version of this program: export the model again.")
            exported = cls(
                folder,
                export["precision"],
                int(export["padding_id"]),
                int(export["max_tokens"]),
                {str(name): str(value) for name, value in export["source"].items()},
            )
            recorded = {str(name): str(value) for name, value in export["files"].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelFolderError(f"{card} does not tell how the model was exported: {error!r}") from error
        for name, value in file_hashes(files).items():
            if recorded.get(name) != value:
                raise ModelFolderError(f"{path / name} is damaged: it is not the file that was exported.")
        return exported

    def fingerprint(self, model_id: str | None) -> str:
        """See `fingerprint_of`."""
        return fingerprint_of(self.folder, model_id, self.source, self.precision)

    def read(self) -> ov.Model:
        """The network.

        Raises:
            ModelFolderError: OpenVINO does not read it.
        """
        path = self.folder.path / EXPORTED_MODEL_NAME
        try:
            return ov.Core().read_model(path)
        except RuntimeError as error:
            raise ModelFolderError(f"{path} is not a model that this version of OpenVINO reads.") from error


def write_card(folder: Path, exported: ExportedFolder, model_id: str | None) -> None:
    """Writes the card of files that lie in `folder`; `exported.folder` is what they were made of.

    Raises:
        OSError: it cannot be written.
    """
    card = exported.folder.card
    content: dict[str, Any] = {
        "id": model_id or exported.folder.name,
        "pooling": "cls",
        "normalize": True,
        "max_tokens": card.max_tokens or exported.max_tokens,
        "query_prefix": card.query_prefix,
        "passage_prefix": card.passage_prefix,
        "export": {
            "format": _FORMAT,
            "precision": exported.precision,
            "padding_id": exported.padding_id,
            "max_tokens": exported.max_tokens,
            "openvino": ov.__version__,
            "source": dict(exported.source),
            "files": file_hashes(folder / name for name in FILES),
        },
    }
    (folder / CARD_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def fingerprint_of(folder: ModelFolder, model_id: str | None, source: Mapping[str, str], precision: Arithmetic) -> str:
    """`<model id>@sha256:<hash>` of a BGE-M3 that is served in that precision.

    Weights in 8 bits are other weights and have another hash; f32 and bf16 share the source's, as a GPU's fp16 does: an
    index built with one may be searched with another.
    """
    hashes = dict(source) if precision != "int8" else {**source, "precision": "int8"}
    return f"{model_id or folder.name}@sha256:{digest(hashes)}"
