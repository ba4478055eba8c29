"""MiniLM on OpenVINO compared with ONNX Runtime, and properties of every encoder."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from tokenizers import Tokenizer

from embedder.encoders import Encoder, load_encoder
from embedder.errors import ModelFolderError, SettingsError, TextError
from embedder.settings import EncoderSettings, PrecisionSetting

FOLDER = Path(os.environ["EMBEDDER_MODEL_DIR"])

TEXTS = [
    "What is a chunk?",
    "",
    "An index is immutable once built. " * 20,
    "\u200b\ufeff\x00",
    "emoji 👩‍👩‍👧 and 日本語",
    "word " * 1000,
    "A text of a usual length, as they are met in documentation: a sentence or two, perhaps three.",
    "   ",
    "Ein anderer Text.",
]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(FOLDER, EncoderSettings())


@pytest.fixture(scope="module")
def token_vectors() -> list[npt.NDArray[np.float32]]:
    """Each text alone through ONNX Runtime: float32[tokens, dim], special tokens included."""
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.no_padding()
    session = onnxruntime.InferenceSession(FOLDER / "model.onnx")
    matrices = []
    for text in TEXTS:
        ids = np.array([tokenizer.encode(text).ids], np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        matrices.append(session.run(None, feed)[0][0])
    return matrices


@pytest.fixture(scope="module")
def reference(token_vectors: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Mean-pooled and normalised.

    Source: the usage example of https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2.
    """
    rows = [matrix.mean(axis=0) for matrix in token_vectors]
    return np.array([row / np.linalg.norm(row) for row in rows], np.float32)


def test_multi_vectors_are_the_token_vectors(encoder: Encoder, token_vectors: list[npt.NDArray[np.float32]]) -> None:
    embeddings = encoder.encode(TEXTS, multi_vectors=True)
    assert embeddings.multi_vectors is not None
    for matrix, expected in zip(embeddings.multi_vectors, token_vectors, strict=True):
        wanted = expected[1:-1] if len(expected) > 2 else expected[:1]  # of an empty text something is left
        np.testing.assert_allclose(matrix, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_array_equal(embeddings.dense, encoder.encode(TEXTS).dense)
    assert encoder.encode([], multi_vectors=True).multi_vectors == ()


def test_parity_with_onnx_runtime(encoder: Encoder, reference: npt.NDArray[np.float32]) -> None:
    np.testing.assert_allclose(encoder.encode(TEXTS).dense, reference, atol=1e-5)


@pytest.mark.parametrize(("precision", "least_cosine"), [("int8", 0.998), ("bf16", 0.999)])
def test_faster_precisions_stay_near(
    precision: PrecisionSetting, least_cosine: float, reference: npt.NDArray[np.float32]
) -> None:
    dense = load_encoder(FOLDER, EncoderSettings(precision=precision)).encode(TEXTS).dense
    assert (dense * reference).sum(axis=1).min() > least_cosine


@pytest.mark.parametrize(
    "settings",
    [
        EncoderSettings(streams=1),
        EncoderSettings(threads=1),
        EncoderSettings(batch_texts=1),
        EncoderSettings(batch_texts=64, batch_tokens=100_000),
        EncoderSettings(batch_tokens=1),
    ],
    ids=str,
)
def test_batching_changes_nothing_but_speed(settings: EncoderSettings, reference: npt.NDArray[np.float32]) -> None:
    texts = [*TEXTS, *reversed(TEXTS)]
    embeddings = load_encoder(FOLDER, settings).encode(texts)
    np.testing.assert_allclose(embeddings.dense, np.concatenate([reference, reference[::-1]]), atol=1e-5)


def test_texts_are_not_changed(encoder: Encoder) -> None:
    texts = list(TEXTS)
    encoder.encode(texts, input_type=["passage"] * len(texts))
    assert texts == TEXTS


def test_truncation_is_reported(encoder: Encoder) -> None:
    embeddings = encoder.encode(TEXTS)
    assert embeddings.truncated.tolist() == [text.startswith("word ") for text in TEXTS]
    assert embeddings.token_counts[5] == encoder.max_tokens == 256
    assert embeddings.token_counts[1] == 2


def test_shorter_limits_and_huge_texts() -> None:
    encoder = load_encoder(FOLDER, EncoderSettings(max_tokens=8))
    assert encoder.max_tokens == 8
    embeddings = encoder.encode(["one two three four five six", "one two three four five six seven", " " * 10_000_000])
    assert embeddings.token_counts.tolist() == [8, 8, 2]
    assert embeddings.truncated.tolist() == [False, True, True]
    assert load_encoder(FOLDER, EncoderSettings(max_tokens=100_000)).max_tokens == 512


def test_a_batch_of_nothing(encoder: Encoder) -> None:
    embeddings = encoder.encode([])
    assert embeddings.dense.shape == (0, 384)
    assert embeddings.dense.dtype == np.float32
    assert embeddings.fingerprint == encoder.fingerprint


def test_several_threads_may_encode(encoder: Encoder, reference: npt.NDArray[np.float32]) -> None:
    with ThreadPoolExecutor(8) as pool:
        for embeddings in pool.map(lambda _: encoder.encode(TEXTS), range(16)):
            np.testing.assert_allclose(embeddings.dense, reference, atol=1e-5)


def test_prefixes_are_put_before_texts(encoder: Encoder) -> None:
    prefixed = load_encoder(FOLDER, EncoderSettings(query_prefix="query: ", passage_prefix="passage: "))
    made = prefixed.encode(["a", "a"], input_type=["query", "passage"])
    np.testing.assert_allclose(made.dense, encoder.encode(["query: a", "passage: a"]).dense, atol=1e-5)


def test_unsupported_outputs_and_settings(encoder: Encoder) -> None:
    with pytest.raises(TextError, match="no learned token weights"):
        encoder.encode(["a"], sparse=True)
    with pytest.raises(TextError, match="'question'"):
        encoder.encode(["a"], input_type="question")  # type: ignore[arg-type]
    with pytest.raises(TextError, match="1 input types for 2 texts"):
        encoder.encode(["a", "b"], input_type=["query"])
    with pytest.raises(SettingsError, match="flagembedding"):
        load_encoder(FOLDER, EncoderSettings(backend="flagembedding"))


@pytest.mark.parametrize("missing", ["model.onnx", "tokenizer.json"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    for name in {"model.onnx", "tokenizer.json"} - {missing}:
        (tmp_path / name).symlink_to((FOLDER / name).resolve())
    with pytest.raises(ModelFolderError, match=missing):
        load_encoder(tmp_path, EncoderSettings())


@pytest.mark.parametrize("damaged", ["model.onnx", "tokenizer.json"])
def test_a_damaged_file_is_named(tmp_path: Path, damaged: str) -> None:
    (tmp_path / damaged).write_bytes(b"not what it should be")
    for name in {"model.onnx", "tokenizer.json"} - {damaged}:
        (tmp_path / name).symlink_to((FOLDER / name).resolve())
    with pytest.raises(ModelFolderError, match=damaged):
        load_encoder(tmp_path, EncoderSettings())
