"""The ground under every room: upstream HTTP, the error body, the serving adapter, logging. Knows no noun of RAG."""
