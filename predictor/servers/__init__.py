"""Clients of LLM servers, one module per protocol, found by the entry points of `kserve_rag.llm_servers`."""
