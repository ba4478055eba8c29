"""Spans and metrics of the vectorstore."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from chassis import metrics, tracing
from vectorstore.search.passages import QueryResult
from vectorstore.wire import ServedIndexes

SEARCH = tracing.SpanType(
    "search",
    "internal",
    "Embeds and searches all queries of a request.",
    ("kserve_rag.queries", "kserve_rag.passages", "kserve_rag.index.version"),
)

_HOP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
EMBED_DURATION = metrics.Metric(
    "kserve_rag_embed_seconds",
    "histogram",
    "seconds",
    "Time until the embedder has responded to the queries of a request.",
    buckets=_HOP_S,
)
SEARCH_DURATION = metrics.Metric(
    "kserve_rag_search_seconds",
    "histogram",
    "seconds",
    "Time to search for the embedded queries of a request.",
    buckets=_HOP_S,
)
PASSAGES = metrics.Metric(
    "kserve_rag_passages_found",
    "histogram",
    "passages",
    "Number of passages found for a query.",
    buckets=(0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
)
INDEX_INFO = metrics.Metric(
    "kserve_rag_index_info",
    "gauge",
    "1",
    "1 for the index version that a collection serves.",
    ("collection", "version", "embedder"),
)
INDEX_DOCUMENTS = metrics.Metric(
    "kserve_rag_index_documents", "gauge", "documents", "Documents in the served version.", ("collection",)
)
INDEX_CHUNKS = metrics.Metric(
    "kserve_rag_index_chunks", "gauge", "chunks", "Chunks in the served version.", ("collection",)
)
INDEX_TROUBLE = metrics.Metric(
    "kserve_rag_index_trouble",
    "gauge",
    "1",
    "1 if a collection serves no version, or its newest version is refused; /v1/indexes has the reason.",
    ("collection",),
)

_EMBED = metrics.histogram(EMBED_DURATION)
_SEARCH = metrics.histogram(SEARCH_DURATION)
_PASSAGES = metrics.histogram(PASSAGES)


def record_search(results: Sequence[QueryResult]) -> None:
    """Records the durations of a request and its numbers of passages."""
    for result in results:
        _PASSAGES.observe(len(result.passages))
    # The queries of a request are embedded and searched together, so their timings are equal.
    timings: Mapping[str, float] = next((result.timings_ms for result in results if result.timings_ms), {})
    if timings:
        _EMBED.observe(timings["embed"] / 1000)
        _SEARCH.observe(timings["search"] / 1000)


def export_indexes(status: Callable[[], ServedIndexes]) -> None:
    """Adds the served index versions to /metrics. `status`: `VectorstoreService.status`."""
    REGISTRY.register(_Indexes(status))


class _Indexes(Collector):
    """Reads the status at each scrape, so that retired versions disappear."""

    def __init__(self, status: Callable[[], ServedIndexes]) -> None:
        self._status = status

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One family per metric."""
        info, documents, chunks, trouble = families = [
            GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            for metric in (INDEX_INFO, INDEX_DOCUMENTS, INDEX_CHUNKS, INDEX_TROUBLE)
        ]
        for name, collection in self._status().collections.items():
            trouble.add_metric([name], float(collection.reason is not None))
            index = collection.index
            if index is not None:
                info.add_metric([name, index.version, index.embedder], 1)
                documents.add_metric([name], index.documents)
                chunks.add_metric([name], index.chunks)
        yield from families
