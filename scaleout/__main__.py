"""Builds an index version on a Ray cluster: `python -m scaleout PATH…`, else as `python -m ingest`.

Settings come from `INGEST_…` variables (ingest/README.md) and from `SCALEOUT_…`.
"""

from __future__ import annotations

import logging
import os
import sys

from chassis.settings import load_settings
from ingest.__main__ import main as ingest
from scaleout.settings import ScaleoutSettings


def main(arguments: list[str] | None = None) -> int:
    """Runs once and returns the exit status."""
    scaleout = load_settings(ScaleoutSettings)
    # Read when Ray is imported. A cluster made for this run reports nothing to Ray's makers, unless it is asked to; and
    # none is made but by us, whatever still calls Ray when we have left it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    from scaleout.workers import ray_executor

    # The run tells its own progress; that Ray's is off is no news.
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)

    return ingest(arguments, prog="python -m scaleout", hire=lambda settings: ray_executor(settings, scaleout))


if __name__ == "__main__":
    sys.exit(main())
