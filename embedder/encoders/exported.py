"""Reads and describes an exported BGE-M3: the folder that `python -m embedder.export` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import openvino as ov

from embedder.errors import ModelFolderError
from embedder.folder import (
    CARD_NAME,
    EXPORTED_MODEL_NAME,
    EXPORTED_WEIGHTS_NAME,
    TOKENIZER_NAME,
    EmbedderFolder,
    digest,
    file_hashes,
)
from embedder.settings import Precision

FILES = (EXPORTED_MODEL_NAME, EXPORTED_WEIGHTS_NAME, TOKENIZER_NAME)

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ExportedFolder:
    """A folder with `FILES` and an `embedder.json`, whose field `export` describes the export."""

    folder: EmbedderFolder
    precision: Precision
    padding_id: int
    max_tokens: int
    """Maximum length of a text in tokens."""
    source: Mapping[str, str]
    """File name → SHA-256, for each file of weights that it was exported from."""

    @classmethod
    def open(cls, path: Path) -> ExportedFolder:
        """Reads the card and verifies every file against its recorded hash.

        Raises:
            ModelFolderError: a file is missing, or its hash differs.
        """
        folder = EmbedderFolder.open(path)
        card = folder.file(CARD_NAME)
        files = [folder.file(name) for name in FILES]
        try:
            export = json.loads(card.read_text("utf-8"))["export"]
            if export["format"] != _FORMAT or export["precision"] not in get_args(Precision):
                raise ModelFolderError(
                    f"{card} was written by an incompatible version of this program: export the model again."
                )
            exported = cls(
                folder,
                export["precision"],
                int(export["padding_id"]),
                int(export["max_tokens"]),
                {str(name): str(value) for name, value in export["source"].items()},
            )
            recorded = {str(name): str(value) for name, value in export["files"].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelFolderError(f"{card} does not describe the export: {error!r}") from error
        for name, value in file_hashes(files).items():
            if recorded.get(name) != value:
                raise ModelFolderError(f"{path / name} is damaged: its hash differs from the recorded one.")
        return exported

    def fingerprint(self, model_id: str | None) -> str:
        """See `fingerprint_of`."""
        return fingerprint_of(self.folder, model_id, self.source, self.precision)

    def read(self) -> ov.Model:
        """Loads the network."""
        path = self.folder.path / EXPORTED_MODEL_NAME
        try:
            return ov.Core().read_model(path)
        except RuntimeError as error:
            raise ModelFolderError(f"{path} is not a model that this version of OpenVINO reads.") from error


def write_card(folder: Path, exported: ExportedFolder, model_id: str | None) -> None:
    """Writes the `embedder.json` of an export in `folder`. `exported.folder` is the source."""
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


def fingerprint_of(
    folder: EmbedderFolder, model_id: str | None, source: Mapping[str, str], precision: Precision
) -> str:
    """`<model id>@sha256:<hash>` of a BGE-M3 in this precision.

    f32, bf16 and fp16 (on GPUs) share the source's hash: an index built with one can be searched with another. int8 has
    a different hash.
    """
    hashes = dict(source) if precision != "int8" else {**source, "precision": "int8"}
    return f"{model_id or folder.name}@sha256:{digest(hashes)}"
