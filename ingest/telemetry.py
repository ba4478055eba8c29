"""The span and metrics of ingestion."""

from __future__ import annotations

from chassis import metrics, tracing

INGESTION = tracing.SpanType("ingest", "internal", "A run of ingestion: the root of its trace.")

INGEST_TASKS = metrics.Metric(
    "kserve_rag_ingest_tasks_total",
    "counter",
    "tasks",
    "Finished tasks of the ingest service: upload, delete or reindex; succeeded, failed or cancelled.",
    ("kind", "state"),
)
INGEST_WAITING = metrics.Metric(
    "kserve_rag_ingest_tasks_unfinished",
    "gauge",
    "tasks",
    "Tasks of the ingest service that are queued or running.",
    ("kind",),
)
INGEST_DOCUMENTS = metrics.Metric(
    "kserve_rag_ingest_documents_total", "counter", "documents", "Documents made from uploaded files."
)
INGEST_BYTES = metrics.Metric(
    "kserve_rag_ingest_uploaded_bytes_total", "counter", "bytes", "Size of the uploaded files."
)

TASKS = metrics.counter(INGEST_TASKS)
WAITING = metrics.gauge(INGEST_WAITING)
DOCUMENTS = metrics.counter(INGEST_DOCUMENTS)
BYTES = metrics.counter(INGEST_BYTES)
