"""The scripts that Jobs run: fetching and checking a model, building engines, and the table of sizes."""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kserve_rag.models.catalogue import Catalogue, HubSource
from tests.manifests.pods import containers, pods
from tests.manifests.rendering import MANIFESTS, ROOT

FETCH = MANIFESTS / "components" / "download-models" / "fetch_checkpoint.py"
BUILD = MANIFESTS / "components" / "build-engines" / "build_engines.py"
SIZES = MANIFESTS / "sizes.py"
FIRST_SHARD, SECOND_SHARD = (f"model-0000{number}-of-00002.safetensors" for number in (1, 2))


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


# Fetching


def shard(path: Path, tensors: dict[str, list[int]]) -> None:
    """A safetensors file of bfloat16 zeros."""
    header, end = {}, 0
    for name, shape in tensors.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A model as on a hub, with two shards."""
    folder = tmp_path / "hub" / "llama"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    shard(folder / FIRST_SHARD, {"embed": [8, 4], "up": [4, 4]})
    shard(folder / SECOND_SHARD, {"head": [8, 4]})
    places = {"embed": FIRST_SHARD, "up": FIRST_SHARD, "head": SECOND_SHARD}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


STORAGE = """
import os, pathlib, shutil

class Storage:
    @staticmethod
    def download(uri, out_dir=None, allow_patterns=None, ignore_patterns=None):
        source = pathlib.Path(os.environ["HUB"]) / uri.rpartition("/")[2]
        for path in sorted(source.iterdir()):
            if allow_patterns is None or any(path.match(pattern) for pattern in allow_patterns):
                shutil.copy(path, out_dir)
        if os.environ.get("BREAKS"):
            raise RuntimeError("connection reset")
        return out_dir
"""
"""Replaces KServe's library: downloads from a folder. Source of the signature: kserve-storage 0.21.0."""


def fetch(hub: Path, volume: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    library = hub.parent.parent / "library"
    library.mkdir(exist_ok=True)
    (library / "kserve_storage.py").write_text(STORAGE)
    env = {**os.environ, "PYTHONPATH": str(library), "HUB": str(hub.parent), **variables}
    command = [sys.executable, str(FETCH), f"hf://owner/{hub.name}", str(volume / "llm"), *options]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


LLAMA = "--architecture=LlamaForCausalLM"


def models(volume: Path) -> list[str]:
    """Names on a volume, without the downloader's lock."""
    return sorted(path.name for path in volume.iterdir() if path.name != ".incoming-llm.lock")


def test_a_whole_model_is_published_once(hub: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    done = fetch(hub, volume, LLAMA)
    assert done.returncode == 0, done.stdout
    assert "LlamaForCausalLM" in done.stdout
    assert models(volume) == ["llm"]
    assert models(volume / "llm") == sorted([*(path.name for path in hub.iterdir()), "SHA256SUMS"])
    again = fetch(hub, volume, LLAMA, BREAKS="1")
    assert again.returncode == 0, "what is there is not fetched again"


@pytest.mark.parametrize(
    ("name", "spoil", "error"),
    [
        (SECOND_SHARD, lambda file: file.write_bytes(file.read_bytes()[:-1]), "it is cut off"),
        (SECOND_SHARD, lambda file: shard(file, {"other": [8, 4]}), "lacks 1 tensors, head among them"),
        (SECOND_SHARD, lambda file: file.write_text("<html>Accept the licence</html>"), "is not a safetensors file"),
        (FIRST_SHARD, Path.unlink, f"{FIRST_SHARD} is missing"),
        ("tokenizer_config.json", lambda file: file.write_text("{}"), "There is no chat template"),
        ("config.json", lambda file: file.write_text('{"architectures": ["BertModel"]}'), "BertModel"),
        (
            "config.json",
            lambda file: file.write_text("version https://git-lfs.github.com/spec/v1"),
            "config.json is not JSON",
        ),
        ("tokenizer.json", Path.unlink, "tokenizer.json is missing"),
        ("model.safetensors.index.json", lambda file: file.write_text("[]"), "is not a JSON object"),
    ],
)
def test_an_incomplete_model_is_not_published(hub: Path, tmp_path: Path, name: str, spoil: Any, error: str) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    spoil(hub / name)
    done = fetch(hub, volume, LLAMA)
    assert done.returncode == 2, "another try would fetch the same"
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("ERROR"))
    assert error in line
    assert models(volume) == []


def test_a_broken_connection_leaves_nothing(hub: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    (volume / ".incoming-llm").mkdir(parents=True)
    (volume / ".incoming-llm" / "of a run that was killed").write_text("")
    done = fetch(hub, volume, LLAMA, BREAKS="1")
    assert done.returncode == 1, "another try may help"
    assert "connection reset" in done.stdout
    assert models(volume) == []


def test_an_empty_folder_is_no_model(hub: Path, tmp_path: Path) -> None:
    """The kubelet creates the folder of a `subPath` for a pod that starts before the model is there."""
    volume = tmp_path / "volume"
    (volume / "llm").mkdir(parents=True)
    assert fetch(hub, volume, LLAMA, BREAKS="1").returncode == 1, "another try may help"
    assert models(volume / "llm") == []
    done = fetch(hub, volume, LLAMA)
    assert done.returncode == 0, done.stdout
    assert "config.json" in models(volume / "llm")


def test_an_incomplete_folder_is_left_alone(hub: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    (volume / "llm").mkdir(parents=True)
    (volume / "llm" / "mine").write_text("mine")
    done = fetch(hub, volume, LLAMA)
    assert done.returncode == 2
    assert "Remove it" in done.stdout
    assert [path.name for path in (volume / "llm").iterdir()] == ["mine"]


def test_required_and_allowed_files(hub: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    missing = fetch(hub, volume, "--allow=tokenizer.json", "--require=tokenizer.json", "--require=pytorch_model.bin")
    assert missing.returncode == 2
    assert "pytorch_model.bin is missing" in missing.stdout
    done = fetch(hub, volume, "--allow=tokenizer.json", "--require=tokenizer.json")
    assert done.returncode == 0
    assert models(volume / "llm") == ["SHA256SUMS", "tokenizer.json"]


def test_a_published_model_is_verified_byte_by_byte(hub: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    assert fetch(hub, volume, LLAMA).returncode == 0
    sums = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    assert subprocess.run(sums, cwd=volume / "llm", capture_output=True, check=False).returncode == 0
    whole = fetch(hub, volume, LLAMA, "--verify", BREAKS="1")
    assert whole.returncode == 0, whole.stdout
    assert "every byte as it was published" in whole.stdout
    weights = volume / "llm" / SECOND_SHARD
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert fetch(hub, volume, LLAMA, BREAKS="1").returncode == 0, "as long as it says"
    changed = fetch(hub, volume, LLAMA, "--verify", BREAKS="1")
    assert changed.returncode == 2
    assert f"{SECOND_SHARD} has the SHA-256" in changed.stdout
    assert weights.read_bytes() == content, "what is served is not touched"
    (volume / "llm" / "SHA256SUMS").unlink()
    assert "sha256sum makes one" in fetch(hub, volume, LLAMA, "--verify").stdout


def test_a_removed_model_is_fetched_again(hub: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    for _ in range(2):
        assert fetch(hub, volume, LLAMA, "--verify").returncode == 0
        shutil.rmtree(volume / "llm")


def test_a_file_of_another_hash_is_not_published(hub: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    right = hashlib.sha256((hub / "tokenizer.json").read_bytes()).hexdigest()
    done = fetch(hub, volume, LLAMA, f"--sha256=tokenizer.json={'0' * 64}")
    assert done.returncode == 2
    assert f"tokenizer.json has the SHA-256 {right}" in done.stdout
    assert models(volume) == []
    missing = fetch(hub, volume, LLAMA, f"--sha256=merges.txt={right}")
    assert missing.returncode == 2
    assert "merges.txt is missing" in missing.stdout
    assert fetch(hub, volume, LLAMA, f"--sha256=tokenizer.json={right.upper()}").returncode == 0
    assert fetch(hub, volume, LLAMA, "--sha256=tokenizer.json").returncode == 2


def test_two_runs_do_not_mix(hub: Path, tmp_path: Path) -> None:
    """The second finds the first at work, and tries again later."""
    volume = tmp_path / "volume"
    (volume / ".incoming-llm").mkdir(parents=True)
    with (volume / ".incoming-llm.lock").open("w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        done = fetch(hub, volume, LLAMA)
    assert done.returncode == 1
    assert "another run is fetching" in done.stdout
    assert models(volume) == [".incoming-llm"], "its folder is left to it"


def test_the_hashes_of_the_embedder_are_those_of_the_catalogue(rendered: Any) -> None:
    """And the revision is the one that has them."""
    model = Catalogue.load().models["bge-m3"]
    known = {file.name: file.sha256 for file in model.files}
    (revision,) = {source.revision for file in model.files for source in file.sources if isinstance(source, HubSource)}
    fetching = [
        container["args"]
        for pod in pods(rendered.documents["verify"])
        for container in containers(pod)
        if model.id in str(container.get("args"))
    ]
    assert len(fetching) == 2, "the Job and the CronJob"
    for arguments in fetching:
        assert arguments[0] == f"hf://{model.id}:{revision}"
        sums = dict(one.removeprefix("--sha256=").split("=") for one in arguments if one.startswith("--sha256="))
        assert {"pytorch_model.bin", "tokenizer.json"} <= sums.keys()
        assert sums.items() <= known.items()
    download, verify = fetching
    assert [one for one in verify if one != "--verify"] == download


def test_the_scripts_accept_the_options_of_the_jobs(rendered: Any) -> None:
    """Arguments of the pods, by the scripts' own parsers: a wrong one ends with 2 and a usage line."""
    running = [
        (Path(container["command"][1]), container["args"])
        for name in ("build", "verify")
        for pod in pods(rendered.documents[name])
        for container in containers(pod)
        if "/opt/kserve-rag/" in str(container.get("command"))
    ]
    assert [path.name for path, _ in running].count(FETCH.name) == 6
    for path, arguments in running:
        script = {FETCH.name: FETCH, BUILD.name: BUILD}[path.name]

        def run(
            *options: str, command: tuple[str, ...] = (sys.executable, str(script), *arguments)
        ) -> subprocess.CompletedProcess[str]:
            return subprocess.run([*command, *options], capture_output=True, text=True, check=False)

        helped = run("--help")
        assert helped.returncode == 0, helped.stderr
        assert run("--no-such-option").returncode == 2
        if script == BUILD:
            printed = run("--dry-run")
            assert printed.returncode == 0, printed.stderr


# Building


def _parser(**options: Any) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    for name, kind in options.items():
        kinds = {"choices": kind} if isinstance(kind, list) else {"type": kind}
        parser.add_argument(f"--{name}", **kinds)
    return parser


# Options of TensorRT-LLM 1.2 that we use, with their types, as its programs declare them.
# Source: NVIDIA/TensorRT-LLM v1.2, the files named.
DTYPES = ["auto", "float16", "bfloat16", "float32"]
PROGRAMS = {
    # examples/models/core/llama/convert_checkpoint.py
    "convert_checkpoint.py": _parser(model_dir=str, output_dir=str, dtype=DTYPES, tp_size=int, workers=int),
    # examples/quantization/quantize.py
    "quantize.py": _parser(
        model_dir=str,
        output_dir=str,
        dtype=DTYPES,
        qformat=[
            "nvfp4", "fp8", "fp8_pc_pt", "int8_sq", "int4_awq", "w4a8_awq", "int8_wo", "int4_wo", "full_prec",
        ],
        tp_size=int,
        calib_dataset=str,
        calib_size=int,
        kv_cache_dtype=["int8", "fp8"],
        awq_block_size=int,
    ),
    # tensorrt_llm/commands/build.py and tensorrt_llm/plugin/plugin.py
    "trtllm-build": _parser(
        checkpoint_dir=str,
        output_dir=str,
        max_batch_size=int,
        max_input_len=int,
        max_seq_len=int,
        max_num_tokens=int,
        max_beam_width=int,
        kv_cache_type=["continuous", "paged", "disabled"],
        gemm_plugin=["auto", "float16", "float32", "bfloat16", "int32", "fp8", "nvfp4", "disable"],
        remove_input_padding=["enable", "disable"],
        use_paged_context_fmha=["enable", "disable"],
        workers=int,
    ),
}  # fmt: skip


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "fp8", "int4_awq", "int8_sq"])
@pytest.mark.parametrize("gpus", [1, 4])
def test_engines_are_built_with_options_that_exist(tmp_path: Path, precision: str, gpus: int) -> None:
    done = subprocess.run(
        [
            *(sys.executable, str(BUILD), str(tmp_path / "llama"), str(tmp_path / "llm"), "--dry-run"),
            *(f"--precision={precision}", f"--tensor-parallel={gpus}"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    convert, build = json.loads(done.stdout)
    chosen = "convert_checkpoint.py" if precision in ("bfloat16", "float16") else "quantize.py"
    assert Path(convert[1]).name == chosen
    assert PROGRAMS[chosen].parse_args(convert[2:]).tp_size == gpus
    options = PROGRAMS["trtllm-build"].parse_args(build[1:])
    assert options.max_input_len < options.max_seq_len
    assert options.checkpoint_dir == convert[3].split("=")[1]


TEMPLATES = {
    "preprocessing": """
max_batch_size: ${triton_max_batch_size}
count: ${preprocessing_instance_count}
string_value: "${tokenizer_dir}"
string_value: "${add_special_tokens}"
""",
    "postprocessing": """
max_batch_size: ${triton_max_batch_size}
count: ${postprocessing_instance_count}
string_value: "${tokenizer_dir}"
""",
    "ensemble": """
max_batch_size: ${triton_max_batch_size}
data_type: ${logits_datatype}
""",
    "tensorrt_llm_bls": """
max_batch_size: ${triton_max_batch_size}
  decoupled: ${decoupled_mode}
count: ${bls_instance_count}
data_type: ${logits_datatype}
data_type: ${prompt_embedding_table_data_type}
""",
    "tensorrt_llm": """
backend: "${triton_backend}"
max_batch_size: ${triton_max_batch_size}
decoupled: ${decoupled_mode}
max_queue_delay_microseconds: ${max_queue_delay_microseconds}
    default_queue_policy: { max_queue_size: ${max_queue_size} }
data_type: ${encoder_input_features_data_type}
string_value: "${engine_dir}"
string_value: "${sink_token_length}"
""",
}
"""The placeholders of `inflight_batcher_llm` that Triton cannot read unfilled, and some that it can."""


WRITES_ITS_OUTPUT = """
import pathlib, sys
out = pathlib.Path(next(a for a in sys.argv if a.startswith("--output_dir=")).split("=")[1])
out.mkdir(parents=True)
(out / "config.json").write_text("x")
"""


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with stand-ins for the programs of NVIDIA's image."""
    app = tmp_path / "app"
    for model, text in TEMPLATES.items():
        (app / "all_models" / "inflight_batcher_llm" / model / "1").mkdir(parents=True)
        (app / "all_models" / "inflight_batcher_llm" / model / "config.pbtxt").write_text(text)
    converter = app / "examples" / "models" / "core" / "llama" / "convert_checkpoint.py"
    converter.parent.mkdir(parents=True)
    converter.write_text(WRITES_ITS_OUTPUT)
    (app / "bin").mkdir()
    builder = app / "bin" / "trtllm-build"
    builder.write_text(f"#!{sys.executable}{WRITES_ITS_OUTPUT}if 'fail' in str(out): sys.exit(3)\n")
    builder.chmod(0o755)
    monkeypatch.setenv("PATH", f"{app / 'bin'}:{os.environ['PATH']}")
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (checkpoint / name).write_text("{}")
    return tmp_path


def build(engines: Path, checkpoint: str, repository: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BUILD), str(engines / checkpoint), str(engines / repository)]
    return subprocess.run([*command, f"--app={engines / 'app'}"], capture_output=True, text=True, check=False)


def test_a_repository_is_published_whole(engines: Path) -> None:
    assert build(engines, "checkpoint", "llm").returncode == 0
    repository = engines / "llm"
    assert sorted(path.name for path in engines.iterdir()) == ["app", "checkpoint", "llm"]
    assert (repository / "tensorrt_llm" / "1" / "engines" / "config.json").is_file()
    assert (repository / "tokenizer.json").is_file(), "the transformer looks for it there"
    for model in TEMPLATES:
        text = (repository / model / "config.pbtxt").read_text(encoding="utf-8")
        assert re.findall(r"\$\{(\w+)\}", text) == (["sink_token_length"] if model == "tensorrt_llm" else [])
    text = (repository / "tensorrt_llm" / "config.pbtxt").read_text(encoding="utf-8")
    assert 'string_value: "/mnt/models/tensorrt_llm/1/engines"' in text, "as the serving pod mounts it"
    again = build(engines, "checkpoint", "llm")
    assert again.returncode == 0
    assert "is already there" in again.stdout


@pytest.mark.parametrize(
    ("checkpoint", "repository", "template"),
    [
        ("nowhere", "llm", ""),
        ("checkpoint", "fail", ""),
        ("checkpoint", "llm", "data_type: ${something_new}\n"),
    ],
)
def test_a_failed_build_leaves_no_repository(engines: Path, checkpoint: str, repository: str, template: str) -> None:
    config = engines / "app" / "all_models" / "inflight_batcher_llm" / "ensemble" / "config.pbtxt"
    config.write_text(config.read_text() + template)
    before = sorted(path.name for path in engines.iterdir())
    done = build(engines, checkpoint, repository)
    assert done.returncode == 1
    assert sorted(path.name for path in engines.iterdir()) == before
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("ERROR"))
    assert "was not built" in line


# Sizes


def test_the_table_of_sizes_is_what_the_script_prints() -> None:
    printed = subprocess.run([sys.executable, str(SIZES)], capture_output=True, text=True, check=True).stdout
    assert printed in (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        # Source: the weights' own counts, as their model cards state them.
        ("Llama 2 7B", 6_738_415_616),
        ("Llama 3.1 8B", 8_030_261_248),
        ("Llama 3.1 70B", 70_553_706_496),
    ],
)
def test_parameters_are_counted_right(model: str, parameters: int) -> None:
    assert load(SIZES).MODELS[model].parameters == parameters
