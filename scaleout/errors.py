"""Errors of ingestion on Ray, in addition to `ingest.errors`."""

from __future__ import annotations

from ingest.errors import IngestError


class ClusterError(IngestError):
    """The Ray cluster cannot be reached, or lost too many workers. The index is unchanged."""
