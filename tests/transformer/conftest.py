from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from predictor.client import PromptFormat


@pytest.fixture(scope="session")
def prompt_format() -> PromptFormat:
    """SmolLM2's own."""
    from kserve_rag.models.store import ModelStore
    from kserve_rag.settings import Settings
    from predictor.client import PromptFormat

    return PromptFormat.load(ModelStore(Settings().models).materialise("smollm2-135m", "llm").path)
