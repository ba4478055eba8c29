"""Settings, model cards, fingerprints and batch plans, without an engine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedder.encoders.batches import pad, padded_length, plan_batches
from embedder.errors import ModelFolderError, SettingsError
from embedder.folder import EmbedderFolder
from embedder.settings import EncoderSettings, model_dir
from embedder.tokens import TokenCounter


def test_parameters_override_the_environment_unless_empty() -> None:
    settings = EncoderSettings.read(
        {"architecture": "bge_m3", "precision": "", "threads": "3"},
        {"EMBEDDER_PRECISION": "bf16", "EMBEDDER_THREADS": "9", "EMBEDDER_MAX_TOKENS": "100", "OTHER": "x"},
    )
    assert settings == EncoderSettings(architecture="bge_m3", precision="bf16", threads=3, max_tokens=100)
    assert model_dir({"model_dir": "/a"}, {"EMBEDDER_MODEL_DIR": "/b"}) == Path("/a")
    assert model_dir({"model_dir": ""}, {"EMBEDDER_MODEL_DIR": "/b"}) == Path("/b")
    assert model_dir({}, {}) == Path("/mnt/models")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ARCHITECTURE", "gpt"),
        ("BACKEND", "torch"),
        ("PRECISION", "fp8"),
        ("THREADS", "-1"),
        ("THREADS", "two"),
        ("STREAMS", "1.5"),
        ("MAX_TOKENS", "2"),
        ("BATCH_TEXTS", "0"),
        ("BATCH_TOKENS", "²"),
    ],
)
def test_an_invalid_value_names_its_setting(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"(?i){name}"):
        EncoderSettings.read({}, {f"EMBEDDER_{name}": value})


def _folder(path: Path, card: Any = None) -> EmbedderFolder:
    (path / "tokenizer.json").write_text("{}")
    if card is not None:
        (path / "embedder.json").write_text(card if isinstance(card, str) else json.dumps(card))
    return EmbedderFolder.open(path)


def test_a_card_is_optional_and_may_have_unknown_fields(tmp_path: Path) -> None:
    assert _folder(tmp_path).card.max_tokens is None
    folder = _folder(tmp_path, {"id": "m", "max_tokens": 7, "query_prefix": None, "normalize": True, "new": 1})
    assert (folder.card.id, folder.card.max_tokens, folder.card.query_prefix) == ("m", 7, "")


@pytest.mark.parametrize(
    "card",
    ["{", "[]", {"pooling": "max"}, {"max_tokens": 1}, {"max_tokens": True}, {"id": 3}, {"normalize": False}],
)
def test_a_card_that_cannot_be_used(tmp_path: Path, card: Any) -> None:
    with pytest.raises(ModelFolderError, match=r"embedder\.json"):
        _folder(tmp_path, card)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="EMBEDDER_MODEL_DIR"):
        EmbedderFolder.open(tmp_path / "nowhere")


def test_fingerprints(tmp_path: Path) -> None:
    folder = _folder(tmp_path, {"id": "m"})
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    one, two = (hashlib.sha256(content).hexdigest() for content in (b"1", b"2"))
    assert folder.fingerprint([tmp_path / "a"], None) == f"m@sha256:{one}"
    both = hashlib.sha256(f"{one}  a\n{two}  b\n".encode()).hexdigest()
    assert folder.fingerprint([tmp_path / "b", tmp_path / "a"], "n") == f"n@sha256:{both}"


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 600), max_size=120),
    st.integers(1, 20),
    st.integers(1, 5000),
)
def test_batches_hold_every_text_once_within_their_limits(lengths: list[int], max_texts: int, max_tokens: int) -> None:
    plan = plan_batches(lengths, max_texts=max_texts, max_tokens=max_tokens)
    assert sorted(position for batch in plan for position in batch) == list(range(len(lengths)))
    for batch in plan:
        sizes = [lengths[position] for position in batch]
        assert 0 < len(batch) <= max_texts
        assert len(batch) * max(sizes) <= max_tokens or len(batch) == 1
        assert sum(sizes) >= 0.75 * len(batch) * max(sizes)


def test_padding() -> None:
    ids, mask = pad([np.array([5, 6]), np.array([7])], 1, 3)
    assert ids.tolist() == [[5, 6, 1], [7, 1, 1]]
    assert mask.tolist() == [[1, 1, 0], [1, 0, 0]]


def test_padded_lengths_are_few_and_not_much_longer() -> None:
    lengths = {longest: padded_length(longest, 8192) for longest in range(2, 8193)}
    assert all(longest <= length < longest + max(4, longest / 8 + 1) for longest, length in lengths.items())
    assert len(set(lengths.values())) < 80
    assert padded_length(99, 100) == 100


def test_token_counter_places_tokens_in_characters(embedder_folder: Path) -> None:
    counter = TokenCounter.load(embedder_folder / "tokenizer.json")
    text = "Größe: 👩‍👧 tokenization \ud800 end"
    offsets = counter.offsets(text)
    assert counter.count(text) == len(offsets)
    words = ["Gr", "ö", "ße", ":", "👩‍👧", "token", "ization", "\ud800", "end"]
    assert [text[start:end] for start, end in offsets] == words
    assert counter.offsets("") == []
    assert counter.count("word " * 1000) == 1000
    with pytest.raises(ValueError, match="nowhere"):
        TokenCounter.load(Path("nowhere"))
