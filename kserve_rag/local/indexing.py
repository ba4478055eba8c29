"""Indexes documents with the running graph's embedder."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from ingest.errors import IngestError, NothingUsableError, RemovalNotConfirmedError
from ingest.events import OnProgress, Summary
from ingest.pipeline import not_read, run
from ingest.settings import IngestSettings
from ingest.skipped import SkippedFile, skipped_files
from ingest.sources import list_files, open_source
from kserve_rag.errors import LaunchError, UsageError
from kserve_rag.local.graph import GraphState, loopback_client
from kserve_rag.settings import Settings
from vectorstore.versions import Holding, IndexRoot, holdings

_SERVED_WITHIN_S = 60


def index(
    state: GraphState,
    sources: Sequence[str | Path],
    on_progress: OnProgress | None = None,
    *,
    collection: str | None = None,
    allow_removal: bool = False,
) -> Summary:
    """Updates an index, by default the graph's own, from `sources` and its uploads. The embedder must be ready.

    Raises:
        RemovalNotConfirmedError: more than half of the documents would go, and `allow_removal` is not set.
        UsageError: there is no readable document. The index stays unchanged, as in the other case.
    """
    settings = IngestSettings(**_ingest_settings(state) | {"index_name": collection or state.index_name})
    try:
        return asyncio.run(run(settings, sources, on_progress, allow_removal=allow_removal))
    except RemovalNotConfirmedError:
        raise
    except IngestError as error:
        raise UsageError(str(error)) from error


def check_readable(paths: Sequence[Path]) -> None:
    """Raises UsageError if no loader reads any file under these paths."""
    listing = list_files(open_source(path) for path in paths)
    unread = not_read(listing.files)
    if unread or not listing.files:
        raise UsageError(str(NothingUsableError("No file can be read", listing.skipped | unread)))


def ingest_variables(state: GraphState) -> dict[str, str]:
    """Settings of the ingest service, the same as in `index`: otherwise each would embed all chunks again."""
    return {f"INGEST_{name.upper()}": str(value) for name, value in _ingest_settings(state).items()}


def _ingest_settings(state: GraphState) -> dict[str, Any]:
    if state.tokenizer is None:
        raise LaunchError(
            "The embedder's model is not fetched yet. Try again when `kserve-rag status` says it is ready."
        )
    settings: dict[str, Any] = {
        "index_root": state.index_root,
        "index_name": state.index_name,
        "embedder_url": state.services["embedder"].url,
        "embedder_model": state.services["embedder"].model,
        "tokenizer": state.tokenizer,
    }
    if state.window_tokens is not None:
        settings["window_tokens"] = state.window_tokens
    return settings


def indexed_files(settings: Settings) -> list[Holding]:
    """The files of the current index version, sorted by name. Raises UsageError if there is none."""
    root = IndexRoot(settings.indexes, settings.index_name)
    if root.current() is None:
        raise UsageError("There is no index yet: build one with `kserve-rag ingest PATH`.")
    with root.open() as version:
        return holdings(version)


def unused_files(settings: Settings) -> dict[str, SkippedFile]:
    """Name → reason for each file that the index skips or keeps although it can no longer be read."""
    return skipped_files(settings.indexes / settings.index_name)


def wait_until_served(state: GraphState, version: str, collection: str | None = None) -> None:
    """Waits until the vectorstore serves this version of an index. Raises LaunchError after a minute."""
    deadline = time.monotonic() + _SERVED_WITHIN_S
    reason = "it does not answer"
    with loopback_client() as client:
        while time.monotonic() < deadline:
            try:
                answer = client.get(f"{state.services['vectorstore'].url}/v1/indexes").json()
                served = answer["collections"].get(collection or state.index_name)
                if served and served["index"] and served["index"]["version"] == version:
                    return
                reason = (served or {"reason": "it does not serve this index"})["reason"] or "it serves another version"
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                reason = f"it does not answer ({type(error).__name__})"
            time.sleep(0.1)
    raise LaunchError(f"The vectorstore does not serve the new version {version}: {reason}.")
