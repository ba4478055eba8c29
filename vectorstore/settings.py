"""Settings of the vectorstore, from `VECTORSTORE_*` variables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode, SettingsConfigDict

from chassis.settings import BaseUrl, ServerSettings
from vectorstore.stores import AUTO, STORES
from vectorstore.wire import MAX_COLLECTIONS, MAX_NUM_DOCS, Mode, ResponseShape

ALL = "*"
"""Value of VECTORSTORE_COLLECTIONS for all indexes in the root."""
_INDEX_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"


def _names(value: object) -> object:
    names = [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value
    for name in names if isinstance(names, list | tuple) else ():
        if name != ALL and not re.fullmatch(_INDEX_NAME, name):
            raise ValueError(f"{name!r} is not a valid name of an index")
    return names


def _store(name: str) -> str:
    return name if name == AUTO else STORES.check(name)


class VectorstoreSettings(ServerSettings):
    """Settings of the service."""

    model_config = SettingsConfigDict(env_prefix="VECTORSTORE_")

    http_port: int = Field(8082, ge=1, le=65535, description="Port for REST.")
    grpc_port: int = Field(8083, ge=1, le=65535, description="Port for gRPC.")
    index_root: Path = Field(Path("/mnt/models"), description="Folder that holds the indexes.")
    index_name: str = Field("default", pattern=_INDEX_NAME, description="Index to serve: a folder in the root.")
    collections: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = Field(
        (),
        max_length=MAX_COLLECTIONS - 1,
        description="Names of further indexes to serve, separated by commas; `*`: all indexes in the root, also later "
        "ones.",
    )
    embedder_url: BaseUrl = Field("http://127.0.0.1:8084", description="Base URL of the embedder's HTTP port.")
    forward_authorization: bool = Field(False, description="Whether the embedder gets callers' Authorization header.")
    embedder_model: str = Field("minilm", min_length=1, description="Model of the embedder: minilm, bert or bge_m3.")
    num_docs: int = Field(4, ge=0, le=MAX_NUM_DOCS, description="Passages per query, unless the query sets num_docs.")
    candidates: int = Field(
        50, ge=1, le=1000, description="Candidates of each first-stage search, such as dense and lexical."
    )
    rescore: int = Field(
        32, ge=1, le=1000, description="Candidates rescored by late interaction, if the index has multi-vectors."
    )
    mode: Mode = Field(
        "rescored",
        description="Signals to use, unless the query sets mode: dense, lexical, fused, or rescored (the same as fused "
        "if the index has no multi-vectors).",
    )
    dense_weight: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Weight of the cosine. By default up to 0.4, or up to 1/6 with BM25 and late interaction, "
        "depending on how well it finds sentences of the index.",
    )
    lexical_weight: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Weight of BM25. By default 0.6; 1/3 with late interaction; 0 with learned sparse vectors.",
    )
    sparse_weight: float | None = Field(
        None, ge=0, le=1, description="Weight of learned sparse vectors, if the index has them. By default 0.2."
    )
    multi_vector_weight: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Weight of late interaction, if the index has multi-vectors. By default 0.4, or up to 1/2 with "
        "BM25, depending on how well it finds sentences of the index.",
    )
    store: Annotated[str, AfterValidator(_store)] = Field(
        AUTO,
        description="Store that searches the vectors. exact: compares the query with all of them; chroma: HNSW; "
        "chroma_server, milvus, pgvector: HNSW on a server; pinecone: the service; auto: the store that the index was "
        "built with if the index is large, else exact.",
    )
    response_shape: ResponseShape = Field(
        "passages", description="v1 predictions: passages with their sources, or strings for clients of earlier graphs."
    )
    reload_interval_s: float = Field(1.0, gt=0, le=3600, description="Seconds between checks for a new version.")
