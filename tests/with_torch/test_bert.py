"""Encoders of BERT's family without torch compared with transformers, on small random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModel

from embedder.encoders import load_encoder
from embedder.settings import EncoderSettings
from tests.tiny_bert import FAMILIES, TEXTS, TOKENS, write_folder

pytestmark = pytest.mark.torch

TOLERANCE = 1e-5
"""Largest absolute difference in fp32."""


def _reference(folder: Path, pooling: str) -> npt.NDArray[np.float32]:
    """Each text alone through transformers, pooled and normalised."""
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    rows = []
    for text in TEXTS:
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.no_grad():
            (hidden,) = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        pooled = hidden[0] if pooling == "cls" else hidden.mean(dim=0)
        rows.append(torch.nn.functional.normalize(pooled, dim=0).numpy())
    return np.array(rows)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("family", FAMILIES)
def test_parity_with_transformers(tmp_path: Path, family: str, pooling: str) -> None:
    write_folder(tmp_path, family, {"pooling": pooling})
    encoder = load_encoder(tmp_path, EncoderSettings(architecture="bert"))
    np.testing.assert_allclose(encoder.encode(TEXTS).dense, _reference(tmp_path, pooling), atol=TOLERANCE, rtol=0)


def test_torch_checkpoints_are_read(tmp_path: Path) -> None:
    write_folder(tmp_path, "bert", {"pooling": "mean"})
    encoded = load_encoder(tmp_path, EncoderSettings(architecture="bert")).encode(TEXTS).dense
    model = AutoModel.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    again = load_encoder(tmp_path, EncoderSettings(architecture="bert")).encode(TEXTS).dense
    np.testing.assert_array_equal(again, encoded)
