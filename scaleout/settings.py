"""Settings of ingestion on Ray, from `SCALEOUT_…` variables."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ScaleoutSettings(BaseSettings):
    """How many work, and what each of them takes."""

    model_config = SettingsConfigDict(env_prefix="SCALEOUT_")

    workers: int = Field(4, ge=1, le=10_000, description="Workers that parse, and as many that embed.")
    parser_cpus: float = Field(
        1, gt=0, le=64, description="CPUs that Ray sets aside for a worker that parses. Those that embed wait, mostly."
    )
    files_per_task: int = Field(
        16, ge=1, le=100_000, description="Files that a worker is given at a time; fewer where there are few."
    )
