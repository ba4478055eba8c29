"""How a chunk and a query are compared: dense vectors, words, learned sparse vectors, multi-vectors."""
