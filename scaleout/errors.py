"""What ends an ingestion on Ray besides what ends any."""

from __future__ import annotations

from ingest.errors import IngestError


class ClusterError(IngestError):
    """The Ray cluster cannot be reached, or has lost more workers than it may. The index is left as it is."""
