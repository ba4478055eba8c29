"""What operators are told of searches and indexes: the metrics of `chassis.signals` that the vectorstore owns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from chassis import metrics, signals
from vectorstore.answering import Found

_EMBED = metrics.histogram(signals.EMBED_DURATION)
_SEARCH = metrics.histogram(signals.SEARCH_DURATION)
_PASSAGES = metrics.histogram(signals.PASSAGES)


def searched(found: Sequence[Found]) -> None:
    """Counts what the queries of one request found, and how long that took."""
    for one in found:
        _PASSAGES.observe(len(one.passages))
    # They were embedded and searched for together: the times are those of all of them.
    timings: Mapping[str, float] = next((one.timings_ms for one in found if one.timings_ms), {})
    if timings:
        _EMBED.observe(timings["embed"] / 1000)
        _SEARCH.observe(timings["search"] / 1000)


def show_indexes(status: Callable[[], Mapping[str, Any]]) -> None:
    """Has /metrics tell which versions serve, as `VectorstoreService.status` knows it."""
    REGISTRY.register(_Indexes(status))


class _Indexes(Collector):
    """Read when it is asked for, so that a version that is gone is not told of."""

    def __init__(self, status: Callable[[], Mapping[str, Any]]) -> None:
        self._status = status

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One family for each declared metric."""
        info, documents, chunks, trouble = families = [
            GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            for metric in (
                signals.INDEX_INFO,
                signals.INDEX_DOCUMENTS,
                signals.INDEX_CHUNKS,
                signals.INDEX_TROUBLE,
            )
        ]
        for name, collection in self._status()["collections"].items():
            trouble.add_metric([name], float(collection["reason"] is not None))
            index = collection["index"]
            if index is not None:
                info.add_metric([name, index["version"], index["embedder"]], 1)
                documents.add_metric([name], index["documents"])
                chunks.add_metric([name], index["chunks"])
        yield from families
