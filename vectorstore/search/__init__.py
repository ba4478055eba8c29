"""Searches an index: plans the search, finds and scores candidates, and selects passages."""
