"""The cache of models on this machine.

Files are stored once, under their sha256. `ModelStore.materialise` creates folders of links, which the Triton models
read. Cached files need no network.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from embedder.errors import ModelFolderError
from embedder.folder import CARD_NAME, is_exported, read_card
from kserve_rag.errors import FetchError, UsageError
from kserve_rag.local.locking import locked
from kserve_rag.models.catalogue import (
    GGUF_SOURCE,
    PACK_SOURCE,
    Catalogue,
    EmbedderModel,
    Generation,
    ModelFile,
    ModelKind,
    Source,
    TritonEmbedder,
)
from kserve_rag.models.fetch import Fetcher, SourceError, file_sha256
from kserve_rag.models.gguf import extract_tokenizer, requantise
from kserve_rag.models.packs import unpack
from kserve_rag.progress import Progress
from predictor.errors import ModelFilesError

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_CARD_FIELDS = {"id", "pooling", "max_tokens", "query_prefix", "passage_prefix", "normalize"}

_RECIPE, _PACK_RECIPE = "q8_0-1", "pack-1"
"""Part of a folder's name. Change it when the conversion changes."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model on this machine."""

    id: str
    """Name in answers and in manifests of index versions."""
    path: Path
    """Folder with the weights and `tokenizer.json`; for an LLM also `tokenizer_config.json` with the chat template."""
    triton_model: str
    """Name of the Triton model that serves it."""
    max_tokens: int | None = None
    """Input limit of an embedder in tokens; None if unknown."""
    generation: Generation = field(default_factory=Generation)
    """Defaults of an LLM's answers."""


class ModelStore:
    """The models on this machine. Several processes and threads may share one folder."""

    def __init__(
        self,
        root: Path,
        *,
        catalogue: Catalogue | None = None,
        hub_url: str = "https://huggingface.co",
        hub_token: str | None = None,
        offline: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """`root`: folder of the cache. `Fetcher` documents the other arguments."""
        self.root = root
        self.catalogue = catalogue or Catalogue.load()
        self._progress = progress or Progress()
        self._fetcher = Fetcher(hub_url.rstrip("/"), hub_token, offline, self._progress)

    def cached(self, name: str) -> bool:
        """Whether all files of a model of the catalogue are on this machine."""
        return all(self._cached(file) is not None for file in self.catalogue.models[name].files)

    def check(self, name: str, kind: ModelKind) -> None:
        """Raises UsageError if there is no such model or path, or if the model is of the other kind."""
        model = self.catalogue.models.get(name)
        if model is not None and model.kind != kind:
            raise UsageError(f"{name} is an {model.kind}, not an {kind}. Choose from: {self._choices(kind)}.")
        if model is None and not Path(name).expanduser().exists():
            raise UsageError(
                f"There is no {kind} {name!r}: neither in the catalogue nor as a path. "
                f"Choose from: {self._choices(kind)}; or give a path."
            )

    def materialise(self, name: str, kind: ModelKind) -> LocalModel:
        """Fetch a model if needed, and create its folder.

        Args:
            name: name in the catalogue, or the path of a GGUF file (llm) or of a model's folder (embedder or llm).
            kind: the required kind.

        Raises:
            UsageError: there is no such model or path, or it is of the other kind.
            FetchError: no source delivered a file.
        """
        self.check(name, kind)
        model = self.catalogue.models.get(name)
        if model is None:
            return self._from_path(Path(name).expanduser().absolute(), kind)
        with self._locked(f"model-{name}", name):
            files = {file.name: self.fetch(file, label=f"{name}: {file.name}") for file in model.files}
            if isinstance(model, EmbedderModel):
                card = model.model_dump(include=_CARD_FIELDS)
                path = self._embedder_folder(name, files, json.dumps(card, indent=2) + "\n")
                return LocalModel(model.id, path, model.triton_model, model.max_tokens)
            weights = files[GGUF_SOURCE]
            path = self._llm_folder(name, weights, weights.name)
            return LocalModel(model.id, path, "tensorrt_llm", generation=model.generation)

    def fetch(self, file: ModelFile, *, label: str) -> Path:
        """Fetch one file into the cache, where its name is its sha256. Raises FetchError if no source delivers it."""
        blob = self._cached(file)
        if blob is not None:
            return blob
        key = file.sha256 or _source_key(file)
        with self._locked(f"file-{key[:32]}", label):
            # Another process may have fetched it while we waited for the lock.
            return self._cached(file) or self._fetch(file, self.root / "partial" / key[:32], label)

    def _fetch(self, file: ModelFile, partial: Path, label: str) -> Path:
        expected = self._expected(file)
        failures: list[str] = []
        for source in file.sources:
            self._progress.note(label, f"from {source}")
            try:
                with _new_folder(partial):
                    path, sha256 = self._fetcher.fetch(source, partial, task=label)
                    if sha256 == (expected or sha256):
                        return self._keep(file, path, sha256)
                    failures.append(f"  {source}: sha256 is {sha256}, expected {expected}")
            except SourceError as error:
                failures.append(f"  {source}: {error}")
            finally:
                self._progress.note(label, "")
        raise FetchError(
            f"{label} could not be fetched:\n" + "\n".join(failures) + "\nCheck the network and the proxy "
            "variables, or give a file or folder of your own with --model or --embedder."
        )

    def _keep(self, file: ModelFile, path: Path, sha256: str) -> Path:
        blob = self.root / "blobs" / sha256
        blob.parent.mkdir(parents=True, exist_ok=True)
        path.chmod(0o444)
        path.replace(blob)
        pin = self._pin(file)
        if file.sha256 is None and not pin.is_symlink():
            pin.parent.mkdir(parents=True, exist_ok=True)
            pin.symlink_to(os.path.relpath(blob, pin.parent))
        return blob

    def _cached(self, file: ModelFile) -> Path | None:
        sha256 = self._expected(file)
        blob = self.root / "blobs" / sha256 if sha256 else None
        return blob if blob is not None and blob.is_file() else None

    def _expected(self, file: ModelFile) -> str | None:
        """The sha256 that the file must have; None if the catalogue has none and the file was never downloaded."""
        pin = self._pin(file)
        return file.sha256 or (pin.readlink().name if pin.is_symlink() else None)

    def _pin(self, file: ModelFile) -> Path:
        """Link to the first download of a file without a sha256 in the catalogue."""
        return self.root / "pinned" / _source_key(file)

    @contextlib.contextmanager
    def _locked(self, key: str, task: str) -> Iterator[None]:
        waiting = functools.partial(self._progress.note, task, "another process is fetching it")
        with locked(self.root / "locks" / f"{key}.lock", waiting):
            self._progress.note(task, "")
            yield

    def _llm_folder(self, name: str, weights: Path, sha256: str, tokenizer: Sequence[Path] = ()) -> Path:
        """`model.gguf` in a quantisation that the CPU engine supports, and the given tokenizer or the GGUF's."""

        def make(folder: Path) -> None:
            with self._noted(f"{name}: model.gguf", "requantising to Q8_0"):
                requantise(weights, folder / "model.gguf")
                if not tokenizer:
                    extract_tokenizer(folder / "model.gguf", folder)
            for file in tokenizer:
                shutil.copyfile(file, folder / file.name)

        return self._made(name, _short_hash(_RECIPE, sha256, *map(file_sha256, tokenizer)), make)

    def _embedder_folder(self, name: str, files: Mapping[str, Path], card: str) -> Path:
        """Links to the files, or the unpacked files of a pack, and the card."""
        pack = files.get(PACK_SOURCE)

        def make(folder: Path) -> None:
            if pack is not None:
                with self._noted(name, "unpacking"):
                    unpack(pack, folder)
            for file, blob in files.items():
                if blob != pack:
                    (folder / file).symlink_to(os.path.relpath(blob, folder))
            (folder / CARD_NAME).write_text(card, encoding="utf-8")

        contents = [f"{file}={blob.name}" for file, blob in sorted(files.items())]
        return self._made(name, _short_hash(*([_PACK_RECIPE] if pack else []), *contents, card), make)

    def _made(self, name: str, key: str, make: Callable[[Path], None]) -> Path:
        """The folder with this name and key, created if it does not exist. The caller must hold the model's lock."""
        target = self.root / "folders" / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}-{key}"
        if not target.is_dir():
            with _new_folder(target.with_name(f".making-{target.name}")) as folder:
                make(folder)
                folder.rename(target)
        return target

    @contextlib.contextmanager
    def _noted(self, task: str, text: str) -> Iterator[None]:
        self._progress.note(task, text)
        try:
            yield
        except (ModelFilesError, ModelFolderError) as error:
            raise UsageError(str(error)) from error
        finally:
            self._progress.note(task, "")

    def _from_path(self, path: Path, kind: ModelKind) -> LocalModel:
        if kind == "embedder":
            triton_model = _triton_embedder(path)
            try:
                card = read_card(path)
            except ModelFolderError as error:
                raise UsageError(str(error)) from error
            return LocalModel(card.id or path.name, path, triton_model, card.max_tokens)
        if path.is_dir():
            missing = [name for name in _TOKENIZER_FILES if not (path / name).is_file()]
            if missing or not (any(path.glob("*.gguf")) or (path / "openvino_model.xml").is_file()):
                raise UsageError(
                    f"{path} is not a folder with model.gguf (or openvino_model.xml), tokenizer.json and "
                    "tokenizer_config.json. Give the GGUF file itself: it contains the tokenizer."
                )
            return LocalModel(path.name, path, "tensorrt_llm")
        if path.suffix != ".gguf":
            raise UsageError(f"{path} is not a .gguf file. Give one, or a name: {self._choices(kind)}.")
        with self._noted(path.name, "hashing"):
            sha256 = file_sha256(path)
        tokenizer = [path.with_name(name) for name in _TOKENIZER_FILES]
        if not all(file.is_file() for file in tokenizer):
            tokenizer = []
        with self._locked(f"model-{sha256[:32]}", path.name):
            folder = self._llm_folder(path.stem, path, sha256, tokenizer)
        return LocalModel(path.stem, folder, "tensorrt_llm")

    def _choices(self, kind: ModelKind) -> str:
        return ", ".join(self.catalogue.names(kind))


def _triton_embedder(folder: Path) -> TritonEmbedder:
    """The Triton model that reads this folder, chosen by the files in it."""
    if not (folder / "tokenizer.json").is_file():
        raise UsageError(f"{folder} contains no tokenizer.json: it is not the folder of an embedder.")
    if is_exported(folder) or any((folder / head).is_file() for head in ("sparse_linear.pt", "colbert_linear.pt")):
        return "bge_m3"
    if (folder / "model.onnx").is_file():
        return "minilm"
    if any((folder / weights).is_file() for weights in ("model.safetensors", "pytorch_model.bin")):
        return "bert"
    raise UsageError(f"{folder} contains no weights: none of model.onnx, model.safetensors and pytorch_model.bin.")


@contextlib.contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """An empty folder, removed after the block unless it was renamed. Replaces the remains of a killed process."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _source_key(file: ModelFile) -> str:
    """A name for a file whose sha256 is unknown."""
    return hashlib.sha256(TypeAdapter(tuple[Source, ...]).dump_json(file.sources)).hexdigest()


def _short_hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
