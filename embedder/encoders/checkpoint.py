"""Reads weights from torch and safetensors files, without torch and without running code from them."""

from __future__ import annotations

import json
import mmap
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from embedder.errors import ModelFolderError

Weights = Mapping[str, npt.NDArray[np.float32]]

_TORCH_DTYPES = {
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bf16",
    "DoubleStorage": "<f8",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
}
_SAFETENSORS_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "bf16", "F64": "<f8", "I64": "<i8", "I32": "<i4"}

_DAMAGE = (OSError, LookupError, TypeError, ValueError, AttributeError, EOFError, struct.error, pickle.UnpicklingError)
"""Exceptions that a damaged file causes."""

_MAX_HEADER_BYTES = 100 << 20
"""Source: the safetensors library's limit."""


def read_weights(path: Path) -> Weights:
    """Name → float32 tensor, for all tensors of a checkpoint. float32 tensors are views of the memory-mapped file.

    Args:
        path: `*.safetensors`, or a state dict written by `torch.save` (torch 1.6 or later).

    Raises:
        ModelFolderError: the file is damaged, or holds something other than tensors.
    """
    try:
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # OpenVINO requires writeable memory
            return _read_safetensors(content) if path.suffix == ".safetensors" else _read_torch(file, content)
    except ModelFolderError as error:
        raise ModelFolderError(f"{path} {error}") from error
    except _DAMAGE as error:
        raise ModelFolderError(f"{path} is damaged: {error}") from error


def _read_safetensors(content: mmap.mmap) -> Weights:
    """Source: https://github.com/huggingface/safetensors#format."""
    (length,) = struct.unpack_from("<Q", content)
    if length > min(_MAX_HEADER_BYTES, len(content) - 8):
        raise ModelFolderError("is not a safetensors file.")
    start = 8 + length
    weights: dict[str, npt.NDArray[np.float32]] = {}
    for name, tensor in json.loads(content[8:start]).items():
        if name == "__metadata__":
            continue
        dtype = _SAFETENSORS_DTYPES.get(tensor["dtype"])
        if dtype is None:
            raise ModelFolderError(f"holds {name} as {tensor['dtype']}, which is not supported.")
        begin, end = tensor["data_offsets"]
        if begin < 0:
            raise ValueError("a tensor begins before the data")
        weights[name] = _flat(content, dtype, start + begin, end - begin).reshape(tensor["shape"])
    return weights


def _read_torch(file: IO[bytes], content: mmap.mmap) -> Weights:
    """A state dict in the zip format of `torch.save`. Source: torch/serialization.py, `_load`."""
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        raise ModelFolderError("is not in torch's zip format: load it and torch.save it with torch 1.6+.") from None
    entries = {entry.filename: entry for entry in archive.infolist()}
    (pickled,) = (name for name in entries if name.rpartition("/")[2] == "data.pkl")
    root = pickled.removesuffix("data.pkl")
    order = entries.get(root + "byteorder")
    if order is not None and archive.read(order) != b"little":
        raise ModelFolderError("was written by a big-endian machine, which is not supported.")

    def storage(identity: Sequence[Any]) -> npt.NDArray[np.float32]:
        kind, storage_type, key, _location, size = identity
        if kind != "storage" or not isinstance(storage_type, _Storage):
            raise ModelFolderError("holds something that is not a tensor.")
        entry = entries[f"{root}data/{key}"]
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ModelFolderError("is compressed: store its entries as torch.save does.")
        return _flat(content, storage_type.dtype, _data_start(content, entry), entry.file_size)[:size]

    with archive.open(pickled) as stream:
        state = _TensorUnpickler(stream, storage).load()
    if not isinstance(state, dict) or not all(isinstance(tensor, np.ndarray) for tensor in state.values()):
        raise ModelFolderError("does not hold a state dict (names and tensors).")
    return state


class _Storage:
    """Replaces torch's storage class for one data type."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles a state dict as arrays. Rejects all global names that a state dict does not need."""

    def __init__(self, file: IO[bytes], storage: Callable[[Sequence[Any]], npt.NDArray[np.float32]]) -> None:
        super().__init__(file)
        self._storage = storage

    def persistent_load(self, pid: Any) -> npt.NDArray[np.float32]:
        return self._storage(pid)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _TORCH_DTYPES:
            return _Storage(_TORCH_DTYPES[name])
        raise ModelFolderError(f"refers to {module}.{name}, which no state dict needs: it is not loaded.")


def _rebuild_tensor(
    storage: npt.NDArray[np.float32],
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    *_gradient: object,
) -> npt.NDArray[np.float32]:
    """Source: torch/_utils.py, `_rebuild_tensor_v2`. Offset and strides are in elements."""
    if min((offset, *shape, *strides)) < 0 or len(shape) != len(strides):
        raise ValueError("a tensor has a negative size")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= len(storage):
        raise ValueError("a tensor passes the end of its storage")
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, [stride * storage.itemsize for stride in strides])


def _data_start(content: mmap.mmap, entry: zipfile.ZipInfo) -> int:
    """Offset of an entry's data in the archive. Only the entry's local header gives the header's size."""
    signature, name_length, extra_length = struct.unpack_from("<4s22xHH", content, entry.header_offset)
    if signature != b"PK\x03\x04":
        raise ValueError("the archive's directory does not match its content")
    return entry.header_offset + 30 + int(name_length) + int(extra_length)


def _flat(content: mmap.mmap, dtype: str, start: int, size_bytes: int) -> npt.NDArray[np.float32]:
    """The values at `start`, as float32. Raises ValueError if they exceed the file."""
    if start < 0 or size_bytes < 0 or start + size_bytes > len(content):
        raise ValueError("a tensor passes the end of the file")
    if dtype == "bf16":  # the upper half of a float32
        halves = np.frombuffer(content, "<u2", size_bytes // 2, start)
        return (halves.astype(np.uint32) << 16).view(np.float32)
    stored = np.dtype(dtype)
    return np.frombuffer(content, stored, size_bytes // stored.itemsize, start).astype(np.float32, copy=False)
