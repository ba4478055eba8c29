"""`python -m scaleout PATH…`: builds an index version on a Ray cluster. Takes the arguments of `python -m ingest`.

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
    # Set before Ray is imported: no usage statistics by default, and no second cluster if Ray is called after we have
    # disconnected.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    from scaleout.workers import ray_executor

    # The run reports its own progress.
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)

    return ingest(arguments, prog="python -m scaleout", open_executor=lambda settings: ray_executor(settings, scaleout))


if __name__ == "__main__":
    sys.exit(main())
