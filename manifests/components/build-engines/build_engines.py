"""Builds TensorRT engines and the Triton repository around them: `build_engines.py CHECKPOINT REPOSITORY`.

For TensorRT-LLM up to 1.2, in NVIDIA's image nvcr.io/nvidia/tritonserver:25.12-trtllm-python-py3, on a GPU of the kind
that will serve: an engine runs on no other, and with no other version. Later versions have no engines.

Three steps: convert or quantise the checkpoint, build the engine, fill the templates of `inflight_batcher_llm`. The
repository gets its name when all is done; what fails leaves nothing behind.

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
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger("build_engines")

MODELS = ("preprocessing", "tensorrt_llm", "postprocessing", "ensemble", "tensorrt_llm_bls")
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
"""Placeholders that Triton cannot read as they are. The others are strings, which the models take as "not set"."""


class BuildError(Exception):
    """The engine could not be built."""


@dataclass(frozen=True)
class Plan:
    """Parameters of an engine."""

    checkpoint: Path
    """Hugging Face folder."""
    repository: Path
    """Where the Triton repository goes."""
    served_at: Path
    """Where the serving pod mounts it: the path in the templates."""
    precision: str
    """`bfloat16` and `float16` are converted, the others quantised."""
    tensor_parallel: int
    max_batch_size: int
    max_input_tokens: int
    max_tokens: int
    """Prompt and answer together."""
    calibration: str
    """Dataset of the quantiser: a name at Hugging Face, or a folder."""
    app: Path
    """Where NVIDIA's image has TensorRT-LLM's examples, templates and tools."""

    @property
    def building(self) -> Path:
        """Where it grows."""
        return self.repository.parent / f".building-{self.repository.name}"

    @property
    def converted(self) -> Path:
        """The checkpoint in TensorRT-LLM's own layout; only needed while building."""
        return self.building / ".converted"

    @property
    def engine(self) -> Path:
        """Inside the repository, relative to it."""
        return Path("tensorrt_llm/1/engines")


def commands(plan: Plan) -> list[list[str]]:
    """The programs to run, in order."""
    if plan.precision in ("bfloat16", "float16"):
        convert = [
            sys.executable,
            str(plan.app / "examples" / "models/core/llama/convert_checkpoint.py"),
            f"--model_dir={plan.checkpoint}",
            f"--output_dir={plan.converted}",
            f"--dtype={plan.precision}",
            f"--tp_size={plan.tensor_parallel}",
            f"--workers={plan.tensor_parallel}",
        ]
    else:
        convert = [
            sys.executable,
            str(plan.app / "examples" / "quantization/quantize.py"),
            f"--model_dir={plan.checkpoint}",
            f"--output_dir={plan.converted}",
            "--dtype=auto",
            f"--qformat={plan.precision}",
            f"--tp_size={plan.tensor_parallel}",
            f"--calib_dataset={plan.calibration}",
            "--calib_size=512",
            *(["--kv_cache_dtype=fp8"] if plan.precision == "fp8" else []),
            *(["--awq_block_size=128"] if plan.precision == "int4_awq" else []),
        ]
    build = [
        "trtllm-build",
        f"--checkpoint_dir={plan.converted}",
        f"--output_dir={plan.building / plan.engine}",
        f"--max_batch_size={plan.max_batch_size}",
        f"--max_input_len={plan.max_input_tokens}",
        f"--max_seq_len={plan.max_tokens}",
        f"--max_num_tokens={max(plan.max_input_tokens, 8192)}",
        "--max_beam_width=1",
        "--kv_cache_type=paged",
        "--gemm_plugin=auto",
        "--remove_input_padding=enable",
        # What reuse of the KV cache and chunked prompts are built on.
        "--use_paged_context_fmha=enable",
        f"--workers={plan.tensor_parallel}",
    ]
    return [convert, build]


def substitutions(plan: Plan) -> Mapping[str, Mapping[str, str]]:
    """Model → key → value. A key that a version's template does not have is left out, see `fill`."""
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
            "engine_dir": str(plan.served_at / plan.engine),
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
        BuildError: a placeholder is left that Triton cannot read, or the tool failed.
    """
    for model in MODELS:
        shutil.copytree(plan.app / "all_models/inflight_batcher_llm" / model, plan.building / model, dirs_exist_ok=True)
    for model, values in substitutions(plan).items():
        config = plan.building / model / "config.pbtxt"
        text = config.read_text(encoding="utf-8")
        chosen = {key: value for key, value in values.items() if f"${{{key}}}" in text}
        pairs = ",".join(f"{key}:{value}" for key, value in chosen.items())
        run([sys.executable, str(plan.app / "tools/fill_template.py"), "--in_place", str(config), pairs])
        left = _UNFILLED.findall(config.read_text(encoding="utf-8"))
        if left:
            raise BuildError(
                f"{model}/config.pbtxt: no value is known for {', '.join(sorted({key for _, key in left}))}."
            )


def copy_tokenizer(plan: Plan) -> None:
    """Puts the tokenizer into the repository's root: files there are no models, and the transformer reads them too."""
    for pattern in _TOKENIZER_FILES:
        for path in plan.checkpoint.glob(pattern):
            shutil.copy2(path, plan.building / path.name)


def run(command: Sequence[str]) -> None:
    """Runs a program with our standard output.

    Raises:
        BuildError: it failed.
    """
    logger.info("%s", " ".join(command))
    try:
        subprocess.run(command, check=True)  # noqa: S603 - the commands above
    except FileNotFoundError:
        raise BuildError(f"{command[0]} is not in this image.") from None
    except subprocess.CalledProcessError as error:
        raise BuildError(
            f"{Path(command[1]).name if command[0] == sys.executable else command[0]} ended with {error.returncode}."
        ) from None


def main(arguments: list[str] | None = None) -> int:
    """Runs once and returns the exit status: 0 built or there already, 1 failed, 2 wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="build_engines.py", description="Builds TensorRT engines (TensorRT-LLM up to 1.2)."
    )
    parser.add_argument("checkpoint", type=Path, help="Hugging Face folder of a Llama")
    parser.add_argument("repository", type=Path, help="Triton repository to be made")
    parser.add_argument("--served-at", type=Path, default=Path("/mnt/models"), help="where the serving pod has it")
    parser.add_argument(
        "--precision", choices=["bfloat16", "float16", "fp8", "int4_awq", "int8_sq"], default="bfloat16"
    )
    parser.add_argument("--tensor-parallel", type=int, default=1, help="GPUs that share the model")
    parser.add_argument("--max-batch-size", type=int, default=64)
    parser.add_argument("--max-input-tokens", type=int, default=3584)
    parser.add_argument("--max-tokens", type=int, default=4096, help="prompt and answer together")
    parser.add_argument("--calibration", default="cnn_dailymail", help="dataset of the quantiser, a name or a folder")
    parser.add_argument("--app", type=Path, default=Path("/app"), help="TensorRT-LLM's files in NVIDIA's image")
    parser.add_argument("--dry-run", action="store_true", help="print the commands as JSON and run none")
    options = vars(parser.parse_args(arguments))
    dry_run = options.pop("dry_run")
    plan = Plan(**options)
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(name)s: %(message)s")

    if dry_run:
        sys.stdout.write(json.dumps(commands(plan), indent=1) + "\n")
        return 0
    if plan.repository.exists():
        logger.info("%s is there already.", plan.repository)
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
