"""BGE-M3 without torch compared with FlagEmbedding's BGEM3FlagModel, on small random weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from FlagEmbedding import BGEM3FlagModel

from embedder.encoders import Encoder, load_encoder
from embedder.encoders.flag_embedding import FlagEmbeddingEncoder
from embedder.errors import ModelFolderError
from embedder.export import export
from embedder.settings import EncoderSettings, Precision
from embedder.wire import SparseVector
from tests.with_torch.tiny_bge_m3 import HIDDEN, MAX_TOKENS, write_tokenizer, write_weights

pytestmark = pytest.mark.torch

TOLERANCE = 1e-4
"""Largest absolute difference in fp32."""

TEXTS = [
    "What is BGE M3?",
    "",
    "An inference graph joins a transformer, a predictor, a vector store and an embedder. " * 8,
    "検索 检索增强生成 は",
    "Der Einbetter verwandelt Texte in Vektoren.",
    "unknown signs: ☃ 🜚, and \u200b\ufeff\x00",
    "control tokens in the text: <s> <pad> </s> <mask> <unk>",
    "Texte Texte Texte Texte",
    " ",
    "Поиск по документам." * 3,
]


@pytest.fixture(scope="session")
def reference(model_dir: Path) -> dict[str, Any]:
    model = BGEM3FlagModel(str(model_dir), use_fp16=False, devices="cpu")
    return dict(
        model.encode(
            TEXTS, batch_size=4, max_length=MAX_TOKENS, return_dense=True, return_sparse=True, return_colbert_vecs=True
        )
    )


@pytest.fixture(scope="session", params=["openvino", "flagembedding"])
def encoder(request: pytest.FixtureRequest, model_dir: Path) -> Encoder:
    if request.param == "flagembedding":
        return FlagEmbeddingEncoder(model_dir, EncoderSettings(architecture="bge_m3"), device="cpu")
    return load_encoder(model_dir, EncoderSettings(architecture="bge_m3", backend="openvino", precision="f32"))


def _as_dict(vector: SparseVector) -> dict[int, float]:
    return dict(zip(vector.indices.tolist(), vector.weights.tolist(), strict=True))


def test_parity_with_flag_embedding(encoder: Encoder, reference: dict[str, Any]) -> None:
    embeddings = encoder.encode(TEXTS, sparse=True, multi_vectors=True)
    assert embeddings.sparse is not None
    assert embeddings.multi_vectors is not None
    assert encoder.dimension == HIDDEN
    np.testing.assert_allclose(embeddings.dense, reference["dense_vecs"], atol=TOLERANCE, rtol=0)
    for vector, expected in zip(embeddings.sparse, reference["lexical_weights"], strict=True):
        weights = _as_dict(vector)
        known = {int(token): float(weight) for token, weight in expected.items()}
        for token in weights.keys() | known.keys():
            assert abs(weights.get(token, 0) - known.get(token, 0)) <= TOLERANCE
        assert np.all(np.diff(vector.indices) > 0)
        assert np.all(vector.weights > 0)
        assert not {0, 1, 2, 3} & weights.keys()
    for matrix, expected_rows in zip(embeddings.multi_vectors, reference["colbert_vecs"], strict=True):
        assert matrix.shape == expected_rows.shape
        np.testing.assert_allclose(matrix, expected_rows, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.999), ("int8", 0.99)])
@pytest.mark.parametrize("exported", [False, True])
def test_faster_precisions_stay_near(
    precision: Precision, least: float, exported: bool, model_dir: Path, tmp_path: Path, reference: dict[str, Any]
) -> None:
    if exported:
        export(model_dir, tmp_path / "exported", precision, texts=())
        model_dir = tmp_path / "exported"
    encoder = load_encoder(model_dir, EncoderSettings(architecture="bge_m3", backend="openvino", precision=precision))
    embeddings = encoder.encode(TEXTS, sparse=True, multi_vectors=True)
    assert (embeddings.dense * reference["dense_vecs"]).sum(axis=1).min() >= least
    for matrix, expected_rows in zip(embeddings.multi_vectors or (), reference["colbert_vecs"], strict=True):
        assert (matrix * expected_rows).sum(axis=1).min(initial=1) >= least
    for vector, expected in zip(embeddings.sparse or (), reference["lexical_weights"], strict=True):
        weights = _as_dict(vector)
        known = {int(token): float(weight) for token, weight in expected.items()}
        largest = max(known.values(), default=1)
        for token in weights.keys() | known.keys():
            assert abs(weights.get(token, 0) - known.get(token, 0)) <= 0.1 * largest


def test_the_reference_tells_texts_apart(reference: dict[str, Any]) -> None:
    """Else parity would say nothing."""
    similarity = reference["dense_vecs"] @ reference["dense_vecs"].T
    assert np.sort(similarity, axis=1)[:, -2].max() < 0.999
    assert sum(len(weights) for weights in reference["lexical_weights"]) > 20


def test_batch_equals_single(encoder: Encoder) -> None:
    together = encoder.encode(TEXTS, sparse=True, multi_vectors=True)
    assert together.sparse is not None
    assert together.multi_vectors is not None
    for row, text in enumerate(TEXTS):
        alone = encoder.encode([text], sparse=True, multi_vectors=True)
        assert alone.sparse is not None
        assert alone.multi_vectors is not None
        np.testing.assert_allclose(alone.dense[0], together.dense[row], atol=1e-5)
        np.testing.assert_array_equal(alone.sparse[0].indices, together.sparse[row].indices)
        np.testing.assert_allclose(alone.sparse[0].weights, together.sparse[row].weights, atol=1e-5)
        np.testing.assert_allclose(alone.multi_vectors[0], together.multi_vectors[row], atol=1e-5)


def test_only_requested_outputs_are_computed(encoder: Encoder) -> None:
    dense_only = encoder.encode(TEXTS[:2])
    assert dense_only.sparse is None
    assert dense_only.multi_vectors is None
    none = encoder.encode([], sparse=True, multi_vectors=True)
    assert none.dense.shape == (0, HIDDEN)
    assert none.sparse == none.multi_vectors == ()


def test_rows_are_normalised_and_truncation_is_told(encoder: Encoder) -> None:
    embeddings = encoder.encode(TEXTS, multi_vectors=True)
    assert embeddings.multi_vectors is not None
    assert embeddings.truncated.tolist() == [position == 2 for position in range(len(TEXTS))]
    assert embeddings.token_counts[2] == MAX_TOKENS
    np.testing.assert_allclose(np.linalg.norm(embeddings.dense, axis=1), 1, atol=1e-5)
    for count, matrix in zip(embeddings.token_counts, embeddings.multi_vectors, strict=True):
        assert len(matrix) == count - 1
        np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_weights_stored_in_half_precision(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    write_weights(tmp_path, name, vocabulary=write_tokenizer(tmp_path), dtype=dtype)
    expected: npt.NDArray[np.float32] = BGEM3FlagModel(str(tmp_path), use_fp16=False, devices="cpu").encode(
        TEXTS, max_length=MAX_TOKENS
    )["dense_vecs"]
    encoder = load_encoder(tmp_path, EncoderSettings(architecture="bge_m3", backend="openvino", precision="f32"))
    np.testing.assert_allclose(encoder.encode(TEXTS).dense, expected, atol=TOLERANCE, rtol=0)


def test_both_formats_give_the_same(tmp_path: Path) -> None:
    made = []
    for name in ("pytorch_model.bin", "model.safetensors"):
        folder = tmp_path / name
        folder.mkdir()
        write_weights(folder, name, vocabulary=write_tokenizer(folder))
        encoder = load_encoder(folder, EncoderSettings(architecture="bge_m3", backend="openvino"))
        made.append(encoder.encode(TEXTS).dense)
    np.testing.assert_array_equal(*made)


@pytest.mark.parametrize("missing", ["sparse_linear.pt", "colbert_linear.pt", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("backend", ["openvino", "flagembedding"])
def test_a_missing_file_is_an_error(model_dir: Path, tmp_path: Path, missing: str, backend: str) -> None:
    folder = tmp_path / "incomplete"
    shutil.copytree(model_dir, folder)
    (folder / missing).unlink()
    with pytest.raises(ModelFolderError, match=missing):
        load_encoder(folder, EncoderSettings(architecture="bge_m3", backend=backend))  # type: ignore[arg-type]


def test_auto_takes_openvino_where_there_is_no_cuda_device(model_dir: Path) -> None:
    encoder = load_encoder(model_dir, EncoderSettings(architecture="bge_m3"))
    assert isinstance(encoder, FlagEmbeddingEncoder) == torch.cuda.is_available()
