"""Scale out on Ray, where there is no KServe: the services on Ray Serve, ingestion as a Ray Data job."""
