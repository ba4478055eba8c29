"""`python -m vectorstore`: settings, logging, then the server until it is told to stop."""

from __future__ import annotations

from chassis.server import serve
from chassis.settings import load_settings
from chassis.telemetry import configure_logging
from embedder.client import EmbedderClient
from vectorstore.server import VectorstoreModel, routes
from vectorstore.service import VectorstoreService
from vectorstore.settings import VectorstoreSettings
from vectorstore.versions import IndexRoot


def main() -> None:
    """Runs the service."""
    settings = load_settings(VectorstoreSettings)
    configure_logging(settings.log_level, settings.log_format)
    service = VectorstoreService(
        IndexRoot(settings.index_root, settings.index_name),
        EmbedderClient(settings.embedder_url, model=settings.embedder_model),
        num_docs=settings.num_docs,
        candidates=settings.candidates,
        store=settings.store,
        reload_interval_s=settings.reload_interval_s,
    )
    model = VectorstoreModel(service, response_shape=settings.response_shape, timeout_s=settings.timeout_s)
    serve(model, settings, routers=[routes(service)], lifespan=service.running)


if __name__ == "__main__":
    main()
