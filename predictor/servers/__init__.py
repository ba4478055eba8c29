"""LLM servers: one file per wire protocol, found by the entry points of the group `kserve_rag.llm_servers`."""
