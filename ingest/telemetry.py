"""Metrics of the service, as `chassis.signals` declares them."""

from __future__ import annotations

from chassis import metrics, signals

TASKS = metrics.counter(signals.INGEST_TASKS)
WAITING = metrics.gauge(signals.INGEST_WAITING)
DOCUMENTS = metrics.counter(signals.INGEST_DOCUMENTS)
BYTES = metrics.counter(signals.INGEST_BYTES)
