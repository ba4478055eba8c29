"""Encoders of BERT's family against a forward pass in numpy, and folders that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from embedder.encoders import bert_graph, load_encoder
from embedder.errors import ModelFolderError, SettingsError, TextError
from embedder.folder import Pooling
from embedder.settings import EncoderSettings
from tests.tiny_bert import FAMILIES, HIDDEN, TEXTS, TOKENS, embed, safetensors, write_folder, write_tokenizer

SETTINGS = EncoderSettings(architecture="bert")
TOLERANCE = 1e-5
"""Largest absolute difference of float32 to float64."""


def test_every_family_is_tested() -> None:
    assert set(FAMILIES) == bert_graph.FAMILIES.keys()


@pytest.mark.parametrize("pooling", get_args(Pooling))
@pytest.mark.parametrize("family", FAMILIES)
def test_parity_with_numpy(tmp_path: Path, family: str, pooling: str) -> None:
    weights = write_folder(tmp_path, family, {"pooling": pooling})
    encoder = load_encoder(tmp_path, SETTINGS)
    assert (encoder.dimension, encoder.max_tokens) == (HIDDEN, TOKENS)
    embeddings = encoder.encode(TEXTS)
    expected = np.array([embed(tmp_path, family, weights, text, pooling) for text in TEXTS])
    assert np.abs(expected @ expected.T - 1)[np.triu_indices(6, 1)].min() > 0.001  # it tells texts apart
    np.testing.assert_allclose(embeddings.dense, expected, atol=TOLERANCE)
    assert embeddings.truncated.tolist() == [text.startswith("text ") for text in TEXTS]
    assert embeddings.token_counts[3] == TOKENS


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_texts", [1, 3, 64])
def test_batching_changes_nothing(tmp_path: Path, family: str, batch_texts: int) -> None:
    write_folder(tmp_path, family, {"pooling": "mean"})
    settings = EncoderSettings(architecture="bert", batch_texts=batch_texts, batch_tokens=10_000, streams=1)
    encoder = load_encoder(tmp_path, settings)
    alone = np.concatenate([encoder.encode([text]).dense for text in TEXTS])
    np.testing.assert_allclose(encoder.encode(TEXTS).dense, alone, atol=TOLERANCE)


def test_weights_under_a_prefix(tmp_path: Path) -> None:
    """A checkpoint of, say, RobertaForMaskedLM has the encoder under `roberta.`."""
    weights = write_folder(tmp_path, "roberta", {"pooling": "cls"})
    plain = load_encoder(tmp_path, SETTINGS).encode(TEXTS).dense
    headed = {f"roberta.{name}": tensor for name, tensor in weights.items()}
    headed["lm_head.bias"] = np.zeros(3, np.float32)
    (tmp_path / "model.safetensors").write_bytes(safetensors(headed))
    np.testing.assert_array_equal(load_encoder(tmp_path, SETTINGS).encode(TEXTS).dense, plain)


def test_prefixes_window_and_id_come_from_the_card(tmp_path: Path) -> None:
    plain, carded = tmp_path / "plain", tmp_path / "carded"
    write_folder(plain, "bert", {"pooling": "mean"})
    write_folder(
        carded,
        "bert",
        {"pooling": "mean", "id": "mine", "max_tokens": 12, "query_prefix": "query: ", "passage_prefix": "passage: "},
    )
    encoder = load_encoder(carded, SETTINGS)
    assert encoder.max_tokens == 12
    assert encoder.fingerprint.startswith("mine@sha256:")
    made = encoder.encode(["a chunk", "a chunk"], input_type=["query", "passage"]).dense
    expected = load_encoder(plain, SETTINGS).encode(["query: a chunk", "passage: a chunk"]).dense
    np.testing.assert_allclose(made, expected, atol=TOLERANCE)
    assert np.abs(made[0] - made[1]).max() > 0.01


def test_sentence_transformers_files_are_read(tmp_path: Path) -> None:
    weights = write_folder(tmp_path, "mpnet")
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')
    encoder = load_encoder(tmp_path, SETTINGS)
    assert encoder.max_tokens == 20
    np.testing.assert_allclose(
        encoder.encode(TEXTS[:1]).dense[0], embed(tmp_path, "mpnet", weights, TEXTS[0], "cls"), atol=TOLERANCE
    )


def test_no_more_tokens_than_positions(tmp_path: Path) -> None:
    write_folder(tmp_path, "roberta", {"pooling": "mean", "max_tokens": 10_000})
    encoder = load_encoder(tmp_path, EncoderSettings(architecture="bert", max_tokens=9_000))
    assert encoder.max_tokens == TOKENS
    assert np.isfinite(encoder.encode(["chunk " * 500]).dense).all()


def test_unsupported_outputs_and_backends(tmp_path: Path) -> None:
    write_folder(tmp_path, "bert", {"pooling": "mean"})
    with pytest.raises(TextError, match="no learned token weights"):
        load_encoder(tmp_path, SETTINGS).encode(["a"], sparse=True)
    with pytest.raises(SettingsError, match="choose openvino for bert"):
        load_encoder(tmp_path, EncoderSettings(architecture="bert", backend="flagembedding"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", [None, b"", b"garbage " * 40])
def test_a_missing_or_damaged_file(tmp_path: Path, name: str, damage: bytes | None) -> None:
    write_folder(tmp_path, "bert", {"pooling": "mean"})
    if damage is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(damage)
    with pytest.raises(ModelFolderError, match=name):
        load_encoder(tmp_path, SETTINGS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "modernbert"}, "model_type is 'modernbert'; supported are bert, roberta"),
        ({"hidden_act": "relu"}, "not relu"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"hidden_size": 48}, "word_embeddings"),
        ({"max_position_embeddings": 1000}, "position_embeddings"),
        ({"intermediate_size": 41}, "intermediate"),
        ({"num_hidden_layers": 3}, "encoder.layer.2"),
        ({"num_attention_heads": 5}, "5 heads"),
        ({"layer_norm_eps": None}, "config.json"),
        ({"model_type": "mpnet"}, "another architecture"),
        ({"model_type": ["bert"]}, "config.json"),
    ],
)
def test_a_configuration_that_does_not_fit(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write_folder(tmp_path, "bert", {"pooling": "mean"})
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelFolderError, match=said):
        load_encoder(tmp_path, SETTINGS)


def test_missing_pooling_is_an_error(tmp_path: Path) -> None:
    write_folder(tmp_path, "bert")
    with pytest.raises(ModelFolderError, match=r"does not declare the model's pooling: add an embedder\.json"):
        load_encoder(tmp_path, SETTINGS)


def test_the_tokenizer_of_another_model(tmp_path: Path) -> None:
    weights = write_folder(tmp_path, "bert", {"pooling": "mean"})
    weights["embeddings.word_embeddings.weight"] = weights["embeddings.word_embeddings.weight"][:-1]
    (tmp_path / "model.safetensors").write_bytes(safetensors(weights))
    write_tokenizer(tmp_path, "bert")
    with pytest.raises(ModelFolderError, match="different models"):
        load_encoder(tmp_path, SETTINGS)


def test_an_mpnet_with_another_table(tmp_path: Path) -> None:
    weights = write_folder(tmp_path, "mpnet", {"pooling": "mean"})
    weights["encoder.relative_attention_bias.weight"] = np.zeros((16, 3), np.float32)
    (tmp_path / "model.safetensors").write_bytes(safetensors(weights))
    with pytest.raises(ModelFolderError, match="relative_attention_bias"):
        load_encoder(tmp_path, SETTINGS)
