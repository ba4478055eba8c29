"""Settings of the web page's server, from `FRONTEND_*` variables."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from chassis.settings import BaseUrl, EdgeSettings

_SOURCE = re.compile(r"'self'|'none'|https?:|https?://(\*\.)?[A-Za-z0-9.-]+(:(\d+|\*))?")


def _frame_ancestors(value: str) -> str:
    sources = value.split()
    wrong = [source for source in sources if not _SOURCE.fullmatch(source)]
    if wrong or not sources:
        raise ValueError(f"use 'self', 'none', or sites such as https://portal.example.com, not {value!r}")
    return " ".join(sources)


class FrontendSettings(EdgeSettings):
    """Addresses of the graph, and who may open or embed the page."""

    # The chart and the launcher may set a variable to an empty string: the default applies.
    model_config = SettingsConfigDict(env_prefix="FRONTEND_", extra="ignore", env_ignore_empty=True)

    transformer_url: BaseUrl = Field("http://kserve-rag-transformer", description="Base URL of the transformer.")
    ingest_url: BaseUrl | None = Field(
        None, description="Base URL of the ingest service. Without it, the page does not accept uploads."
    )
    title: str = Field("kserve-rag", max_length=100, description="Title of the page.")
    version: str = Field(
        default_factory=lambda: importlib.metadata.version("kserve-rag"),
        description="Version that the page shows. Default: the installed version.",
    )
    page_dir: Path = Field(Path(__file__).parent / "dist", description="Folder of the built page.")
    frame_ancestors: Annotated[str, AfterValidator(_frame_ancestors)] = Field(
        "'self'", description="Sites that may embed the page, as in a Content-Security-Policy."
    )
    transfer_timeout_s: float = Field(
        3600, gt=0, le=24 * 3600, description="Maximum time for an upload or for following a task, in seconds."
    )
    max_body_bytes: int = Field(
        1024 * 1024 * 1024,
        ge=1024,
        description="Maximum size of an upload, in bytes. Ingest has its own, smaller limits.",
    )
