"""Finds passages for queries: immutable index versions, their stores and lexical indexes, and the service on top."""
