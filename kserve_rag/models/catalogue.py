"""The catalogue of models: their properties and the sources of their files (`catalogue.toml`)."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ModelKind = Literal["embedder", "llm"]
TritonEmbedder = Literal["minilm", "bert", "bge_m3"]

GGUF_SOURCE = "source.gguf"
"""File name of an LLM's weights in the catalogue, from which `model.gguf` is created."""

PACK_SOURCE = "source.pack"
"""File name of an embedder's pack in the catalogue, from which a Hugging Face folder is created."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HubSource(_Entry):
    """A file in a repository of the Hugging Face hub."""

    hub: str
    """Repository, `owner/name`."""
    file: str
    revision: str = "main"
    """Branch, tag or commit."""

    def __str__(self) -> str:
        return f"hub {self.hub}@{self.revision[:12]}: {self.file}"


class WheelPart(_Entry):
    """A file inside a wheel."""

    package: str
    version: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Digest of the wheel."""
    path: str
    """Path inside the wheel."""
    platform: str | None = None
    """Platform tag, such as `manylinux2014_x86_64`, if the wheel also contains compiled code."""


class WheelSource(_Entry):
    """A file from one wheel, or the concatenation of parts from several wheels."""

    wheels: tuple[WheelPart, ...] = Field(min_length=1)

    def __str__(self) -> str:
        more = f" and {len(self.wheels) - 1} more" if len(self.wheels) > 1 else ""
        return f"wheel {self.wheels[0].package}=={self.wheels[0].version}{more}"


class PathSource(_Entry):
    """A file on this machine."""

    path: Path

    def __str__(self) -> str:
        return f"path {self.path}"


Source = HubSource | WheelSource | PathSource


class ModelFile(_Entry):
    """One file of a model."""

    name: str
    """Name in the model's folder."""
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """None: the digest of the first download is pinned."""
    size_bytes: int | None = None
    """Shown to users; not checked."""
    sources: tuple[Source, ...] = Field(min_length=1)
    """Tried in this order."""


class _Model(_Entry):
    summary: str
    id: str
    """Name in answers and in manifests of index versions."""
    licence: str
    languages: tuple[str, ...]
    files: tuple[ModelFile, ...] = Field(min_length=1)

    @property
    def size_bytes(self) -> int | None:
        """Download size, or None if the size of a file is unknown."""
        sizes = [file.size_bytes for file in self.files]
        return None if None in sizes else sum(size for size in sizes if size is not None)


class EmbedderModel(_Model):
    """An embedder of the catalogue."""

    kind: Literal["embedder"]
    triton_model: TritonEmbedder
    """The model in embedder/model_repository that serves it."""
    pooling: Literal["mean", "cls"]
    dimension: int
    max_tokens: int
    query_prefix: str
    passage_prefix: str
    normalize: bool


class Generation(_Entry):
    """Parameters of an LLM's answers. None: the transformer's setting applies (`transformer/settings.py`)."""

    max_tokens: int | None = None
    """Maximum length of an answer in tokens."""
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


class LlmModel(_Model):
    """An LLM of the catalogue."""

    kind: Literal["llm"]
    context_tokens: int
    generation: Generation
    memory_bytes: int | None = None
    """Memory that the predictor needs with this model and the default KV cache; None if not measured."""


class Catalogue(_Entry):
    """The content of `catalogue.toml`."""

    fallback_llm: str
    """LLM for machines that cannot run or fetch the default one."""
    defaults: dict[ModelKind, str]
    models: dict[str, EmbedderModel | LlmModel]

    @classmethod
    @functools.cache
    def load(cls) -> Catalogue:
        """The catalogue of this package, read once."""
        path = Path(__file__).with_name("catalogue.toml")
        return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))

    def names(self, kind: ModelKind) -> list[str]:
        """Names of one kind, in the order of the file."""
        return [name for name, model in self.models.items() if model.kind == kind]
