"""Exports BAAI/bge-m3 from a Hugging Face folder to a folder that is served on CPUs.

The exported folder holds one OpenVINO model with the encoder and its three heads (dense, learned sparse, multi-vector),
the tokenizer, and an embedder.json that names the source. It loads faster than the checkpoint and can be smaller:

  f32    2.3 GB   the original weights
  bf16   1.1 GB   weights in bfloat16, for CPUs with AVX-512 BF16 or AMX. Same fingerprint as f32 and the GPU: an index
                  built with one can be searched with another
  int8   0.6 GB   weights and activations in 8 bits, for CPUs with VNNI. The fastest. Different fingerprint: an index
                  must be built and searched with int8

At the end it embeds sample texts with the export and with the source in f32, and prints the lowest cosines.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import openvino as ov

from embedder.agreement import Agreement, agreement
from embedder.encoders.bge_m3 import BgeM3Encoder, BgeM3Folder, build_graph, special_ids
from embedder.encoders.exported import ExportedFolder, write_card
from embedder.errors import EmbedderError, ExportError
from embedder.folder import EXPORTED_MODEL_NAME, TOKENIZER_NAME, is_exported
from embedder.settings import EncoderSettings, Precision, PrecisionSetting
from embedder.wire import Embeddings

EXAMPLES = """
examples:
  python -m embedder.export --from models/bge-m3 --to models/bge-m3-bf16
  python -m embedder.export --from models/bge-m3 --to models/bge-m3-int8 --precision int8 --texts my-questions.txt

then: EMBEDDER_MODEL_DIR=models/bge-m3-bf16 for the Triton model bge_m3.
"""

SAMPLE_TEXTS = (
    "What is an inference graph?",
    "An index is immutable once it is built. Serving loads the new version beside the old one and switches over "
    "without a failed request; rolling back is pointing back.",
    "Wie lange darf ein Text sein, bevor er abgeschnitten wird?",
    "Les passages les plus proches de la question sont classés par leur interaction tardive.",
    "検索は、密なベクトルと語彙の重みを組み合わせます。",
    "Поиск по документам использует плотные и разреженные векторы.",
    "error 0x80070005: access denied (E_ACCESSDENIED)",
    "A retriever gives passages to a language model. " * 12,
)
"""Default texts of the comparison."""

_SPARE_BYTES = 30_000_000
"""Space for the network's description and the tokenizer, in addition to the weights."""


def export(
    source: Path,
    target: Path,
    precision: Precision,
    *,
    model_id: str | None = None,
    texts: Sequence[str] = SAMPLE_TEXTS,
    on_step: Callable[[str], None] = lambda _name: None,
) -> Agreement | None:
    """Writes `target`, completely or not at all.

    Args:
        source: folder of BAAI/bge-m3 in the Hugging Face layout.
        target: folder to create. Its parent must exist.
        precision: precision of the stored weights.
        model_id: name in the fingerprint; None: the source's.
        texts: texts to embed with both models; empty: no comparison.
        on_step: called with the name of each step when it begins.

    Returns:
        The lowest cosines between the export and the source in f32; None without `texts`.

    Raises:
        ModelFolderError: a file of the source is missing, damaged, or belongs to another architecture.
        ExportError: the target exists or cannot be written.
    """
    if target.exists():
        raise ExportError(f"{target} exists: choose another folder, or remove it first.")
    if is_exported(source):
        raise ExportError(f"{source} is itself an export: export from the Hugging Face folder.")
    if not target.absolute().parent.is_dir():
        raise ExportError(f"There is no folder {target.absolute().parent} to write {target.name} into.")
    files = BgeM3Folder.open(source)
    special_ids(files.tokenizer(EncoderSettings()))
    on_step("Reading weights")
    model = build_graph(files, precision)
    _need_space(model, target.absolute().parent)
    with _renamed_on_success(target) as folder:
        on_step("Writing the model")
        _save(model, folder)
        shutil.copyfile(files.folder.file(TOKENIZER_NAME), folder / TOKENIZER_NAME)
        on_step("Hashing")
        exported = ExportedFolder(
            files.folder, precision, files.config.padding_id, files.config.max_tokens, files.hashes()
        )
        write_card(folder, exported, model_id)
        on_step("Comparing with the source")
        return _compare(source, folder, texts) if texts else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m embedder.export",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    source_help, target_help = "folder of BAAI/bge-m3 from Hugging Face", "folder to create; it must not exist"
    add("--from", dest="source", type=Path, required=True, metavar="FOLDER", help=source_help)
    add("--to", dest="target", type=Path, required=True, metavar="FOLDER", help=target_help)
    add(
        "--precision",
        type=lambda name: "f32" if name == "fp32" else name,
        choices=get_args(Precision),
        default="bf16",
        help="f32 (or fp32), bf16 or int8 (default: bf16)",
        metavar="PRECISION",
    )
    add("--id", metavar="NAME", help="name in the fingerprint (default: the source's)")
    add("--texts", type=Path, metavar="FILE", help="texts to compare, one per line (default: eight built-in texts)")
    add("--no-compare", action="store_true", help="skip the comparison, which loads both models in turn")
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # so that a partial folder is removed
    try:
        texts = [] if chosen.no_compare else _texts(chosen.texts)
        compared = export(
            chosen.source,
            chosen.target,
            chosen.precision,
            model_id=chosen.id,
            texts=texts,
            on_step=lambda name: _say(f"{name} …"),
        )
        exported = ExportedFolder.open(chosen.target)
    except EmbedderError as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("Interrupted.")
        return 130
    size_mb = sum(path.stat().st_size for path in chosen.target.iterdir()) / 1e6
    sys.stdout.write(f"{chosen.target}: {exported.fingerprint(None)}, {chosen.precision}, {size_mb:,.0f} MB\n")
    if compared is not None:
        sys.stdout.write(
            f"Lowest cosine to the source in f32, over {len(texts)} texts: dense {compared.dense:.5f}, "
            f"sparse {compared.sparse:.5f}, multi-vectors {compared.multi_vectors:.5f}\n"
        )
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _texts(path: Path | None) -> Sequence[str]:
    if path is None:
        return SAMPLE_TEXTS
    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ExportError(f"{path} cannot be read as UTF-8 text: {error}") from error
    if not lines:
        raise ExportError(f"{path} has no texts: write one per line.")
    return lines


def _need_space(model: ov.Model, folder: Path) -> None:
    weights = sum(node.get_byte_size() for node in model.get_ops() if node.get_type_name() == "Constant")
    free = shutil.disk_usage(folder).free
    if free < weights + _SPARE_BYTES:
        raise ExportError(f"{folder} has {free / 1e9:.1f} GB free, and about {weights / 1e9:.1f} GB are needed.")


@contextmanager
def _renamed_on_success(target: Path) -> Iterator[Path]:
    """A temporary sibling of `target`, renamed to `target` if the block succeeds and removed if it fails.

    Raises:
        ExportError: a file cannot be written.
    """
    folder: Path | None = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.absolute().parent))
        yield folder
        folder.chmod(0o755)  # mkdtemp allows only the owner; Triton may run as another user
        folder.rename(target)  # fails if a non-empty folder was created meanwhile
    except OSError as error:
        raise ExportError(f"{target} cannot be written: {error.strerror or error}.") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _save(model: ov.Model, folder: Path) -> None:
    try:
        ov.save_model(model, folder / EXPORTED_MODEL_NAME, compress_to_fp16=False)
        ov.Core().read_model(folder / EXPORTED_MODEL_NAME)  # OpenVINO does not always report a full disk
    except RuntimeError as error:
        raise ExportError(f"The model cannot be written to {folder.parent}: is there space left?") from error


def _compare(source: Path, folder: Path, texts: Sequence[str]) -> Agreement:
    def encode(model: Path, precision: PrecisionSetting) -> Embeddings:
        encoder = BgeM3Encoder(model, EncoderSettings(architecture="bge_m3", precision=precision))
        return encoder.encode(texts, sparse=True, multi_vectors=True)

    return agreement(encode(folder, "auto"), encode(source, "f32"))


if __name__ == "__main__":
    sys.exit(main())
