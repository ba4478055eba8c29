"""One running graph for everything that is tested as a person meets it: the page, the notebooks, the documentation.

Started by the launcher over this project's own documentation, in a home and on ports of its own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kserve_rag.graph import GraphState
    from kserve_rag.settings import Settings

if importlib.util.find_spec("playwright") is None:
    collect_ignore_glob = ["test_*.py"]  # run by `make test-pages`


@dataclass(frozen=True)
class PeopleGraph:
    """Base URLs of the services that people and their programs speak to."""

    transformer_url: str
    vectorstore_url: str
    frontend_url: str | None
    """None where the launcher starts none, as with the one below."""
    ingest_url: str | None
    home: Path
    index_version: str
    settings: Settings
    state: GraphState


@pytest.fixture(scope="session")
def graph_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home and free ports. Models and the Triton environment are those of the user's home: built once."""
    from kserve_rag.settings import Settings

    shared = Settings()
    ports: dict[str, Any] = {name: 0 for name in Settings.model_fields if name.endswith("port")}
    return Settings(home=tmp_path_factory.mktemp("kserve-rag"), models_dir=shared.models, envs_dir=shared.envs, **ports)


@pytest.fixture(scope="session")
def graph(graph_settings: Settings) -> Iterator[PeopleGraph]:
    """The graph over the bundled documents. Started by the first test that asks for it."""
    from kserve_rag.corpus import bundled, remember
    from kserve_rag.indexing import index, wait_until_served
    from kserve_rag.launcher import launch

    paths = bundled(graph_settings)
    with launch(graph_settings) as running:
        running.wait_ready("embedder")
        summary = index(running.state, paths)
        if summary.version is None:
            pytest.fail(f"The bundled documents gave no index: {summary.skipped}")
        remember(graph_settings, paths)
        running.wait_ready()
        wait_until_served(running.state, summary.version)
        urls = {name: service.url for name, service in running.state.services.items()}
        yield PeopleGraph(
            transformer_url=urls["transformer"],
            vectorstore_url=urls["vectorstore"],
            frontend_url=urls.get("frontend"),
            ingest_url=urls.get("ingest"),
            home=graph_settings.home,
            index_version=summary.version,
            settings=graph_settings,
            state=running.state,
        )
