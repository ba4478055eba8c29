"""The models that this project knows by name, and their files on this machine.

`ModelStore.materialise` gives a folder that the Triton models read. Contents are kept once, under their sha256; folders
link to them. What is cached needs no network.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from embedder.errors import ModelFolderError
from embedder.folder import CARD_NAME, is_exported, read_card
from kserve_rag.errors import FetchError, UsageError
from kserve_rag.local.locking import locked
from kserve_rag.models.fetch import (
    Fetcher,
    HubSource,
    PathSource,
    Source,
    SourceError,
    WheelSource,
    file_sha256,
    remove_tree,
)
from kserve_rag.models.gguf import extract_tokenizer, requantise
from kserve_rag.models.packs import unpack
from kserve_rag.progress import Progress, Silent
from predictor.errors import ModelFilesError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Kind = Literal["embedder", "llm"]
TritonEmbedder = Literal["minilm", "bert", "bge_m3"]

GGUF_SOURCE = "source.gguf"
"""Name of an LLM's weights in the catalogue; the folder holds `model.gguf`, made from it."""

PACK_SOURCE = "source.pack"
"""Name of an embedder's pack in the catalogue; the folder holds the Hugging Face layout, made from it."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")

_RECIPE, _PACK_RECIPE = "q8_0-1", "pack-1"
"""Change whenever a model folder made from the same files would be another one."""


class ModelFile(BaseModel):
    """One file of a model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """In the model's folder."""
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """None: recorded when it is first fetched."""
    size_bytes: int | None = None
    """For people who choose; nothing is checked by it."""
    sources: tuple[HubSource | WheelSource | PathSource, ...] = Field(min_length=1)
    """In the order in which they are tried."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    what: str
    id: str
    """What answers and index manifests call it."""
    licence: str
    languages: tuple[str, ...]
    files: tuple[ModelFile, ...] = Field(min_length=1)

    @property
    def size_bytes(self) -> int | None:
        """Of all files to fetch; None where one's size is not known."""
        sizes = [file.size_bytes for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)


class EmbedderModel(_Model):
    """An embedder of the catalogue."""

    kind: Literal["embedder"]
    triton_model: TritonEmbedder
    """The model of embedder/model_repository that serves it."""
    pooling: Literal["mean", "cls"]
    dimension: int
    max_tokens: int
    query_prefix: str
    passage_prefix: str
    normalize: bool


class LlmModel(_Model):
    """An LLM of the catalogue."""

    kind: Literal["llm"]
    context_tokens: int


CatalogueModel = EmbedderModel | LlmModel


class Catalogue(BaseModel):
    """catalogue.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    defaults: dict[Kind, str]
    models: dict[str, CatalogueModel]

    @classmethod
    def load(cls, path: Path | None = None) -> Catalogue:
        """The packaged catalogue, or the one at `path`."""
        path = path or Path(__file__).with_name("catalogue.toml")
        return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))

    def names(self, kind: Kind) -> list[str]:
        """Names of one kind, in the file's order."""
        return [name for name, model in self.models.items() if model.kind == kind]


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model that is ready to be served from this machine."""

    name: str
    """In the catalogue, or the path that was given."""
    kind: Kind
    id: str
    path: Path
    triton_model: str
    """Name of the Triton model that serves it."""
    max_tokens: int | None = None
    """Tokens that an embedder reads of a text; None where its folder does not say."""

    @property
    def tokenizer(self) -> Path:
        """Folder with tokenizer.json; of an LLM also with tokenizer_config.json and its chat template."""
        return self.path


class ModelStore:
    """The models on this machine. Several processes and threads may use one store at once."""

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
        """A store in the folder `root`. `kserve_rag.models.fetch.Fetcher` tells the other arguments."""
        self.root = root
        self.catalogue = catalogue or Catalogue.load()
        self._progress = progress or Silent()
        self._fetcher = Fetcher(
            root / "partial", hub_url=hub_url, hub_token=hub_token, offline=offline, progress=self._progress
        )

    def cached(self, name: str) -> bool:
        """Whether all files of a model of the catalogue are here."""
        return all(self._cached_blob(file) is not None for file in self.catalogue.models[name].files)

    def materialise(self, name: str, kind: Kind) -> ModelFolder:
        """The folder of a model, fetched and made first where it is not there yet.

        Args:
            name: in the catalogue; or the path of a GGUF file (llm) or of a model's folder (embedder or llm).
            kind: which of the two it must be.

        Raises:
            UsageError: there is no such model or path, or it is of the other kind.
            FetchError: no source delivered a file.
        """
        model = self.catalogue.models.get(name)
        if model is None:
            return self._from_path(name, kind)
        if model.kind != kind:
            raise UsageError(f"{name} is an {model.kind}, not an {kind}. Choose from: {self._choices(kind)}.")
        with self._locked(f"model-{name}", name):
            blobs = {file.name: self.fetch(file, label=f"{name}: {file.name}") for file in model.files}
            if isinstance(model, EmbedderModel):
                described = {
                    "id": model.id,
                    "pooling": model.pooling,
                    "max_tokens": model.max_tokens,
                    "query_prefix": model.query_prefix,
                    "passage_prefix": model.passage_prefix,
                    "normalize": model.normalize,
                }
                path = self._embedder_folder(name, blobs, json.dumps(described, indent=2) + "\n")
                return ModelFolder(name, kind, model.id, path, model.triton_model, model.max_tokens)
            path = self._llm_folder(name, blobs[GGUF_SOURCE])
            return ModelFolder(name, kind, model.id, path, "tensorrt_llm")

    def fetch(self, file: ModelFile, *, label: str) -> Path:
        """The content of one file, in the cache; its name is its sha256.

        Raises:
            FetchError: no source delivered it.
        """
        blob = self._cached_blob(file)
        if blob is not None:
            return blob
        key = file.sha256 or _key(file)
        with self._locked(f"file-{key[:32]}", label):
            blob = self._cached_blob(file)
            return blob if blob is not None else self._fetch(file, label)

    def _fetch(self, file: ModelFile, label: str) -> Path:
        expected = file.sha256 or self._recorded(file)
        failures: list[str] = []
        for source in file.sources:
            self._progress.note(label, f"from {source}")
            try:
                fetched = self._fetcher.fetch(source, task=label)
            except SourceError as error:
                failures.append(f"  {source}: {error}")
                continue
            finally:
                self._progress.note(label, "")
            if expected is not None and fetched.sha256 != expected:
                fetched.path.unlink()
                failures.append(f"  {source}: sha256 is {fetched.sha256}, expected {expected}")
                continue
            blob = self._blob(fetched.sha256)
            blob.parent.mkdir(parents=True, exist_ok=True)
            fetched.path.chmod(0o444)
            fetched.path.replace(blob)
            if file.sha256 is None:
                self._record(file, fetched.sha256)
            return blob
        raise FetchError(
            f"{label} could not be fetched:\n" + "\n".join(failures) + "\nCheck the network and the proxy "
            "variables, or give a file or folder of your own with --model or --embedder."
        )

    # ── cache ─────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _blob(self, sha256: str) -> Path:
        return self.root / "blobs" / sha256

    def _cached_blob(self, file: ModelFile) -> Path | None:
        sha256 = file.sha256 or self._recorded(file)
        blob = self._blob(sha256) if sha256 else None
        return blob if blob is not None and blob.is_file() else None

    def _recorded(self, file: ModelFile) -> str | None:
        with contextlib.suppress(FileNotFoundError):
            return str(json.loads((self.root / "recorded" / f"{_key(file)}.json").read_text())["sha256"])
        return None

    def _record(self, file: ModelFile, sha256: str) -> None:
        path = self.root / "recorded" / f"{_key(file)}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(path, json.dumps({"source": str(file.sources[0]), "sha256": sha256}, indent=2) + "\n")

    @contextlib.contextmanager
    def _locked(self, key: str, task: str) -> Iterator[None]:
        def waiting() -> None:
            self._progress.note(task, "another process fetches it")

        with locked(self.root / "locks" / f"{key}.lock", waiting):
            self._progress.note(task, "")
            yield

    # ── folders ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _llm_folder(self, name: str, weights: Path, tokenizer: Path | None = None) -> Path:
        """model.gguf in a quantisation that the CPU engine reads well, and the tokenizer beside it.

        `weights` is named by its sha256. The tokenizer is the one in the GGUF file, unless `tokenizer` names a folder.
        """
        label = f"{name}: model.gguf"
        given = [tokenizer / file for file in _TOKENIZER_FILES] if tokenizer is not None else []

        def make(folder: Path) -> None:
            self._progress.note(label, "requantising to Q8_0")
            try:
                requantise(weights, folder / "model.gguf")
                if not given:
                    extract_tokenizer(folder / "model.gguf", folder)
            except ModelFilesError as error:
                raise UsageError(str(error)) from error
            finally:
                self._progress.note(label, "")
            for file in given:
                shutil.copyfile(file, folder / file.name)

        return self._made(name, _short_hash(_RECIPE, weights.name, *map(file_sha256, given)), make)

    def _embedder_folder(self, name: str, blobs: Mapping[str, Path], card: str) -> Path:
        """Links to the files, or what is made of a pack; and the card."""
        pack = blobs.get(PACK_SOURCE)

        def make(folder: Path) -> None:
            if pack is not None:
                self._progress.note(name, "unpacking")
                try:
                    unpack(pack, folder)
                except ModelFolderError as error:
                    raise UsageError(str(error)) from error
                finally:
                    self._progress.note(name, "")
            for file, blob in blobs.items():
                if blob != pack:
                    (folder / file).symlink_to(os.path.relpath(blob, folder))
            (folder / CARD_NAME).write_text(card, encoding="utf-8")

        contents = [f"{file}={blob.name}" for file, blob in sorted(blobs.items())]
        return self._made(name, _short_hash(*([_PACK_RECIPE] if pack else []), *contents, card), make)

    def _made(self, name: str, key: str, make: Callable[[Path], None]) -> Path:
        """The folder of this name and key, made where it is not there. The caller holds the model's lock."""
        target = self.root / "folders" / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}-{key}"
        if target.is_dir():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".making-{target.name}-"
        for left_over in target.parent.glob(f"{prefix}*"):
            remove_tree(left_over)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix))
        try:
            make(temporary)
            temporary.chmod(0o755)
            temporary.rename(target)
        except BaseException:
            remove_tree(temporary)
            raise
        return target

    # ── the user's own ────────────────────────────────────────────────────────────────────────────────────────────────

    def _from_path(self, given: str, kind: Kind) -> ModelFolder:
        path = Path(given).expanduser()
        if not path.exists():
            raise UsageError(
                f"There is no {kind} {given!r}: neither in the catalogue nor as a path. "
                f"Choose from: {self._choices(kind)}; or give a path."
            )
        path = path.absolute()
        if kind == "embedder":
            triton_model = _serves(path)
            try:
                card = read_card(path)
            except ModelFolderError as error:
                raise UsageError(str(error)) from error
            return ModelFolder(given, kind, card.id or path.name, path, triton_model, card.max_tokens)
        if path.is_dir():
            missing = [name for name in _TOKENIZER_FILES if not (path / name).is_file()]
            if missing or (not any(path.glob("*.gguf")) and not any(path.glob("openvino_model.xml"))):
                raise UsageError(
                    f"{path} is not a folder with model.gguf (or openvino_model.xml), tokenizer.json and "
                    "tokenizer_config.json. Give the GGUF file itself: its tokenizer is taken from it."
                )
            return ModelFolder(given, kind, path.name, path, "tensorrt_llm")
        if path.suffix != ".gguf":
            raise UsageError(f"{path} is not a .gguf file. Give one, or a name: {self._choices(kind)}.")
        label = path.name
        self._progress.note(label, "hashing")
        sha256 = file_sha256(path)
        self._progress.note(label, "")
        with self._locked(f"model-{sha256[:32]}", label):
            # Not copied into the cache: what is served is made from it, and the user keeps the original.
            source = Path(tempfile.mkdtemp(dir=self._partial())) / sha256
            try:
                source.symlink_to(path)
                beside = all((path.parent / file).is_file() for file in _TOKENIZER_FILES)
                folder = self._llm_folder(path.stem, source, path.parent if beside else None)
            finally:
                remove_tree(source.parent)
        return ModelFolder(given, kind, path.stem, folder, "tensorrt_llm")

    def _partial(self) -> Path:
        folder = self.root / "partial"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _choices(self, kind: Kind) -> str:
        return ", ".join(self.catalogue.names(kind))


def _serves(folder: Path) -> TritonEmbedder:
    """Which Triton model reads a folder of the user's: by the files that only that one has."""
    if not (folder / "tokenizer.json").is_file():
        raise UsageError(f"{folder} holds no tokenizer.json: it is not the folder of an embedder.")
    if is_exported(folder) or any((folder / head).is_file() for head in ("sparse_linear.pt", "colbert_linear.pt")):
        return "bge_m3"
    if (folder / "model.onnx").is_file():
        return "minilm"
    if any((folder / weights).is_file() for weights in ("model.safetensors", "pytorch_model.bin")):
        return "bert"
    raise UsageError(f"{folder} holds no weights: none of model.onnx, model.safetensors and pytorch_model.bin.")


def _key(file: ModelFile) -> str:
    """Names a file whose sha256 the catalogue does not know: its sources do."""
    sources: TypeAdapter[tuple[Source, ...]] = TypeAdapter(tuple[Source, ...])
    return hashlib.sha256(sources.dump_json(file.sources)).hexdigest()


def _short_hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
