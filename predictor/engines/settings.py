"""Settings of the CPU model: from config.pbtxt, else from the environment, else the defaults here."""

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
    context_tokens: int | None = None
    """Maximum tokens of a prompt and its answer together. By default the limit in the model's files, else 2,048."""
    kv_cache_gb: int = 1
    """GiB for keys and values, cached prefixes included."""
    max_batch_tokens: int = 512
    """Tokens computed in one step. A longer prompt takes several steps, between which other answers continue."""
    max_running: int = 32
    """Answers generated at once."""
    max_waiting: int = 128
    """Requests in the queue; more are refused as UNAVAILABLE."""

    @classmethod
    def read(cls, model_config: Mapping[str, Any], environ: Mapping[str, str]) -> EngineSettings:
        """Takes each setting from the model's `parameters`, else from PREDICTOR_<NAME>.

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
            if setting.name == "model_dir":
                values[setting.name] = Path(sent)
            elif sent.isascii() and sent.isdigit() and int(sent) > 0:
                values[setting.name] = int(sent)
            else:
                raise ValueError(f"{setting.name} ({variable}) is {sent!r}: set a positive whole number.")
        return cls(**values)
