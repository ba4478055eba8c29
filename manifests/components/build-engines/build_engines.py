"""Builds TensorRT engines and a Triton repository with them: `build_engines.py CHECKPOINT REPOSITORY`.

For TensorRT-LLM up to 1.2, in NVIDIA's image nvcr.io/nvidia/tritonserver:25.12-trtllm-python-py3, on a GPU of the kind
that will serve: an engine runs on no other kind, and with no other version. Later versions have no engines.

Three steps: convert or quantise the checkpoint, build the engine, fill the templates of `inflight_batcher_llm`. The
repository appears when everything is done; a failed run leaves nothing.

Source of every option: TensorRT-LLM 1.2 `examples/models/core/llama/convert_checkpoint.py`,
`examples/quantization/quantize.py`, `tensorrt_llm/commands/build.py`; of every template key: tensorrtllm_backend
`docs/model_config.md` and `docs/llama.md` before their removal in July 2026.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
import string
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger("build_engines")

_ENGINE = Path("tensorrt_llm/1/engines")
"""Folder of the engine in the repository."""
_TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
)
_UNFILLED = re.compile(
    r"\b(max_batch_size|data_type|decoupled|count|backend|preferred_batch_size|max_queue_\w+)\s*:[\s\[\"]*\$\{(\w+)\}"
)
"""Placeholders that Triton cannot read. The others are strings, which the models take as "not set"."""


class BuildError(Exception):
    """The engine could not be built."""


@dataclass(frozen=True)
class Plan:
    """Parameters of an engine."""

    checkpoint: Path
    """Hugging Face folder."""
    repository: Path
    """Triton repository to write."""
    served_at: Path
    """Path of the repository in the serving pod."""
    precision: str
    """`bfloat16` and `float16` are converted, the others quantised."""
    tensor_parallel: int
    """Number of GPUs that share the model."""
    max_batch_size: int
    max_input_tokens: int
    max_tokens: int
    """Maximum number of tokens of prompt and answer together."""
    calibration: str
    """Dataset of the quantiser: a name at Hugging Face, or a folder."""
    app: Path
    """Folder of TensorRT-LLM's examples and templates in NVIDIA's image."""

    @property
    def building(self) -> Path:
        """The repository until it is complete."""
        return self.repository.parent / f".building-{self.repository.name}"

    @property
    def converted(self) -> Path:
        """The checkpoint in TensorRT-LLM's own layout; only needed while building."""
        return self.building / ".converted"


def commands(plan: Plan) -> list[list[str]]:
    """The programs to run, in order."""
    folders = [f"--model_dir={plan.checkpoint}", f"--output_dir={plan.converted}", f"--tp_size={plan.tensor_parallel}"]
    examples = plan.app / "examples"
    if plan.precision in ("bfloat16", "float16"):
        script = examples / "models/core/llama/convert_checkpoint.py"
        options = [f"--dtype={plan.precision}", f"--workers={plan.tensor_parallel}"]
    else:
        script = examples / "quantization/quantize.py"
        options = ["--dtype=auto", f"--qformat={plan.precision}", f"--calib_dataset={plan.calibration}"]
        options += ["--calib_size=512"]
        options += {"fp8": ["--kv_cache_dtype=fp8"], "int4_awq": ["--awq_block_size=128"]}.get(plan.precision, [])
    convert = [sys.executable, str(script), *folders, *options]
    build = [
        "trtllm-build",
        f"--checkpoint_dir={plan.converted}",
        f"--output_dir={plan.building / _ENGINE}",
        f"--max_batch_size={plan.max_batch_size}",
        f"--max_input_len={plan.max_input_tokens}",
        f"--max_seq_len={plan.max_tokens}",
        f"--max_num_tokens={max(plan.max_input_tokens, 8192)}",
        "--max_beam_width=1",
        "--kv_cache_type=paged",
        "--gemm_plugin=auto",
        "--remove_input_padding=enable",
        # Reuse of the KV cache and chunked prompts need it.
        "--use_paged_context_fmha=enable",
        f"--workers={plan.tensor_parallel}",
    ]
    return [convert, build]


def substitutions(plan: Plan) -> Mapping[str, Mapping[str, str]]:
    """Model → key → value of its template. Some versions' templates lack some of the keys."""
    batch = str(plan.max_batch_size)
    tokenizer = {"tokenizer_dir": str(plan.served_at), "triton_max_batch_size": batch}
    datatypes = {
        "logits_datatype": "TYPE_FP32",
        "prompt_embedding_table_data_type": "TYPE_FP16",
        "encoder_input_features_data_type": "TYPE_FP16",
    }
    queue = {"max_queue_delay_microseconds": "0", "max_queue_size": "0"}
    return {
        "preprocessing": {**tokenizer, **queue, "preprocessing_instance_count": "4", "add_special_tokens": "False"},
        "postprocessing": {**tokenizer, **queue, "postprocessing_instance_count": "4", "skip_special_tokens": "True"},
        "ensemble": {"triton_max_batch_size": batch, **datatypes},
        "tensorrt_llm_bls": {
            "triton_max_batch_size": batch,
            "decoupled_mode": "False",
            "bls_instance_count": batch,
            "accumulate_tokens": "False",
            "tensorrt_llm_model_name": "tensorrt_llm",
            **datatypes,
        },
        "tensorrt_llm": {
            "triton_backend": "tensorrtllm",
            "triton_max_batch_size": batch,
            "decoupled_mode": "False",
            "engine_dir": str(plan.served_at / _ENGINE),
            "max_beam_width": "1",
            "batching_strategy": "inflight_fused_batching",
            "batch_scheduler_policy": "guaranteed_no_evict",
            "kv_cache_free_gpu_mem_fraction": "0.85",
            "enable_kv_cache_reuse": "True",
            "enable_chunked_context": "True",
            "exclude_input_in_output": "True",
            "cancellation_check_period_ms": "100",
            **queue,
            **datatypes,
        },
    }


def fill(plan: Plan) -> None:
    """Copies the templates and fills them.

    Raises:
        BuildError: a placeholder is left that Triton cannot read.
    """
    for model, values in substitutions(plan).items():
        shutil.copytree(plan.app / "all_models/inflight_batcher_llm" / model, plan.building / model, dirs_exist_ok=True)
        config = plan.building / model / "config.pbtxt"
        # Like TensorRT-LLM's tools/fill_template.py.
        text = string.Template(config.read_text(encoding="utf-8")).safe_substitute(values)
        config.write_text(text, encoding="utf-8")
        if left := {key for _, key in _UNFILLED.findall(text)}:
            raise BuildError(f"{model}/config.pbtxt: no value is known for {', '.join(sorted(left))}.")


def copy_tokenizer(plan: Plan) -> None:
    """Copies the tokenizer to the repository's root. Triton ignores files there; the transformer reads them too."""
    for pattern in _TOKENIZER_FILES:
        for path in plan.checkpoint.glob(pattern):
            shutil.copy2(path, plan.building / path.name)


def run(command: Sequence[str]) -> None:
    """Runs a program with our standard output.

    Raises:
        BuildError: it failed.
    """
    logger.info("%s", " ".join(command))
    name = Path(command[1]).name if command[0] == sys.executable else command[0]
    try:
        subprocess.run(command, check=True)  # noqa: S603 - the commands above
    except FileNotFoundError:
        raise BuildError(f"{name} is not in this image.") from None
    except subprocess.CalledProcessError as error:
        raise BuildError(f"{name} ended with {error.returncode}.") from None


def main(arguments: list[str] | None = None) -> int:
    """Runs once. Exit status: 0 built or already there, 1 failed, 2 wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="build_engines.py", description="Builds TensorRT engines (TensorRT-LLM ≤ 1.2)."
    )
    add = parser.add_argument
    add("checkpoint", type=Path, help="Hugging Face folder of a Llama")
    add("repository", type=Path, help="Triton repository to write")
    add("--served-at", type=Path, default=Path("/mnt/models"), help="path of the repository in the serving pod")
    add("--precision", choices=["bfloat16", "float16", "fp8", "int4_awq", "int8_sq"], default="bfloat16")
    add("--tensor-parallel", type=int, default=1, help="GPUs that share the model")
    add("--max-batch-size", type=int, default=64)
    add("--max-input-tokens", type=int, default=3584)
    add("--max-tokens", type=int, default=4096, help="prompt and answer together")
    add("--calibration", default="cnn_dailymail", help="dataset of the quantiser, a name or a folder")
    add("--app", type=Path, default=Path("/app"), help="TensorRT-LLM's files in NVIDIA's image")
    add("--dry-run", action="store_true", help="print the commands as JSON and run none")
    options = vars(parser.parse_args(arguments))
    dry_run = options.pop("dry_run")
    plan = Plan(**options)
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(name)s: %(message)s")

    if dry_run:
        sys.stdout.write(json.dumps(commands(plan), indent=1) + "\n")
        return 0
    # An empty folder counts as missing: the kubelet creates one for a pod that mounts a `subPath`.
    if plan.repository.is_dir() and any(plan.repository.iterdir()):
        logger.info("%s is already there.", plan.repository)
        return 0
    shutil.rmtree(plan.building, ignore_errors=True)  # of a run that was killed
    try:
        if not (plan.checkpoint / "config.json").is_file():
            raise BuildError(f"{plan.checkpoint} has no config.json: fetch the checkpoint first.")
        plan.building.mkdir(parents=True)
        for command in commands(plan):
            run(command)
        shutil.rmtree(plan.converted)
        fill(plan)
        copy_tokenizer(plan)
        plan.building.replace(plan.repository)
    except (BuildError, OSError) as error:
        shutil.rmtree(plan.building, ignore_errors=True)
        logger.error("%s was not built: %s", plan.repository, error)
        return 1
    logger.info("%s is built.", plan.repository)
    return 0


if __name__ == "__main__":
    sys.exit(main())
