"""Follows the sources of an index: reads them again at an interval, and publishes what has changed."""

from __future__ import annotations

import asyncio
import logging

from chassis.errors import ServiceError
from ingest import pipeline
from ingest.errors import IngestError
from ingest.served_index import ServedIndex
from ingest.settings import IngestServerSettings
from ingest.sources import followed

logger = logging.getLogger("ingest")


async def watch(settings: IngestServerSettings, index: ServedIndex) -> None:
    """Runs until it is cancelled. Logs problems when they begin; then the index stays as it is."""
    settings = settings.model_copy(update={"index_name": index.name})
    logged = ""
    while True:
        await asyncio.sleep(settings.watch_s)
        problem = ""
        try:
            sources = list(settings.sources) or await asyncio.to_thread(followed, index.folder)
            summary = await pipeline.run(settings, sources) if sources else None
        except (IngestError, ServiceError, OSError) as error:
            problem = str(error)
        else:
            if summary is not None and not summary.unchanged:
                logger.info("sources of index %s have changed: published %s", index.name, summary.version)
        if problem and problem != logged:
            logger.warning("sources of index %s cannot be followed: %s", index.name, problem)
        logged = problem
