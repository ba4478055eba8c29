"""Logging and tracing of a service, started only by its `__main__`.

The log has one line per event on stdout, as text for people or JSON for collectors. Lines logged during a request carry
its ids.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Literal

from chassis import tracing

LogFormat = Literal["text", "json"]

_RECORD_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


request_ids: ContextVar[Mapping[str, str]] = ContextVar("request_ids", default=MappingProxyType({}))
"""`request_id`, and `trace_id` and `span_id` if the request has a trace. Added to the request's log lines."""


class _JsonFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        extra = " ".join(f"{name}={value}" for name, value in _extra(record).items())
        return f"{line}  {extra}" if extra else line


def _extra(record: logging.LogRecord) -> dict[str, object]:
    own = {name: value for name, value in record.__dict__.items() if name not in _RECORD_FIELDS}
    return {**own, **request_ids.get()}


def start_telemetry(service: str, level: str, log_format: LogFormat) -> None:
    """Configures logging, and tracing if OpenTelemetry's variables enable it.

    Args:
        service: the service's name.
        level: least severe level logged. INFO contains no text of questions, documents or prompts.
        log_format: text or JSON.
    """
    tracing.configure(service, os.environ)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        _JsonFormatter(service)
        if log_format == "json"
        else _TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    # KServe and uvicorn write four lines per request; our access log has one with the same content.
    for name in ("kserve.trace", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
    kserve_logger = logging.getLogger("kserve")
    kserve_logger.handlers = [handler]
    kserve_logger.propagate = False
