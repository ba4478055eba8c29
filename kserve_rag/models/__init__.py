"""Models: the catalogue, fetching, and the folders on this machine."""
