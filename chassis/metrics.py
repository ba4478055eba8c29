"""Prometheus instruments out of their declarations, on the registry that /metrics shows."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from chassis.signals import Metric

__all__ = ["Counter", "Gauge", "Histogram", "counter", "gauge", "histogram"]


def counter(metric: Metric) -> Counter:
    """The counter that is declared so. Once per process, by the room that owns it."""
    # The library adds the suffix itself.
    return Counter(metric.name.removesuffix("_total"), metric.help, metric.labels)


def gauge(metric: Metric) -> Gauge:
    """The gauge that is declared so. Once per process, by the room that owns it."""
    return Gauge(metric.name, metric.help, metric.labels)


def histogram(metric: Metric) -> Histogram:
    """The histogram that is declared so. Once per process, by the room that owns it."""
    return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets)
