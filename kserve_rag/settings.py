"""Settings of the command line and the local graph, from `KSERVE_RAG_*` variables. Options override them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from kserve_rag.errors import UsageError

INDEX_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"

HOST = "127.0.0.1"
"""Address that all services of a local graph listen on."""


def _own_home() -> Path:
    try:
        return Path.home() / ".kserve-rag"
    except RuntimeError:
        # For example, in a container with an arbitrary user id.
        raise UsageError("This user has no home directory. Set KSERVE_RAG_HOME to a persistent folder.") from None


def _absolute(path: Path) -> Path:
    """Make a path absolute: the services run in another folder."""
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from None


_Path = Annotated[Path, AfterValidator(_absolute)]


class Settings(BaseSettings):
    """Folders, ports, models and timeouts of a local graph."""

    model_config = SettingsConfigDict(env_prefix="KSERVE_RAG_", extra="ignore", populate_by_name=True)

    home: _Path = Field(
        default_factory=_own_home,
        description="Folder for models, environments, indexes, logs and the state of the running graph.",
    )
    models_dir: _Path | None = Field(None, description="Folder of the model cache. By default `<home>/models`.")
    envs_dir: _Path | None = Field(None, description="Folder of the Triton environments. By default `<home>/envs`.")

    port: int = Field(
        8080, ge=0, le=65_535, description="HTTP port of the transformer. An error if it is in use. 0: any free port."
    )
    grpc_port: int = Field(
        8081, ge=0, le=65_535, description="gRPC port of the transformer. An error if it is in use. 0: any free port."
    )
    vectorstore_port: int = Field(8082, ge=0, le=65_535, description="Any free port if it is 0 or in use.")
    embedder_port: int = Field(8084, ge=0, le=65_535, description="Any free port if it is 0 or in use.")
    embedder_grpc_port: int = Field(8085, ge=0, le=65_535, description="Any free port if it is 0 or in use.")
    ingest_port: int = Field(8086, ge=0, le=65_535, description="Any free port if it is 0 or in use.")
    page_port: int = Field(
        8088, ge=0, le=65_535, description="Port of the web page. An error if it is in use. 0: any free port."
    )
    predictor_port: int = Field(8090, ge=0, le=65_535, description="Any free port if it is 0 or in use.")
    predictor_grpc_port: int = Field(8091, ge=0, le=65_535, description="Any free port if it is 0 or in use.")

    embedder: str | None = Field(None, description="Embedder: a name of the catalogue, or a folder.")
    model: str | None = Field(None, description="LLM: a name of the catalogue, or a GGUF file.")
    models_file: _Path | None = Field(
        None, description="File with further LLMs, remote ones for example, that questions choose by `model`."
    )
    index_name: str = Field("default", pattern=INDEX_NAME, description="Name of the index.")

    start_timeout_s: float = Field(300, gt=0, description="Maximum time for a service to become ready.")
    stop_timeout_s: float = Field(
        15, gt=0, description="Time between SIGTERM and SIGKILL for a service that does not exit."
    )

    token: SecretStr | None = Field(
        None,
        description="Bearer token that `ask` and `mcp` send to the graph. Never logged.",
    )

    drain_timeout_s: float = Field(60, gt=0, description="Time for a replaced process to finish its requests.")

    data: _Path | None = Field(None, description="Folder with the datasets of `kserve-rag eval`.")

    offline: bool = Field(False, description="Use cached models only; download nothing.")
    triton_python: Path | None = Field(
        None, description="Python of the Triton environment, 3.10 to 3.12. Default: this one, or one on the PATH."
    )
    hub_url: str = Field(
        "https://huggingface.co", validation_alias="HF_ENDPOINT", description="Base URL of the Hugging Face hub."
    )
    hub_token: SecretStr | None = Field(
        None,
        validation_alias="HF_TOKEN",
        description="Token for gated models. Default: the token of `hf auth login`. Never logged.",
    )

    @property
    def models(self) -> Path:
        """Folder of the model cache."""
        return self.models_dir or self.home / "models"

    @property
    def envs(self) -> Path:
        """Folder of the Triton environments."""
        return self.envs_dir or self.home / "envs"

    @property
    def run(self) -> Path:
        """Folder with the state and logs of the running graph."""
        return self.home / "run"

    @property
    def indexes(self) -> Path:
        """Folder of the index versions."""
        return self.home / "indexes"
