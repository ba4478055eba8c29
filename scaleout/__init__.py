"""Runs the services and ingestion on a Ray cluster, without KServe."""
