"""BGE-M3 in every precision, out of its Hugging Face folder and out of an export of it, against FlagEmbedding's values.

The reference is tiny_bge_m3/expected.json, which tests/with_torch/tiny_bge_m3.py writes. Its vectors are of 16
dimensions, where rounding shows more than in the 1,024 of the real model; `make bench-embedder` measures at full size.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from embedder.agreement import agreement, sparse_cosine
from embedder.encoders import load_encoder
from embedder.encoders.engine import computes_bfloat16
from embedder.encoders.exported import FILES
from embedder.encoders.linear import bfloat16_bits, quantized
from embedder.errors import ExportError, ModelFolderError, SettingsError
from embedder.export import SAMPLE_TEXTS, export, main
from embedder.folder import CARD_NAME
from embedder.settings import EncoderSettings, Precision, PrecisionSetting
from embedder.wire import Embeddings, SparseVector

STEPS = ("Reading weights", "Writing the model", "Hashing", "Comparing with the source")
SOURCE = Path(__file__).parents[1] / "tiny_bge_m3"
EXPECTED: dict[str, Any] = json.loads((SOURCE / "expected.json").read_text("utf-8"))

LEAST_COSINE: dict[Precision, float] = {"f32": 0.999999, "bf16": 0.999, "int8": 0.995}


def settings(precision: PrecisionSetting = "auto") -> EncoderSettings:
    return EncoderSettings(architecture="bge_m3", backend="openvino", precision=precision)


def encoded(folder: Path, precision: PrecisionSetting = "auto", texts: list[str] | None = None) -> Embeddings:
    texts = EXPECTED["texts"] if texts is None else texts
    return load_encoder(folder, settings(precision)).encode(texts, sparse=True, multi_vectors=True)


@pytest.fixture(scope="module")
def reference() -> Embeddings:
    sparse = []
    for weights in EXPECTED["sparse"]:
        known = sorted((int(token), weight) for token, weight in weights.items())
        sparse.append(
            SparseVector(np.array([t for t, _ in known], np.int32), np.array([w for _, w in known], np.float32))
        )
    return Embeddings(
        np.array(EXPECTED["dense"], np.float32),
        np.zeros(len(sparse), np.int32),
        np.zeros(len(sparse), np.bool_),
        "",
        tuple(sparse),
        tuple(np.array(rows, np.float32) for rows in EXPECTED["multi_vectors"]),
    )


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Path]:
    folders: dict[Precision, Path] = {}
    for precision in get_args(Precision):
        folders[precision] = tmp_path_factory.mktemp("exports") / precision
        export(SOURCE, folders[precision], precision, texts=())
    return folders


@pytest.mark.parametrize("precision", get_args(Precision))
@pytest.mark.parametrize("exported", [False, True])
def test_three_heads_agree_with_flag_embedding(
    precision: Precision, exported: bool, exports: dict[Precision, Path], reference: Embeddings
) -> None:
    near = agreement(encoded(exports[precision] if exported else SOURCE, precision), reference)
    assert min(near.dense, near.sparse, near.multi_vectors) >= LEAST_COSINE[precision]


@pytest.mark.parametrize("precision", get_args(Precision))
def test_an_export_gives_what_its_source_gives(precision: Precision, exports: dict[Precision, Path]) -> None:
    ours, source = encoded(exports[precision]), encoded(SOURCE, precision)
    assert ours.fingerprint == source.fingerprint
    near = agreement(ours, source)
    # Only tables that are stored in bfloat16 differ: the source's are read in full.
    assert min(near.dense, near.sparse, near.multi_vectors) >= (0.9995 if precision == "bf16" else 0.999999)


@pytest.mark.parametrize("precision", get_args(Precision))
def test_batch_equals_single(precision: Precision) -> None:
    together = encoded(SOURCE, precision)
    encoder = load_encoder(SOURCE, settings(precision))
    for row, text in enumerate(EXPECTED["texts"]):
        alone = encoder.encode([text], sparse=True, multi_vectors=True)
        beside = Embeddings(
            together.dense[row : row + 1],
            together.token_counts[row : row + 1],
            together.truncated[row : row + 1],
            "",
            (together.sparse or ())[row : row + 1],
            (together.multi_vectors or ())[row : row + 1],
        )
        near = agreement(alone, beside)
        # In 8 bits a number that lies between two steps may fall to either side.
        assert min(near.dense, near.sparse, near.multi_vectors) >= (0.999999 if precision == "f32" else 0.999)


def test_f32_indexes_can_be_searched_in_bf16_but_not_in_int8(exports: dict[Precision, Path]) -> None:
    fingerprints = {precision: encoded(SOURCE, precision).fingerprint for precision in get_args(Precision)}
    assert fingerprints["f32"] == fingerprints["bf16"] != fingerprints["int8"]
    assert fingerprints["f32"].partition("@")[0] == fingerprints["int8"].partition("@")[0] == "tiny_bge_m3"
    passages, queries = encoded(SOURCE, "f32"), encoded(exports["bf16"])
    near = agreement(queries, passages)
    assert min(near.dense, near.sparse, near.multi_vectors) >= LEAST_COSINE["bf16"]


def test_auto_precision_follows_the_export_or_the_cpu(exports: dict[Precision, Path]) -> None:
    for precision, folder in exports.items():
        assert load_encoder(folder, settings()).precision == precision  # type: ignore[attr-defined]
    expected = "bf16" if computes_bfloat16() else "f32"
    assert load_encoder(SOURCE, settings()).precision == expected  # type: ignore[attr-defined]


@pytest.mark.parametrize(("exported", "asked"), [("int8", "f32"), ("int8", "bf16"), ("f32", "int8"), ("bf16", "int8")])
def test_int8_exports_are_served_only_as_int8(
    exported: Precision, asked: Precision, exports: dict[Precision, Path]
) -> None:
    with pytest.raises(SettingsError, match=f"precision is {asked}.*exported as {exported}"):
        load_encoder(exports[exported], settings(asked))
    with pytest.raises(SettingsError, match="is an openvino export"):
        load_encoder(exports[exported], EncoderSettings(architecture="bge_m3", backend="flagembedding"))


def test_an_export_is_smaller(exports: dict[Precision, Path]) -> None:
    sizes = [(exports[precision] / "openvino_model.bin").stat().st_size for precision in ("f32", "bf16", "int8")]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 0.4 * sizes[0]


def test_an_export_includes_the_card(tmp_path: Path) -> None:
    source = Path(shutil.copytree(SOURCE, tmp_path / "source"))
    (source / CARD_NAME).write_text('{"id": "BAAI/bge-m3", "max_tokens": 9, "query_prefix": "q: "}')
    export(source, tmp_path / "a", "int8", texts=())
    export(source, tmp_path / "b", "int8", model_id="mine", texts=())
    encoder = load_encoder(tmp_path / "a", settings())
    assert encoder.max_tokens == 9
    assert encoder.fingerprint == load_encoder(source, settings("int8")).fingerprint
    assert load_encoder(tmp_path / "b", settings()).fingerprint.startswith("mine@sha256:")
    np.testing.assert_array_equal(
        encoder.encode(["a"], input_type="query").dense, encoder.encode(["q: a"], input_type="passage").dense
    )


@pytest.mark.parametrize("name", [*FILES, CARD_NAME])
@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_an_incomplete_export_is_refused(
    name: str, damage: str, tmp_path: Path, exports: dict[Precision, Path]
) -> None:
    folder = Path(shutil.copytree(exports["int8"], tmp_path / "model"))
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage == "cut":
        (folder / name).write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        (folder / name).write_bytes(b"\0" + content[1:])
    with pytest.raises(ModelFolderError, match=name.replace(".", r"\.")):
        load_encoder(folder, settings())


def test_an_export_of_a_later_version(tmp_path: Path, exports: dict[Precision, Path]) -> None:
    folder = Path(shutil.copytree(exports["int8"], tmp_path / "model"))
    card = json.loads((folder / CARD_NAME).read_text("utf-8"))
    card["export"]["format"] = 99
    (folder / CARD_NAME).write_text(json.dumps(card))
    with pytest.raises(ModelFolderError, match="an incompatible version"):
        load_encoder(folder, settings())


def test_invalid_targets(tmp_path: Path, exports: dict[Precision, Path]) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ExportError, match="there exists"):
        export(SOURCE, tmp_path / "there", "int8")
    with pytest.raises(ExportError, match="no folder"):
        export(SOURCE, tmp_path / "not" / "there", "int8")
    with pytest.raises(ExportError, match="itself an export"):
        export(exports["f32"], tmp_path / "again", "int8")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("step", STEPS)
def test_an_interrupted_export_leaves_nothing(step: str, tmp_path: Path) -> None:
    def interrupt(name: str) -> None:
        if name == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(SOURCE, tmp_path / "target", "int8", on_step=interrupt)
    assert not list(tmp_path.iterdir())


def test_a_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files stands for it: writing fails in the middle of the weights."""
    program = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    program += "from embedder.export import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, "--from", SOURCE, "--to", tmp_path / "target", "--precision", "fp32"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 1, done.stderr
    assert "cannot be written" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_command_reports_the_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("What is BGE M3?\n\nDer Einbetter verwandelt Texte in Vektoren.\n")
    target = tmp_path / "target"
    assert main(["--from", str(SOURCE), "--to", str(target), "--precision", "fp32", "--texts", str(texts)]) == 0
    said = capsys.readouterr()
    assert encoded(target).fingerprint in said.out
    assert "over 2 texts: dense 1.00000, sparse 1.00000, multi-vectors 1.00000" in said.out
    assert all(step in said.err for step in STEPS)
    assert main(["--from", str(SOURCE), "--to", str(target)]) == 1
    assert "exists" in capsys.readouterr().err
    assert main(["--from", str(SOURCE), "--to", str(tmp_path / "b"), "--texts", str(tmp_path / "none")]) == 1
    assert "none cannot be read" in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    said = capsys.readouterr().out
    assert "examples:" in said
    assert all(name in said for name in ("fp32", "bf16", "int8", "--texts", "EMBEDDER_MODEL_DIR"))


def test_8_bits_of_a_weight_are_the_nearest() -> None:
    weight = np.random.default_rng(1).standard_normal((5, 300)).astype(np.float32)
    weight[3] = 0
    values, scales = quantized(weight)
    assert np.abs(values).max() == 127
    assert np.all(np.abs(values * scales - weight) <= 0.5001 * scales)
    assert not values[3].any()


def test_bfloat16_is_rounded_to_even() -> None:
    numbers = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8 + 2**-16), 0, 3.0e38], np.float32)
    rounded = (bfloat16_bits(numbers).astype(np.uint32) << 16).view(np.float32)
    assert rounded[:5].tolist() == [1, 1, 1 + 2**-6, -(1 + 2**-7), 0]
    assert abs(rounded[5] / numbers[5] - 1) < 2**-8


def test_cosines_of_sparse_vectors() -> None:
    def vector(**weights: float) -> SparseVector:
        return SparseVector(
            np.array([int(k[1:]) for k in weights], np.int32), np.array([*weights.values()], np.float32)
        )

    assert sparse_cosine(vector(t1=3, t2=4), vector(t1=3, t2=4)) == pytest.approx(1)
    assert sparse_cosine(vector(t1=3, t2=4), vector(t2=1)) == pytest.approx(0.8)
    assert sparse_cosine(vector(), vector(t2=1)) == 0
    assert sparse_cosine(vector(), vector()) == 1


def test_sample_texts_are_of_several_lengths_and_scripts() -> None:
    counts = load_encoder(SOURCE, settings()).encode(list(SAMPLE_TEXTS)).token_counts
    assert counts.min() < 20
    assert counts.max() > 60
