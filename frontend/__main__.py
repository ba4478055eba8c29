"""`python -m frontend`: reads the settings, starts telemetry and runs the server."""

from __future__ import annotations

import logging

from chassis.serving import serve
from chassis.settings import load_settings
from chassis.telemetry import start_telemetry
from frontend.assets import NOT_BUILT, Page
from frontend.server import application
from frontend.settings import FrontendSettings

logger = logging.getLogger("frontend")


def main() -> None:
    """Serves until SIGTERM."""
    settings = load_settings(FrontendSettings)
    start_telemetry("frontend", settings.log_level, settings.log_format)
    page = Page(settings.page_dir)

    async def not_ready_reason() -> str | None:
        return NOT_BUILT if page.index() is None else None

    serve(application(settings, page), settings, name="frontend", not_ready_reason=not_ready_reason)


if __name__ == "__main__":
    main()
