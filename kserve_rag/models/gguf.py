"""Convert GGUF files: weights to Q8_0, the tokenizer to Hugging Face files.

Runs when a model is fetched, not when it is served. Needs the package `gguf`.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType, TokenType, quants
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from predictor.errors import ModelFilesError

_KEPT = frozenset({GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.Q8_0})

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS: dict[str, tuple[str, ...]] = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
    "gpt-2": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2),
    "qwen2": (_CL100K % "",),
    "llama-bpe": (_CL100K % "{1,3}",),
}
_SPLITS["llama3"] = _SPLITS["llama-v3"] = _SPLITS["llama-bpe"]
"""Value of `tokenizer.ggml.pre` → regular expressions that split a text into words, applied one after the other.

Source: llama.cpp `src/llama-vocab.cpp`.
"""

_NORMALISED = frozenset({"qwen2"})
"""Pre-tokenizers that apply Unicode NFC first. Source: Qwen2's own tokenizer.json."""

_WHOLE_WORDS = frozenset({"llama-bpe", "llama3", "llama-v3"})
"""Pre-tokenizers that look up whole words before merging pieces. Source: Llama 3's tokenizer.json (`ignore_merges`)."""


def requantise(source: Path, target: Path) -> None:
    """Convert every quantised tensor to Q8_0, because OpenVINO GenAI misreads Q4_1 and cannot read Q5_0.

    Metadata and other tensors stay unchanged. `target` is written atomically.

    Raises:
        ModelFilesError: `source` is not a GGUF file, or contains a tensor that cannot be dequantised.
    """
    reader = _open(source)
    with _replacing(target) as part:
        writer = GGUFWriter(part, _field(reader, "general.architecture"))
        try:
            for name, stored in reader.fields.items():
                if name.startswith("GGUF.") or name == "general.architecture":
                    continue
                value_type = stored.types[0]
                value = LlamaFileType.MOSTLY_Q8_0.value if name == "general.file_type" else stored.contents()
                writer.add_key_value(
                    name, value, value_type, sub_type=stored.types[-1] if value_type == GGUFValueType.ARRAY else None
                )
            for tensor in reader.tensors:
                data, kind = tensor.data, tensor.tensor_type
                if kind not in _KEPT:
                    data = quants.quantize(quants.dequantize(data, kind), GGMLQuantizationType.Q8_0)
                    kind = GGMLQuantizationType.Q8_0
                writer.add_tensor(tensor.name, data, raw_dtype=kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        except (NotImplementedError, quants.QuantError) as error:
            raise ModelFilesError(f"{source} contains a tensor that cannot be requantised: {error}") from error
        finally:
            writer.close()


def extract_tokenizer(source: Path, folder: Path) -> None:
    """Write the tokenizer of a GGUF file as `tokenizer.json` and `tokenizer_config.json`.

    Supports byte-level BPE (`tokenizer.ggml.model` "gpt2") with the pre-tokenizers of `_SPLITS`.

    Raises:
        ModelFilesError: the file is not a GGUF file, or its tokenizer is not supported.
    """
    reader = _open(source)
    kind, split = _field(reader, "tokenizer.ggml.model"), _field(reader, "tokenizer.ggml.pre", "default")
    if kind != "gpt2" or split not in _SPLITS:
        raise ModelFilesError(
            f"{source} has a {kind!r} tokenizer with the pre-tokenizer {split!r}, which cannot be extracted. Put the "
            "model's tokenizer.json and tokenizer_config.json in the same folder."
        )
    tokens: list[str] = _field(reader, "tokenizer.ggml.tokens")
    types: list[int] = _field(reader, "tokenizer.ggml.token_type")
    special = {
        name: tokens[token_id]
        for name in ("bos", "eos", "unk", "pad")
        if (token_id := _field(reader, f"tokenizer.ggml.{_GGUF_NAMES.get(name, name)}_token_id", None)) is not None
    }
    add_bos = bool(_field(reader, "tokenizer.ggml.add_bos_token", split in _WHOLE_WORDS)) and "bos" in special
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merges: list[tuple[str, str]] = [tuple(merge.split(" ", 1)) for merge in _field(reader, "tokenizer.ggml.merges")]
    tokenizer = _build(vocabulary, merges, split, special["bos"] if add_bos else None)
    tokenizer.add_tokens(
        [
            AddedToken(token, special=token_type == TokenType.CONTROL, normalized=False)
            for token, token_type in zip(tokens, types, strict=True)
            if token_type in (TokenType.CONTROL, TokenType.USER_DEFINED)
        ]
    )
    config: dict[str, Any] = {
        "add_bos_token": add_bos,
        "chat_template": _field(reader, "tokenizer.chat_template", None),
        "clean_up_tokenization_spaces": False,
        "model_max_length": _field(reader, f"{_field(reader, 'general.architecture')}.context_length"),
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name}_token": token for name, token in special.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "tokenizer.json": tokenizer.to_str(),
        "tokenizer_config.json": json.dumps(config, ensure_ascii=False, indent=2),
    }
    for name, text in texts.items():
        with _replacing(folder / name) as part:
            part.write_text(text, encoding="utf-8")


_GGUF_NAMES = {"unk": "unknown", "pad": "padding"}


def _build(vocabulary: dict[str, int], merges: list[tuple[str, str]], split: str, bos: str | None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=split in _WHOLE_WORDS))
    if split in _NORMALISED:
        tokenizer.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in _SPLITS[split]]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocabulary[bos])]
        )
    return tokenizer


def _open(path: Path) -> GGUFReader:
    try:
        return GGUFReader(path)
    except (OSError, ValueError) as error:
        raise ModelFilesError(f"{path} cannot be read as a GGUF file: {error}") from error


def _field(reader: GGUFReader, name: str, *default: Any) -> Any:
    """The value of a metadata field, or the default. Raises ModelFilesError if there is neither."""
    stored = reader.get_field(name)
    if stored is not None:
        return stored.contents()
    if default:
        return default[0]
    raise ModelFilesError(f"The GGUF file has no field {name}.")


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A temporary path, which replaces the target if the block succeeds."""
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
