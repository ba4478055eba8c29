from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

if importlib.util.find_spec("FlagEmbedding") is None:
    collect_ignore_glob = ["test_*.py"]  # run by `make test-torch`
else:
    from tests.with_torch.tiny_bge_m3 import write_tokenizer, write_weights

    @pytest.fixture(scope="session", params=["pytorch_model.bin", "model.safetensors"])
    def model_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A folder in the layout of BAAI/bge-m3 with small random weights, in either format."""
        folder = tmp_path_factory.mktemp("bge_m3")
        write_weights(folder, request.param, vocabulary=write_tokenizer(folder))
        return folder
