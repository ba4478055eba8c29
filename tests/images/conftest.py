"""Each image is staged once, in a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.images.recipes import Recipe
from tests.images.staging import Staged, StagingError, UnavailableError, stage


@pytest.fixture(scope="session")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Staged]:
    """Service → its staged image, from the packages in uv's cache."""
    done: dict[str, Staged | UnavailableError] = {}

    def get(service: str) -> Staged:
        if service not in done:
            root: Path = tmp_path_factory.mktemp(f"image-{service}")
            try:
                done[service] = stage(Recipe.read(service), root, offline=True)
            except UnavailableError as error:
                done[service] = error
            except StagingError as error:
                pytest.fail(str(error))
        found = done[service]
        if isinstance(found, UnavailableError):
            pytest.skip(f"{service} cannot be installed without a network (`make image-sizes` does it): {found}")
        return found

    return get
