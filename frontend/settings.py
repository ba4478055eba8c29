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
_HOST = re.compile(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]")


def _frame_ancestors(value: str) -> str:
    sources = value.split()
    wrong = [source for source in sources if not _SOURCE.fullmatch(source)]
    if wrong or not sources:
        raise ValueError(f"name 'self', 'none', or sites such as https://portal.example.com, not {value!r}")
    return " ".join(sources)


def _hosts(value: str) -> str:
    wrong = [host for host in value.split(",") if not _HOST.fullmatch(host.strip())] if value else []
    if wrong:
        raise ValueError(f"name hosts without scheme and port, with commas between them: {wrong[0]!r} is none")
    return value


class FrontendSettings(EdgeSettings):
    """Where the graph is, and who may see the page."""

    # The chart and the launcher may set a variable to nothing: that is its default.
    model_config = SettingsConfigDict(env_prefix="FRONTEND_", extra="ignore", env_ignore_empty=True)

    transformer_url: BaseUrl = Field("http://kserve-rag-transformer", description="Base URL of the transformer.")
    ingest_url: BaseUrl | None = Field(
        None, description="Base URL of the ingest service. Without one the page takes no documents."
    )
    title: str = Field("kserve-rag", max_length=100, description="What the page is called.")
    version: str = Field(
        default_factory=lambda: importlib.metadata.version("kserve-rag"),
        description="Version that the page shows; by default the installed one.",
    )
    page_dir: Path = Field(Path(__file__).parent / "dist", description="Folder of the built page.")
    frame_ancestors: Annotated[str, AfterValidator(_frame_ancestors)] = Field(
        "'self'", description="Sites that may show the page in a frame, as in a Content-Security-Policy."
    )
    allowed_hosts: Annotated[str, AfterValidator(_hosts)] = Field(
        "",
        description="Names under which the page may be asked for, with commas between them. Empty: on a loopback "
        "address its own names alone, otherwise every name.",
    )
    transfer_timeout_s: float = Field(
        3600, gt=0, le=24 * 3600, description="Longest time for an upload, or to follow a task, in seconds."
    )
    max_body_bytes: int = Field(
        1024 * 1024 * 1024,
        ge=1024,
        description="Largest upload that is passed on, in bytes. Ingest has its own, smaller limits.",
    )

    def known_hosts(self) -> frozenset[str] | None:
        """Lower-case names under which the page answers; None: every name."""
        if self.allowed_hosts:
            return frozenset(host.strip().lower() for host in self.allowed_hosts.split(","))
        if self.host in ("localhost", "::1") or self.host.startswith("127."):
            # A site of somebody else's whose name leads to this machine would otherwise read the documents here.
            return frozenset({"localhost", "127.0.0.1", "[::1]", self.host})
        return None
