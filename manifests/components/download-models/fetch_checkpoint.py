"""Fetches a model into a folder, checks it, and only then gives it its name: `fetch_checkpoint.py URI FOLDER`.

Runs in KServe's storage initializer image, which reads hf://, s3://, gs://, https:// and Azure's. A model that is there
and whole is left alone; whatever fails leaves the folder as it was, and no half of a model.

Exit status: 0 the folder holds the model; 1 it could not be fetched (another try may help); 2 it is not the model that
was asked for.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

logger = logging.getLogger("fetch_checkpoint")

_INCOMING = ".incoming-"
_MAX_HEADER_BYTES = 100_000_000
"""Source: the limit of the safetensors library itself (MAX_HEADER_SIZE)."""
_WEIGHTS = "model.safetensors"
_WEIGHTS_INDEX = "model.safetensors.index.json"


class BadCheckpointError(Exception):
    """What was fetched is not a model that can be served."""


def check(folder: Path, *, architectures: list[str], required: list[str]) -> str:
    """What the folder holds, in a line.

    Args:
        folder: of a model in Hugging Face's layout.
        architectures: that `config.json` may name; empty for a model that is not a language model. Then the weights are
            checked too: every tensor of the index in its shard, every shard as long as its header says.
        required: further files that must be there and not be empty.

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
    if (
        "chat_template" not in _json(folder / "tokenizer_config.json")
        and not (folder / "chat_template.jinja").is_file()
    ):
        raise BadCheckpointError("There is no chat template: this is a base model, take the one made for chat.")
    parameters, size_bytes = _check_weights(folder)
    return f"{named[0]}, {parameters / 1e9:.2f} billion parameters, {size_bytes / 2**30:.1f} GiB of weights"


def _check_weights(folder: Path) -> tuple[int, int]:
    """Number of parameters and bytes of weights."""
    if (folder / _WEIGHTS_INDEX).is_file():
        places = _json(folder / _WEIGHTS_INDEX).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise BadCheckpointError(f"{_WEIGHTS_INDEX} has no weight_map.")
    elif (folder / _WEIGHTS).is_file():
        places = None
    else:
        raise BadCheckpointError(f"There is neither {_WEIGHTS_INDEX} nor {_WEIGHTS}.")
    parameters = size_bytes = 0
    for shard in sorted(set(places.values())) if places else [_WEIGHTS]:
        tensors = _tensors(folder / shard)
        missing = {name for name, place in (places or {}).items() if place == shard} - set(tensors)
        if missing:
            raise BadCheckpointError(f"{shard} lacks {len(missing)} tensors, {min(missing)} among them.")
        for shape, length in tensors.values():
            count = 1
            for size in shape:
                count *= size
            parameters += count
            size_bytes += length
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
                raise BadCheckpointError(f"{path.name} is no safetensors file.")
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
        raise BadCheckpointError(f"{path.name} is no safetensors file.") from None


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


def fetch(uri: str, incoming: Path, allow: list[str]) -> None:
    """Downloads into an empty folder. Raises what the library raises."""
    from kserve_storage import Storage  # of the image; not needed to check

    incoming.mkdir(parents=True)
    Storage.download(uri, str(incoming), allow_patterns=allow or None)


def main(arguments: list[str] | None = None) -> int:
    """Runs once and returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="fetch_checkpoint.py", description="Fetches a model, checks it, publishes it."
    )
    parser.add_argument("uri", help="where the model is: hf://owner/name, s3://bucket/path, …")
    parser.add_argument("folder", type=Path, help="where it goes; its parent is the volume")
    parser.add_argument("--allow", action="append", default=[], metavar="PATTERN", help="only files like this")
    parser.add_argument("--architecture", action="append", default=[], help="that config.json may name")
    parser.add_argument("--require", action="append", default=[], metavar="FILE", help="a file that must be there")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(name)s: %(message)s")

    folder: Path = options.folder
    if folder.is_dir():
        try:
            held = check(folder, architectures=options.architecture, required=options.require)
            logger.info("%s is there already: %s.", folder, held)
            return 0
        except BadCheckpointError as error:
            logger.error("%s exists and is not whole: %s Remove it, or name another folder.", folder, error)
            return 2
    incoming = folder.parent / f"{_INCOMING}{folder.name}"
    shutil.rmtree(incoming, ignore_errors=True)  # of a run that was killed
    try:
        fetch(options.uri, incoming, options.allow)
        held = check(incoming, architectures=options.architecture, required=options.require)
    except BadCheckpointError as error:
        shutil.rmtree(incoming, ignore_errors=True)
        logger.error("%s cannot be served: %s", options.uri, error)
        return 2
    except Exception as error:  # whatever a storage library raises
        shutil.rmtree(incoming, ignore_errors=True)
        logger.error(
            "%s could not be fetched (%s: %s). Check its name, and the Secret.",
            options.uri,
            type(error).__name__,
            error,
        )
        return 1
    incoming.replace(folder)
    logger.info("%s holds %s: %s.", folder, options.uri, held)
    return 0


if __name__ == "__main__":
    sys.exit(main())
