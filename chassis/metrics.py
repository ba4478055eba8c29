"""Prometheus metrics: declarations, which documentation and dashboards read, and the instruments made from them.

Source: https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prometheus_client import Counter, Gauge, Histogram

__all__ = ["Counter", "Gauge", "Histogram", "Metric", "counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """The declaration of a metric on /metrics, made by the package that records it."""

    name: str
    """Without the suffixes of a histogram's series (`_bucket`, `_sum`, `_count`)."""
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets."""

    def series(self) -> tuple[str, ...]:
        """Names of the metric's series in Prometheus."""
        if self.kind == "histogram":
            return (f"{self.name}_bucket", f"{self.name}_sum", f"{self.name}_count")
        return (self.name,)


def counter(metric: Metric) -> Counter:
    """Registers a counter. Call it once per process."""
    return Counter(metric.name.removesuffix("_total"), metric.help, metric.labels)  # the library adds the suffix


def gauge(metric: Metric) -> Gauge:
    """Registers a gauge. Call it once per process."""
    return Gauge(metric.name, metric.help, metric.labels)


def histogram(metric: Metric) -> Histogram:
    """Registers a histogram. Call it once per process."""
    return Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets)
