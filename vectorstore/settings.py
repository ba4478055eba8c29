"""Settings of the vectorstore, read from variables that begin with VECTORSTORE_."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, HttpUrl, TypeAdapter
from pydantic_settings import SettingsConfigDict

from chassis.settings import ServerSettings
from vectorstore.index import StoreName
from vectorstore.wire import MAX_NUM_DOCS

ResponseShape = Literal["passages", "strings"]


def _url(value: str) -> str:
    TypeAdapter(HttpUrl).validate_python(value)
    return value


class VectorstoreSettings(ServerSettings):
    """What is served, from where, and how."""

    model_config = SettingsConfigDict(env_prefix="VECTORSTORE_")

    http_port: int = Field(8082, ge=1, le=65535, description="Port of REST.")
    grpc_port: int = Field(8083, ge=1, le=65535, description="Port of gRPC.")
    index_root: Path = Field(Path("/mnt/models"), description="Folder that holds the indexes.")
    index_name: str = Field(
        "default",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
        description="Index that is served: a folder under the root.",
    )
    embedder_url: Annotated[str, AfterValidator(_url)] = Field(
        "http://127.0.0.1:8084", description="Base URL of the embedder's HTTP port."
    )
    embedder_model: str = Field("minilm", min_length=1, description="Model of the embedder: minilm or bge_m3.")
    num_docs: int = Field(4, ge=0, le=MAX_NUM_DOCS, description="Passages for a query that does not say how many.")
    candidates: int = Field(
        50, ge=1, le=1000, description="How many of each search, dense and lexical, are fused at least."
    )
    store: StoreName = Field(
        "auto",
        description="What searches the vectors: exact (all), chroma (HNSW), or auto (exact while that is as fast).",
    )
    response_shape: ResponseShape = Field(
        "passages",
        description="v1 predictions: passages with their sources, or strings as clients of earlier graphs read them.",
    )
    reload_interval_s: float = Field(
        1.0, gt=0, le=3600, description="Seconds between two looks for a newly published version."
    )
