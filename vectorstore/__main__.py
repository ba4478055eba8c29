"""`python -m vectorstore`: reads the settings, starts logging and runs the server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chassis.server import ModelService
    from vectorstore.settings import VectorstoreSettings


def main() -> None:
    """Runs the service."""
    # Set before numpy is imported. OpenBLAS threads spin while they wait for each other: a search of 20,000 vectors
    # takes 5.3 ms of CPU with two of them, 1.4 ms with one.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from chassis.server import serve
    from chassis.settings import load_settings
    from chassis.telemetry import start_telemetry
    from vectorstore.settings import VectorstoreSettings
    from vectorstore.stores import AUTO, STORES

    settings = load_settings(VectorstoreSettings)
    if settings.store != AUTO:
        load_settings(STORES.get(settings.store).settings)  # fails before the port opens
    start_telemetry("vectorstore", settings.log_level, settings.log_format)
    serve(model_service(settings))


def model_service(settings: VectorstoreSettings) -> ModelService:
    """The service with these settings."""
    from chassis.server import ModelService
    from embedder.client import EmbedderClient
    from vectorstore.search.scoring import Weights
    from vectorstore.server import API, VectorstoreModel, routes
    from vectorstore.service import VectorstoreService
    from vectorstore.settings import ALL
    from vectorstore.telemetry import export_indexes
    from vectorstore.versions import IndexRoot

    names = [name for name in dict.fromkeys((settings.index_name, *settings.collections)) if name != ALL]
    service = VectorstoreService(
        [IndexRoot(settings.index_root, name) for name in names],
        EmbedderClient(
            settings.embedder_url,
            model=settings.embedder_model,
            forward_authorization=settings.forward_authorization,
        ),
        num_docs=settings.num_docs,
        candidates=settings.candidates,
        rescore=settings.rescore,
        mode=settings.mode,
        weights=Weights(
            dense=settings.dense_weight,
            lexical=settings.lexical_weight,
            sparse=settings.sparse_weight,
            multi_vector=settings.multi_vector_weight,
        ),
        store=settings.store,
        reload_interval_s=settings.reload_interval_s,
        restricted=settings.identifies_callers,
        discover=(lambda: IndexRoot.all(settings.index_root)) if ALL in settings.collections else list,
    )
    export_indexes(service.whole_status)
    model = VectorstoreModel(service, response_shape=settings.response_shape, timeout_s=settings.timeout_s)
    return ModelService(
        model, settings, routers=[routes(service, timeout_s=settings.timeout_s)], api=API, lifespan=service.running
    )


if __name__ == "__main__":
    main()
