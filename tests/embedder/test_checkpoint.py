"""Reading checkpoints: nothing in them is executed, and damaged files are errors."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from embedder.encoders.checkpoint import read_weights
from embedder.errors import ModelFolderError

TINY = Path(__file__).parent / "tiny_bge_m3"


def _safetensors(header: dict[str, object], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _torch(pickled: bytes, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", b"\0" * 64)
    return path


def test_a_torch_checkpoint_is_read_without_torch() -> None:
    weights = read_weights(TINY / "colbert_linear.pt")
    assert {name: tensor.shape for name, tensor in weights.items()} == {"weight": (16, 16), "bias": (16,)}
    assert all(tensor.dtype == np.float32 and np.isfinite(tensor).all() for tensor in weights.values())


@pytest.mark.parametrize(
    ("stored", "data"),
    [
        ("F32", np.array([1.5, -2], "<f4").tobytes()),
        ("F16", np.array([1.5, -2], "<f2").tobytes()),
        ("BF16", (np.array([1.5, -2], "<f4").view("<u4") >> 16).astype("<u2").tobytes()),
        ("F64", np.array([1.5, -2], "<f8").tobytes()),
    ],
)
def test_safetensors_of_every_precision(tmp_path: Path, stored: str, data: bytes) -> None:
    path = tmp_path / "model.safetensors"
    tensor = {"dtype": stored, "shape": [1, 2], "data_offsets": [0, len(data)]}
    path.write_bytes(_safetensors({"__metadata__": {"format": "pt"}, "w": tensor}, data))
    np.testing.assert_array_equal(read_weights(path)["w"], np.array([[1.5, -2]], np.float32))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 3) + b"{]}",
        _safetensors({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 800]}}, b"\0" * 8),
        _safetensors({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, b"\0" * 8),
        _safetensors({"w": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}, b"\0" * 8),
        _safetensors({"w": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}, b"\0" * 8),
        _safetensors({"w": {"shape": [2]}}, b"\0" * 8),
        _safetensors({"w": 3}, b""),
    ],
)
def test_damaged_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFolderError, match=r"model\.safetensors"):
        read_weights(path)


class Shell:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


@pytest.mark.parametrize(
    "state",
    [{"w": Shell()}, {"w": eval}, {"w": 1.0}, [1, 2], {"w": io.BytesIO(b"")}, {"w": np.zeros(2)}],
    ids=["reduce", "builtin", "float", "list", "file", "array"],
)
def test_pickled_objects_other_than_tensors_are_refused(tmp_path: Path, state: object) -> None:
    path = _torch(pickle.dumps(state), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelFolderError, match=r"pytorch_model\.bin"):
        read_weights(path)


def _tensor(offset: int, shape: tuple[int, ...], strides: tuple[int, ...], size: int = 16) -> bytes:
    """A pickled state dict of one tensor, as torch writes it, in pickle's opcodes."""

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"

    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + b"0X\x03\0\0\0cpuJ" + struct.pack("<i", size)
    arguments = b"(" + storage + b"tQJ" + struct.pack("<i", offset) + numbers(shape) + numbers(strides)
    return b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"\x89}tRs."


def test_views_of_a_storage(tmp_path: Path) -> None:
    path = _torch(_tensor(2, (2, 3), (1, 2)), tmp_path / "transposed.pt")
    assert read_weights(path)["w"].shape == (2, 3)


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (17,), (1,)), (15, (2,), (1,)), (0, (4, 4), (8, 1)), (-1, (1,), (1,)), (0, (4,), (-1,)), (0, (4,), (1, 1))],
)
def test_tensors_that_reach_beyond_their_storage(
    tmp_path: Path, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    path = _torch(_tensor(offset, shape, strides), tmp_path / "beyond.pt")
    with pytest.raises(ModelFolderError, match=r"beyond\.pt is damaged"):
        read_weights(path)
