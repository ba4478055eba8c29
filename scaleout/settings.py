"""Settings of ingestion on Ray, from `SCALEOUT_…` variables."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ScaleoutSettings(BaseSettings):
    """Number and size of the workers."""

    model_config = SettingsConfigDict(env_prefix="SCALEOUT_")

    workers: int = Field(4, ge=1, le=10_000, description="Number of workers that parse, and of workers that embed.")
    parser_cpus: float = Field(
        1, gt=0, le=64, description="CPUs that Ray reserves for each parsing worker. Embedding workers mostly wait."
    )
    files_per_task: int = Field(
        16, ge=1, le=100_000, description="Maximum number of files that a worker gets at a time."
    )
