"""Signals that compare a chunk with a query: dense vectors, words, learned sparse vectors, multi-vectors."""
