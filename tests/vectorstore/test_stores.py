"""Properties of single stores; tests/contracts/test_stores.py tests those of all stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from chassis.settings import SettingError, read_settings
from vectorstore.errors import InvalidContentError, StoreFailedError
from vectorstore.settings import VectorstoreSettings
from vectorstore.signals.dense import normalised
from vectorstore.stores import VersionRef, chroma
from vectorstore.stores.exact import VectorTable, VectorTableWriter
from vectorstore.stores.filters import check
from vectorstore.versions import IndexRoot


def test_exact_search_in_blocks_keeps_order_and_ties(tmp_path: Path) -> None:
    angles = np.tile(np.linspace(0, np.pi, 1000, dtype=np.float32), 140)  # more rows than one block, each 140 times
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    writer = VectorTableWriter(tmp_path)
    writer.add(vectors, [{"first": i < 100_000} for i in range(len(vectors))])
    writer.close()
    table = VectorTable(tmp_path)
    query = vectors[500:501]
    (hits,) = table.search(query, limit=200)
    expected = np.lexsort((np.arange(len(vectors)), -(vectors @ query[0])))[:200]
    assert hits.rows.tolist() == expected.tolist()
    (hits,) = table.search(query, limit=200, where=check({"first": False}, ["first"]))
    assert hits.rows.min() >= 100_000
    assert len(hits.rows) == 200
    table.close()


def test_a_chroma_folder_that_cannot_be_opened(tmp_path: Path) -> None:
    ref = VersionRef("default", "0" * 16, tmp_path)
    ref.store_folder.mkdir()
    (ref.store_folder / "chroma.sqlite3").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreFailedError, match="writable and complete"):
        chroma.STORE.open(ref)


def test_chroma_has_settings_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECTORSTORE_CHROMA_SEARCH_WIDTH", "0")
    with pytest.raises(SettingError, match="VECTORSTORE_CHROMA_SEARCH_WIDTH"):
        chroma.STORE.create(VersionRef("default", "0" * 16, tmp_path), 16)


def test_unknown_stores_are_refused(tmp_path: Path) -> None:
    assert [read_settings(VectorstoreSettings, store=name).store for name in ("auto", "exact")] == ["auto", "exact"]
    with pytest.raises(
        ValidationError, match="there is no store 'mivlus': choose one of chroma, chroma_server, exact, "
    ):
        VectorstoreSettings(store="mivlus")
    root = IndexRoot(tmp_path, "default")
    with pytest.raises(StoreFailedError, match="there is no store 'mivlus'"):
        root.begin(embedder_fingerprint="x", dimension=16, settings={}, store="mivlus")
    assert [path.name for path in root.folder.iterdir()] == [".lock"]


def test_normalising_keeps_vectors_of_length_one() -> None:
    vectors = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_array_equal(normalised(vectors, 16), vectors)
    with pytest.raises(InvalidContentError):
        normalised(np.zeros((1, 16)), 16)
