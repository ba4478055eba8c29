"""Signals are measured with the corpus's own sentences, and get weights by what they find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from embedder.wire import Embeddings
from tests.fakes.embedder import DIMENSION, FINGERPRINT, embed, embed_tokens
from vectorstore.versions import Chunk, Document, IndexRoot, IndexVersion

_WORDS = [f"{a}{b}" for a in "bcdfghklmn" for b in ("adora", "elito", "imuna", "ovaki", "ustel", "arpen", "ondri")]


def _texts(count: int = 24) -> list[str]:
    chooser = np.random.default_rng(0)
    return [" ".join(chooser.choice(_WORDS, 12, replace=False)).capitalize() + "." for _ in range(count)]


def _publish(root: Path, texts: list[str], *, knows: bool = True, order: int = 1) -> IndexVersion:
    """A version whose embedder knows the words of the texts, or gives every text a vector at random."""
    noise = np.random.default_rng(0)

    def dense(rows: list[str]) -> npt.NDArray[np.float32]:
        vectors = embed(rows) if knows else noise.normal(size=(len(rows), DIMENSION)).astype(np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    def tokens(text: str) -> npt.NDArray[np.float32]:
        return embed_tokens(text) if knows else dense(text.split())

    index = IndexRoot(root, "default")
    settings = {"embedder_fingerprint": FINGERPRINT, "dimension": DIMENSION, "settings": {}}
    with index.begin(**settings, store="exact", multi_vector_bits=8) as builder:  # type: ignore[arg-type]
        for number, text in list(enumerate(texts))[::order]:
            name = f"{number:03}"
            chunk = Chunk(f"{number:032x}", name, text, 0, len(text))
            document = Document(name, text, "", None, f"{name}.txt", "0" * 64)
            builder.add(document, [chunk], dense([text]), multi_vectors=[tokens(text)])
        probes = builder.probes()
        answer = Embeddings(
            dense(probes) if probes else np.empty((0, DIMENSION), np.float32),
            np.zeros(len(probes), np.int32),
            np.zeros(len(probes), np.bool_),
            FINGERPRINT,
            multi_vectors=tuple(map(tokens, probes)),
        )
        builder.publish(answer)
    return index.open()


@pytest.mark.parametrize("knows", [True, False])
def test_an_embedder_that_does_not_know_the_language_gets_no_weight(tmp_path: Path, knows: bool) -> None:
    with _publish(tmp_path, _texts(), knows=knows) as version:
        trusted = 1.0 if knows else 0.0
        assert version.manifest.trust == {"dense": trusted, "lexical": 1.0, "multi_vector": trusted}


def test_the_order_of_the_documents_does_not_matter(tmp_path: Path) -> None:
    with _publish(tmp_path / "a", _texts()) as one, _publish(tmp_path / "b", _texts(), order=-1) as other:
        assert one.manifest.trust == other.manifest.trust
        assert one.manifest.languages == other.manifest.languages


def test_too_few_sentences_measure_nothing(tmp_path: Path) -> None:
    with _publish(tmp_path, ["Two words."] * 30) as version:
        assert version.manifest.trust == {}


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Die Pumpe wird alle sechs Monate von einem Techniker geprüft.", "de"),
        ("The pump is checked every six months by a technician.", "en"),
        ("该泵每六个月由技术人员检查一次。", "zh"),
        ("12 + 30", "und"),
    ],
)
def test_the_language_of_the_documents(tmp_path: Path, text: str, language: str) -> None:
    with _publish(tmp_path, [text]) as version:
        assert version.manifest.languages == {language: 1.0}
