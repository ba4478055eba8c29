"""Models on this machine: the catalogue, fetching and conversion, and the cache."""
