"""Settings of the CPU model, from config.pbtxt, else from the environment, else defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Settings of the CPU model, with their defaults."""

    model_dir: Path = Path("/mnt/models")
    """Folder with model.gguf (or an OpenVINO model), tokenizer.json and tokenizer_config.json."""
    cache_dir: Path | None = None
    """Folder that keeps a GGUF model in OpenVINO's format, which loads several times faster. Default: none."""
    context_tokens: int | None = None
    """Maximum number of tokens of prompt and answer together. Default: the limit in the model's files, else 2,048."""
    kv_cache_gb: int = 1
    """Size of the KV cache in GiB, including cached prefixes."""
    max_batch_tokens: int = 512
    """Maximum number of tokens computed in one step. Longer prompts take several, so that other answers continue."""
    max_running: int = 64
    """Maximum number of answers generated at the same time."""
    max_waiting: int = 128
    """Maximum number of requests in the queue; more are rejected as UNAVAILABLE."""
    timeout_s: int = 60
    """Time that a request without the parameter `timeout_ms` has for its answer."""

    @classmethod
    def read(cls, model_config: Mapping[str, Any], environ: Mapping[str, str]) -> EngineSettings:
        """Reads each setting from the model's `parameters`, else from PREDICTOR_<NAME>.

        Raises:
            ValueError: a value is not a positive whole number.
        """
        parameters = model_config.get("parameters", {})
        values: dict[str, Any] = {}
        for setting in fields(cls):
            variable = f"PREDICTOR_{setting.name.upper()}"
            sent = parameters.get(setting.name, {}).get("string_value", "") or environ.get(variable, "")
            if not sent:
                continue
            if setting.name.endswith("_dir"):
                values[setting.name] = Path(sent)
            elif sent.isascii() and sent.isdigit() and int(sent) > 0:
                values[setting.name] = int(sent)
            else:
                raise ValueError(f"{setting.name} ({variable}) is {sent!r}: set a positive whole number.")
        return cls(**values)
