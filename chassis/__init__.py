"""Code shared by all services: HTTP client and server, errors, telemetry, settings. Knows nothing about RAG."""
