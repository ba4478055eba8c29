"""Settings of an encoder, from the parameters of a Triton model configuration or from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from embedder.errors import SettingsError

Architecture = Literal["minilm", "bert", "bge_m3"]
Backend = Literal["auto", "openvino", "flagembedding"]
Precision = Literal["f32", "bf16", "int8"]
"""Precision of computations or of stored weights."""
PrecisionSetting = Literal["auto", "f32", "bf16", "int8"]

ENVIRONMENT_PREFIX = "EMBEDDER_"
DEFAULT_MODEL_DIR = "/mnt/models"
"""Where KServe's storage initializer puts a model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSettings:
    """Settings of a served model. `None`: the value in the model folder's `embedder.json` applies."""

    architecture: Architecture = "minilm"
    """`minilm`: a sentence encoder in one ONNX file. `bert`: a BERT, RoBERTa, XLM-RoBERTa, CamemBERT or MPNet in the
    Hugging Face layout, dense only. `bge_m3`: BAAI/bge-m3 in the Hugging Face layout, or exported."""
    backend: Backend = "auto"
    """Engine of bge_m3. `auto`: flagembedding if torch finds a CUDA device, else openvino. Others use openvino."""
    precision: PrecisionSetting = "auto"
    """Precision of computations in the openvino backend.

    `f32`: a text's embedding does not depend on the other texts in its batch (differences around 1e-7). `bf16`: on CPUs
    that support it, all-MiniLM-L6-v2 takes 0.6 times as long, at a cosine of 0.99998 to f32. `int8`: minilm and bert
    quantise activations and use int8 weights; the same model takes 0.6 times as long, at a cosine of 0.9998 (0.9988
    for an empty text). bge_m3 quantises its weights too, which gives it another fingerprint. `auto`: for bge_m3 the
    precision of its export, else bf16 on CPUs that support it, else f32; for the others f32."""
    threads: int = 0
    """Number of CPU threads. 0: all that the process may use."""
    streams: int = 0
    """Batches encoded at the same time, each on threads/streams threads. 0: one for bge_m3, else one per thread."""
    max_tokens: int | None = None
    """Maximum length of a text in tokens, including special tokens. Longer texts are truncated."""
    batch_texts: int = 16
    """Maximum number of texts in one batch of the openvino backend."""
    batch_tokens: int = 512
    """Maximum number of tokens in one batch, including padding. A longer text is the only one of its batch.

    Larger batches are slower on CPUs, because activations leave the cache: MiniLM takes 4 % longer per token at
    1,024."""
    model_id: str | None = None
    """Name in the fingerprint."""
    query_prefix: str | None = None
    """Prefix of texts of input type `query`."""
    passage_prefix: str | None = None
    """Prefix of texts of input type `passage`."""

    def __post_init__(self) -> None:
        for name, allowed in (("architecture", Architecture), ("backend", Backend), ("precision", PrecisionSetting)):
            value = getattr(self, name)
            if value not in get_args(allowed):
                raise SettingsError(f"{name} is {value!r}: choose one of {', '.join(get_args(allowed))}.")
        for name, least in (("threads", 0), ("streams", 0), ("batch_texts", 1), ("batch_tokens", 1), ("max_tokens", 3)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise SettingsError(f"{name} is {value}: it must be at least {least}.")

    @classmethod
    def read(cls, parameters: Mapping[str, str], environ: Mapping[str, str]) -> EncoderSettings:
        """Settings from `parameters`, else from `environ` as EMBEDDER_<NAME>, else defaults.

        Empty strings count as absent, so that a model configuration can list every parameter.

        Raises:
            SettingsError: a value is invalid.
        """
        values: dict[str, str | int] = {}
        for field in fields(cls):
            source, value = _lookup(field.name, parameters, environ)
            if not value:
                continue
            if "int" not in str(field.type):
                values[field.name] = value
            elif value.isascii() and value.isdigit():
                values[field.name] = int(value)
            else:
                raise SettingsError(f"{source} is {value[:40]!r}: it must be a whole number.")
        return cls(**values)  # type: ignore[arg-type]


def model_dir(parameters: Mapping[str, str], environ: Mapping[str, str]) -> Path:
    """The model folder: parameter `model_dir`, else EMBEDDER_MODEL_DIR, else `/mnt/models`."""
    return Path(_lookup("model_dir", parameters, environ)[1] or DEFAULT_MODEL_DIR)


def _lookup(name: str, parameters: Mapping[str, str], environ: Mapping[str, str]) -> tuple[str, str]:
    """The name of a setting's source, for error messages, and its value; empty if it is not set."""
    if parameters.get(name):
        return f"Parameter {name}", parameters[name]
    variable = ENVIRONMENT_PREFIX + name.upper()
    return variable, environ.get(variable, "")
