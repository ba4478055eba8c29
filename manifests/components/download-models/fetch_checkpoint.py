"""Fetches a model into a folder and checks it before the folder appears: `fetch_checkpoint.py URI FOLDER`.

Runs in KServe's storage initializer image, which reads hf://, s3://, gs://, https:// and Azure's. A complete model is
left alone; a failed run leaves the folder as it was. An empty folder counts as missing: the kubelet creates one for a
pod that mounts a `subPath` before the model is there. `SHA256SUMS` in the folder records what was published; `--verify`
compares every byte with it.

Exit status: 0 the folder holds the model; 1 it could not be fetched (another try may help); 2 it is not the requested
model, or not any more.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import logging
import math
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger("fetch_checkpoint")

_INCOMING = ".incoming-"
_MAX_HEADER_BYTES = 100_000_000
"""Source: the limit of the safetensors library itself (MAX_HEADER_SIZE)."""
_WEIGHTS = "model.safetensors"
_WEIGHTS_INDEX = "model.safetensors.index.json"
_SUMS = "SHA256SUMS"
"""In the format of sha256sum: `sha256sum -c SHA256SUMS` in the folder checks the same as `--verify`."""


class BadCheckpointError(Exception):
    """The fetched files are not a model that can be served."""


class BusyError(Exception):
    """Another run is fetching into the same folder."""


def check(folder: Path, *, architectures: list[str], required: list[str]) -> str:
    """A line about the model in a folder.

    Args:
        folder: of a model in Hugging Face's layout.
        architectures: that `config.json` may name, for a language model. Its weights are checked too: every tensor of
            the index is in its shard, and every shard is as long as its header says.
        required: further files that must exist and not be empty.

    Raises:
        BadCheckpointError: something is missing, cut off, or of another architecture.
    """
    for name in required:
        path = folder / name
        if not path.is_file() or path.stat().st_size == 0:
            raise BadCheckpointError(f"{name} is missing or empty.")
    if not architectures:
        return f"{len(required)} files"
    config = _json(folder / "config.json")
    named = config.get("architectures") or []
    if not set(named) & set(architectures):
        raise BadCheckpointError(f"config.json names {named or 'no architecture'}, expected {architectures}.")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        _json(folder / name)
    template = folder / "chat_template.jinja"
    if "chat_template" not in _json(folder / "tokenizer_config.json") and not template.is_file():
        raise BadCheckpointError("There is no chat template: this is a base model, take the one made for chat.")
    parameters, size_bytes = _check_weights(folder)
    return f"{named[0]}, {parameters / 1e9:.2f} billion parameters, {size_bytes / 2**30:.1f} GiB of weights"


def _check_weights(folder: Path) -> tuple[int, int]:
    """Number of parameters and bytes of weights."""
    places: dict[str, str] = {}
    if (folder / _WEIGHTS_INDEX).is_file():
        places = _json(folder / _WEIGHTS_INDEX).get("weight_map") or {}
        if not isinstance(places, dict) or not places:
            raise BadCheckpointError(f"{_WEIGHTS_INDEX} has no weight_map.")
    elif not (folder / _WEIGHTS).is_file():
        raise BadCheckpointError(f"There is neither {_WEIGHTS_INDEX} nor {_WEIGHTS}.")
    parameters = size_bytes = 0
    for shard in sorted(set(places.values())) or [_WEIGHTS]:
        tensors = _tensors(folder / shard)
        missing = {name for name, place in places.items() if place == shard} - set(tensors)
        if missing:
            raise BadCheckpointError(f"{shard} lacks {len(missing)} tensors, {min(missing)} among them.")
        parameters += sum(math.prod(shape) for shape, _ in tensors.values())
        size_bytes += sum(length for _, length in tensors.values())
    return parameters, size_bytes


def _tensors(path: Path) -> dict[str, tuple[list[int], int]]:
    """Tensors of a shard: name → shape and bytes.

    Source: https://github.com/huggingface/safetensors#format
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(_MAX_HEADER_BYTES, size):
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(length))
        found = {name: value for name, value in header.items() if name != "__metadata__"}
        end = max((value["data_offsets"][1] for value in found.values()), default=0)
        if size != 8 + length + end:
            raise BadCheckpointError(
                f"{path.name} has {size} bytes, its header says {8 + length + end}: it is cut off."
            )
        return {
            name: (value["shape"], value["data_offsets"][1] - value["data_offsets"][0]) for name, value in found.items()
        }
    except FileNotFoundError:
        raise BadCheckpointError(f"{path.name} is missing.") from None
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise BadCheckpointError(f"{path.name} is not a safetensors file.") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadCheckpointError(f"{path.name} is missing.") from None
    except ValueError:
        raise BadCheckpointError(f"{path.name} is not JSON.") from None
    if not isinstance(content, dict):
        raise BadCheckpointError(f"{path.name} is not a JSON object.")
    return content


def check_sums(folder: Path, expected: dict[str, str]) -> None:
    """Compares files with their SHA-256.

    Raises:
        BadCheckpointError: one of them is missing or holds something else.
    """
    for name, wanted in expected.items():
        path = folder / name
        if not path.is_file():
            raise BadCheckpointError(f"{name} is missing.")
        found = _sha256(path)
        if found != wanted.lower():
            raise BadCheckpointError(f"{name} has the SHA-256 {found}, expected {wanted.lower()}.")


def write_sums(folder: Path) -> None:
    """Records the hashes of the folder's files, without those in hidden folders, such as a library's cache."""
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    text = "".join(f"{_sha256(folder / name)}  {name.as_posix()}\n" for name in shown)
    (folder / _SUMS).write_text(text, encoding="utf-8")


def read_sums(folder: Path) -> dict[str, str]:
    """File → SHA-256, as they were published.

    Raises:
        BadCheckpointError: the folder has no hashes.
    """
    try:
        lines = (folder / _SUMS).read_text(encoding="utf-8").splitlines()
        return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except FileNotFoundError:
        raise BadCheckpointError(f"there is no {_SUMS} to compare it with; sha256sum makes one.") from None
    except ValueError:
        raise BadCheckpointError(f"{_SUMS} is not what sha256sum writes.") from None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps other runs from the same folder until the block or this process ends.

    Raises:
        BusyError: another run has the lock.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{_INCOMING}{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"another run is fetching {folder}.") from None
        except OSError as error:
            logger.warning("%s does not support locks (%s): run one fetch at a time.", folder.parent, error)
        yield


def fetch(uri: str, incoming: Path, allow: list[str]) -> None:
    """Downloads into an empty folder. Raises what the library raises."""
    from kserve_storage import Storage  # in the image; checking does not need it

    incoming.mkdir(parents=True)
    Storage.download(uri, str(incoming), allow_patterns=allow or None)


def main(arguments: list[str] | None = None) -> int:
    """Runs once and returns the exit status."""
    parser = argparse.ArgumentParser(prog="fetch_checkpoint.py", description="Fetches, checks and publishes a model.")
    add = parser.add_argument
    add("uri", help="address of the model: hf://owner/name, s3://bucket/path, …")
    add("folder", type=Path, help="folder to create; its parent is the volume")
    add("--allow", action="append", default=[], metavar="PATTERN", help="fetch only files like this")
    add("--architecture", action="append", default=[], help="that config.json may name")
    add("--require", action="append", default=[], metavar="FILE", help="a file that must exist")
    add("--sha256", action="append", default=[], type=_named_sum, metavar="FILE=HEX", help="expected hash of a file")
    add("--verify", action="store_true", help="compare every byte of an existing model with its hashes")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(name)s: %(message)s")

    try:
        if _holds_files(options.folder):
            return _inspect(options)
        with alone(options.folder):
            # Another run may have published it meanwhile.
            return _inspect(options) if _holds_files(options.folder) else _publish(options)
    except (BusyError, OSError) as error:
        logger.error("%s was not fetched: %s", options.uri, error)
        return 1


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _inspect(options: argparse.Namespace) -> int:
    """Checks an existing folder. Changes nothing."""
    folder: Path = options.folder
    try:
        held = check(folder, architectures=options.architecture, required=options.require)
        if options.verify:
            check_sums(folder, {**read_sums(folder), **dict(options.sha256)})
            held += ", every byte as it was published"
    except BadCheckpointError as error:
        logger.error("%s exists and is not complete: %s Remove it, or name another folder.", folder, error)
        return 2
    logger.info("%s is already there: %s.", folder, held)
    return 0


def _publish(options: argparse.Namespace) -> int:
    """Fetches and checks, then makes the folder appear."""
    folder: Path = options.folder
    incoming = folder.parent / f"{_INCOMING}{folder.name}"
    shutil.rmtree(incoming, ignore_errors=True)  # of a run that was killed
    try:
        fetch(options.uri, incoming, options.allow)
        held = check(incoming, architectures=options.architecture, required=options.require)
        check_sums(incoming, dict(options.sha256))
        write_sums(incoming)
    except BadCheckpointError as error:
        shutil.rmtree(incoming, ignore_errors=True)
        logger.error("%s cannot be served: %s", options.uri, error)
        return 2
    except Exception as error:  # whatever a storage library raises
        shutil.rmtree(incoming, ignore_errors=True)
        what = f"{type(error).__name__}: {error}"
        logger.error("%s could not be fetched (%s). Check its name, and the Secret.", options.uri, what)
        return 1
    incoming.replace(folder)  # also replaces an empty folder
    logger.info("%s holds %s: %s.", folder, options.uri, held)
    return 0


def _named_sum(text: str) -> tuple[str, str]:
    name, _, digest = text.rpartition("=")
    if not name or len(digest) != 64 or not set(digest.lower()) <= set("0123456789abcdef"):
        raise argparse.ArgumentTypeError(f"{text!r} is not FILE=HEX with the 64 digits of a SHA-256")
    return name, digest


if __name__ == "__main__":
    sys.exit(main())
