"""Sources to documents, chunks, vectors and a new index version."""
