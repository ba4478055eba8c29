"""Settings of the command line and the launcher, from `KSERVE_RAG_*` variables. Options of a command come first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from kserve_rag.errors import UsageError

HOST = "127.0.0.1"
"""All services of a graph on one machine listen here, and only here."""


def _own_home() -> Path:
    try:
        return Path.home() / ".kserve-rag"
    except RuntimeError:
        # A container's user that nobody has named.
        raise UsageError("This user has no home directory. Set KSERVE_RAG_HOME to a folder that is kept.") from None


def _whole(path: Path) -> Path:
    """The services run in another folder: for them a relative path would be another one."""
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from None


_Path = Annotated[Path, AfterValidator(_whole)]


class Settings(BaseSettings):
    """Where things are kept, on which ports the graph listens, and how models are fetched."""

    model_config = SettingsConfigDict(env_prefix="KSERVE_RAG_", extra="ignore", populate_by_name=True)

    home: _Path = Field(
        default_factory=_own_home, description="Folder for models, environments, indexes, logs and the running graph."
    )
    models_dir: _Path | None = Field(None, description="Folder of the model cache. By default <home>/models.")
    envs_dir: _Path | None = Field(None, description="Folder of the Triton environments. By default <home>/envs.")

    port: int = Field(
        8080, ge=0, le=65_535, description="HTTP port of the transformer. Taken: an error. 0: a free one."
    )
    grpc_port: int = Field(
        8081, ge=0, le=65_535, description="gRPC port of the transformer. Taken: an error. 0: a free one."
    )
    vectorstore_port: int = Field(8082, ge=0, le=65_535, description="Taken or 0: a free one is used.")
    embedder_port: int = Field(8084, ge=0, le=65_535, description="Taken or 0: a free one is used.")
    embedder_grpc_port: int = Field(8085, ge=0, le=65_535, description="Taken or 0: a free one is used.")
    ingest_port: int = Field(8086, ge=0, le=65_535, description="Taken or 0: a free one is used.")
    page_port: int = Field(8088, ge=0, le=65_535, description="Port of the web page. Taken: an error. 0: a free one.")
    predictor_port: int = Field(8090, ge=0, le=65_535, description="Taken or 0: a free one is used.")
    predictor_grpc_port: int = Field(8091, ge=0, le=65_535, description="Taken or 0: a free one is used.")

    embedder: str | None = Field(None, description="Name in the catalogue, or folder. By default the catalogue's own.")
    model: str | None = Field(None, description="Name in the catalogue, or GGUF file. By default the catalogue's own.")
    index_name: str = Field("default", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$", description="Name of the index.")

    start_timeout_s: float = Field(300, gt=0, description="Seconds until a service that is not ready is given up.")
    stop_timeout_s: float = Field(15, gt=0, description="Seconds until a service that does not end is killed.")

    token: SecretStr | None = Field(
        None,
        description="Sent as `Authorization: Bearer …` by `ask` and `mcp`, to a graph that wants one. Never logged.",
    )

    drain_timeout_s: float = Field(
        60, gt=0, description="Seconds that a process which is replaced has for the requests that it was sent."
    )

    data: _Path | None = Field(None, description="Folder of datasets that `kserve-rag eval` finds by name.")

    offline: bool = Field(False, description="Use what is cached and fetch nothing.")
    triton_python: Path | None = Field(
        None, description="Python for the Triton environment, 3.10 to 3.12. By default this one, or one on the PATH."
    )
    hub_url: str = Field(
        "https://huggingface.co", validation_alias="HF_ENDPOINT", description="Base URL of the model hub."
    )
    hub_token: SecretStr | None = Field(
        None, validation_alias="HF_TOKEN", description="Token for gated models of the hub. Never logged."
    )

    @property
    def models(self) -> Path:
        """The model cache."""
        return self.models_dir or self.home / "models"

    @property
    def envs(self) -> Path:
        """Where Triton environments are built."""
        return self.envs_dir or self.home / "envs"

    @property
    def run(self) -> Path:
        """State and logs of the running graph."""
        return self.home / "run"

    @property
    def indexes(self) -> Path:
        """All index versions."""
        return self.home / "indexes"
