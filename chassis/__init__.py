"""Plumbing that all rooms share: HTTP client and server, errors, telemetry, settings. Knows no noun of RAG."""
