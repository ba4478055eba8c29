"""The services and ingestion on a Ray cluster without KServe: Ray Serve and Ray Data."""
