"""The public Python client."""

from kserve_rag.client.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]
