"""Requantised weights and extracted tokenizers, against llama.cpp and OpenVINO GenAI."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from kserve_rag.local.triton import TritonEnvironment
from kserve_rag.models.gguf import extract_tokenizer, requantise
from predictor.errors import ModelFilesError
from predictor.tokenizer import TextTokenizer
from tests.fakes.llama_cpp import LlamaCpp

TEXTS = [
    "",
    " ",
    "Hello, world!",
    "I'll say: it's what they've DON'T'd, isn'T it?",
    "3.14159 and 1234567890 or 2024-11-20T10:00:00Z",
    "  leading, trailing  \t tabs\tand \n\n\n newlines\r\n  ",
    "def f(x):\n    return {'a': [x ** 2, -1]}  # comment\n",
    "Größe, naïve café, Ελληνικά, русский язык, עברית, العربية",
    "中文分词测试,日本語のテスト。한국어 텍스트",
    "🙂🦊 family 👨‍👩‍👧‍👦 flags 🇫🇷",
    "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n",
    "a<|im_start|> <|im_end|>b <|im_start <im_end|>",
    "https://example.org/path?q=1&r=%20#top $+<=>^~|",
    "CamelCaseWords snake_case_words kebab-case ALLCAPS ٣٤٥ ½ ²",
    "\u00a0non\u2009breaking\u3000spaces\u200bzero",
]


@dataclass(frozen=True)
class Metadata:
    """A field of a GGUF file."""

    value: Any
    type: gguf.GGUFValueType
    item_type: gguf.GGUFValueType | None


Vocabulary = dict[str, Metadata]

WIDTH = 64
TINY = {
    "llama.block_count": 1,
    "llama.embedding_length": WIDTH,
    "llama.feed_forward_length": WIDTH,
    "llama.attention.head_count": 1,
    "llama.attention.head_count_kv": 1,
    "llama.rope.dimension_count": WIDTH,
}


KEPT_TOKENS = 6_000
"""The first of 49,152: reading all takes a while. Later tokens are merged from earlier ones, so a prefix works."""


@pytest.fixture(scope="module")
def vocabulary(llm_folder: Path) -> Vocabulary:
    """SmolLM2's metadata, with the first of its tokens."""
    found = metadata(llm_folder / "model.gguf")
    names = {name: f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "merges")}
    for name in ("tokens", "token_type"):
        field = found[names[name]]
        found[names[name]] = replace(field, value=field.value[:KEPT_TOKENS])
    kept = set(found[names["tokens"]].value)
    merges = found[names["merges"]]
    whole = [pair for pair in merges.value if kept.issuperset(pair.split(" ")) and pair.replace(" ", "") in kept]
    found[names["merges"]] = replace(merges, value=whole)
    return found


def metadata(path: Path) -> Vocabulary:
    fields = gguf.GGUFReader(path).fields
    arrays = {name: field.types[0] == gguf.GGUFValueType.ARRAY for name, field in fields.items()}
    return {
        name: Metadata(field.contents(), field.types[0], field.types[-1] if arrays[name] else None)
        for name, field in fields.items()
        if not name.startswith("GGUF.")
    }


def write_small(vocabulary: Vocabulary, target: Path, **changes: object) -> Path:
    """A one-layer llama with this vocabulary, quantised as Q4_1. `changes` are to fields of the tokenizer."""
    values = TINY | {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
    writer = gguf.GGUFWriter(target, "llama")
    for name, field in vocabulary.items():
        if name != "general.architecture":
            writer.add_key_value(name, values.get(name, field.value), field.type, sub_type=field.item_type)
    size, width = len(vocabulary["tokenizer.ggml.tokens"].value), WIDTH
    random = np.random.default_rng(0)
    shapes = {"token_embd": (size, width), "output_norm": (width,)}
    shapes |= {f"blk.0.{name}": (width,) for name in ("attn_norm", "ffn_norm")}
    shapes |= {
        f"blk.0.{name}": (width, width)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    }
    for name, shape in shapes.items():
        values = random.standard_normal(shape, dtype=np.float32)
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", values)
        else:
            kind_of = gguf.GGMLQuantizationType.Q4_1
            writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind_of), raw_dtype=kind_of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_requantised_weights_are_the_same_numbers_and_metadata_stays(vocabulary: Vocabulary, tmp_path: Path) -> None:
    source = write_small(vocabulary, tmp_path / "source.gguf")
    requantise(source, tmp_path / "target.gguf")
    before, after = gguf.GGUFReader(source), gguf.GGUFReader(tmp_path / "target.gguf")
    expected_metadata = metadata(source)
    expected_metadata["general.file_type"] = replace(expected_metadata["general.file_type"], value=7)
    assert metadata(tmp_path / "target.gguf") == expected_metadata
    assert [tensor.name for tensor in after.tensors] == [tensor.name for tensor in before.tensors]
    for old, new in zip(before.tensors, after.tensors, strict=True):
        expected = gguf.quants.dequantize(old.data, old.tensor_type)
        actual = gguf.quants.dequantize(new.data, new.tensor_type)
        assert new.tensor_type in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F32)
        # Q8_0 keeps 8 bits per block of 32: at most half a step of its largest value.
        np.testing.assert_allclose(actual, expected, atol=float(np.abs(expected).max()) / 250)


def test_failed_requantising_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source.gguf"
    source.write_bytes(b"GGUF but not really")
    with pytest.raises(ModelFilesError, match=r"source\.gguf"):
        requantise(source, tmp_path / "target.gguf")
    with pytest.raises(ModelFilesError, match=r"nowhere\.gguf"):
        requantise(tmp_path / "nowhere.gguf", tmp_path / "target.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["source.gguf"]


@pytest.mark.parametrize("pre", ["smollm", "default", "gpt-2", "qwen2", "llama-bpe"])
def test_token_ids_equal_those_of_llama_cpp(vocabulary: Vocabulary, tmp_path: Path, pre: str) -> None:
    source = write_small(vocabulary, tmp_path / "model.gguf", pre=pre)
    extract_tokenizer(source, tmp_path)
    tokenizer = TextTokenizer.load(tmp_path)
    reference = LlamaCpp(source)
    for text in TEXTS:
        assert tokenizer.encode(text) == reference.tokenize(text), text
        assert tokenizer.count(text) == len(reference.tokenize(text))
    reference.close()


def test_token_ids_equal_those_of_openvino_genai(llm_folder: Path, triton_environment: TritonEnvironment) -> None:
    program = (
        "import json, sys, openvino_genai\n"
        "tokenizer = openvino_genai.Tokenizer(sys.argv[1])\n"
        "ids = [tokenizer.encode(text, add_special_tokens=False).input_ids.data.ravel().tolist()"
        " for text in json.load(sys.stdin)]\n"
        "print(json.dumps(ids))\n"
    )
    texts = [text for text in TEXTS if text]
    run = subprocess.run(
        [triton_environment.path / "bin" / "python", "-c", program, llm_folder / "model.gguf"],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
    )
    tokenizer = TextTokenizer.load(llm_folder)
    for text, ids in zip(texts, json.loads(run.stdout.splitlines()[-1]), strict=True):
        assert tokenizer.encode(text) == ids, text


def test_the_bos_token_is_added_once(vocabulary: Vocabulary, tmp_path: Path) -> None:
    extract_tokenizer(write_small(vocabulary, tmp_path / "m.gguf", add_bos_token=True), tmp_path)
    tokenizer = TextTokenizer.load(tmp_path)
    assert tokenizer.encode("<|im_start|>user") == tokenizer.encode("user") == [1, *tokenizer.encode("user")[1:]]
    assert tokenizer.count("user") == 1


def test_tokenizer_config_has_the_metadata_of_the_file(llm_folder: Path, tmp_path: Path) -> None:
    extract_tokenizer(llm_folder / "model.gguf", tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (config["bos_token"], config["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert (config["add_bos_token"], config["model_max_length"]) == (False, 8192)
    assert "add_generation_prompt" in config["chat_template"]


def test_an_unsupported_tokenizer_is_refused_with_a_remedy(vocabulary: Vocabulary, tmp_path: Path) -> None:
    for i, change in enumerate(({"model": "llama"}, {"pre": "deepseek-llm"})):
        source = write_small(vocabulary, tmp_path / f"{i}.gguf", **change)
        with pytest.raises(ModelFilesError, match=r"cannot be extracted.*tokenizer\.json"):
            extract_tokenizer(source, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
