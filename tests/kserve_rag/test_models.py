"""The catalogue, and the folders that the Triton models read."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from kserve_rag.errors import UsageError
from kserve_rag.models.catalogue import Catalogue, EmbedderModel, WheelSource
from kserve_rag.models.fetch import file_sha256
from kserve_rag.models.store import ModelStore
from kserve_rag.settings import Settings
from tests.tiny_bert import write_folder, write_pack

# ── the catalogue ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_packaged_catalogue_is_whole() -> None:
    catalogue = Catalogue.load()
    assert catalogue.models[catalogue.defaults["embedder"]].kind == "embedder"
    assert catalogue.models[catalogue.defaults["llm"]].kind == "llm"
    for name, model in catalogue.models.items():
        files = [file.name for file in model.files]
        assert len(files) == len(set(files)), name
        if model.kind == "llm":
            assert "source.gguf" in files, name
        else:
            assert "tokenizer.json" in files or files == ["source.pack"], name


def test_the_defaults_are_pinned_and_need_no_hub() -> None:
    catalogue = Catalogue.load()
    for name in catalogue.defaults.values():
        for file in catalogue.models[name].files:
            assert file.sha256
            assert any(isinstance(source, WheelSource) for source in file.sources)


def test_models_of_both_kinds_are_known() -> None:
    catalogue = Catalogue.load()
    assert {"minilm", "granite-30m", "e5-small", "minilm-f32", "bge-m3"} <= set(catalogue.names("embedder"))
    assert {"smollm2-135m", "qwen2.5-0.5b", "qwen2.5-1.5b", "llama-3.2-1b", "llama-3.1-8b"} <= set(
        catalogue.names("llm")
    )
    bge = catalogue.models["bge-m3"]
    assert isinstance(bge, EmbedderModel)
    assert (bge.pooling, bge.dimension, bge.max_tokens) == ("cls", 1024, 8192)


# ── folders ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def real() -> ModelStore:
    """The user's own store: these models are needed by the graph anyway."""
    return ModelStore(Settings().models)


def test_the_embedders_folder(real: ModelStore) -> None:
    folder = real.materialise("minilm", "embedder")
    assert folder.triton_model == "minilm"
    described = json.loads((folder.path / "embedder.json").read_text())
    assert described == {
        "id": "all-MiniLM-L6-v2-int8",
        "pooling": "mean",
        "max_tokens": 256,
        "query_prefix": "",
        "passage_prefix": "",
        "normalize": True,
    }
    assert (folder.path / "model.onnx").resolve().name.startswith("8199be6f")
    assert (folder.path / "tokenizer.json").is_file()


def test_the_llms_folder_is_made_once(real: ModelStore) -> None:
    folder = real.materialise("smollm2-135m", "llm")
    made = {path.name: path.stat().st_mtime_ns for path in folder.path.iterdir()}
    assert {"model.gguf", "tokenizer.json", "tokenizer_config.json"} <= made.keys()
    assert "chat_template" in json.loads((folder.path / "tokenizer_config.json").read_text())
    again = real.materialise("smollm2-135m", "llm")
    assert {path.name: path.stat().st_mtime_ns for path in again.path.iterdir()} == made


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Path:
    """A GGUF file with a tokenizer of three tokens and one tensor."""
    path = tmp_path / "mine.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(128)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["a", "aa", "<|im_end|>"])
    writer.add_token_types([gguf.TokenType.NORMAL, gguf.TokenType.NORMAL, gguf.TokenType.CONTROL])
    writer.add_token_merges(["a a"])
    writer.add_eos_token_id(2)
    writer.add_chat_template("{{ messages }}")
    writer.add_tensor("token_embd.weight", np.zeros((3, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_an_own_gguf_file(tiny_gguf: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models", offline=True)
    folder = store.materialise(str(tiny_gguf), "llm")
    assert {"model.gguf", "tokenizer.json", "tokenizer_config.json"} <= {path.name for path in folder.path.iterdir()}
    assert json.loads((folder.path / "tokenizer_config.json").read_text())["chat_template"] == "{{ messages }}"
    # A tokenizer next to the file takes precedence over the one inside it.
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "mine"}')
    other = store.materialise(str(tiny_gguf), "llm")
    assert other.path != folder.path
    assert json.loads((other.path / "tokenizer_config.json").read_text()) == {"chat_template": "mine"}


def test_an_own_folder(real: ModelStore, tmp_path: Path) -> None:
    folder = real.materialise("minilm", "embedder").path
    mine = ModelStore(tmp_path).materialise(str(folder), "embedder")
    assert (mine.path, mine.triton_model, mine.max_tokens) == (folder, "minilm", 256)


def packed(pack: Path) -> ModelStore:
    """A store whose catalogue has this pack as its only embedder, `tiny`."""
    described = {
        "kind": "embedder",
        "summary": "a pack",
        "id": "tiny-int8",
        "licence": "none",
        "languages": ["en"],
        "files": [{"name": "source.pack", "sources": [{"path": str(pack)}]}],
        "triton_model": "bert",
        "pooling": "cls",
        "dimension": 24,
        "max_tokens": 48,
        "query_prefix": "query: ",
        "passage_prefix": "passage: ",
        "normalize": True,
    }
    catalogue = Catalogue.model_validate({"fallback_llm": "", "defaults": {}, "models": {"tiny": described}})
    return ModelStore(pack.parent / "models", catalogue=catalogue)


def test_a_pack_is_unpacked_once(tmp_path: Path) -> None:
    write_pack(tmp_path / "tiny.hmsemb")
    store = packed(tmp_path / "tiny.hmsemb")
    folder = store.materialise("tiny", "embedder")
    assert (folder.id, folder.triton_model, folder.max_tokens) == ("tiny-int8", "bert", 48)
    made = {path.name: path.stat().st_mtime_ns for path in folder.path.iterdir()}
    assert made.keys() == {"config.json", "model.safetensors", "tokenizer.json", "embedder.json"}
    card = json.loads((folder.path / "embedder.json").read_text())
    assert (card["pooling"], card["query_prefix"], card["passage_prefix"]) == ("cls", "query: ", "passage: ")
    again = store.materialise("tiny", "embedder")
    assert {path.name: path.stat().st_mtime_ns for path in again.path.iterdir()} == made


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        ("granite-30m", "5166956f48c97bfbe44cae1bd03f9985915d2c287bac78df11b2c02f4525deba"),
        ("e5-small", "1aabcf172ced606fcb685af7b5dfde4c7e8a375fd068fc15644324c6f9f481d9"),
    ],
)
def test_a_pack_gives_the_same_weights_everywhere(real: ModelStore, name: str, sha256: str) -> None:
    """Indexes are tied to the hash of the weights: it must not depend on who unpacked them, and when."""
    if not real.cached(name):
        pytest.skip(f"{name} is not on this machine: kserve-rag models fetch {name}")
    assert file_sha256(real.materialise(name, "embedder").path / "model.safetensors") == sha256


def test_a_damaged_pack_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "tiny.hmsemb").write_bytes(b"HMSEMB01 and no more")
    with pytest.raises(UsageError, match="not a pack"):
        packed(tmp_path / "tiny.hmsemb").materialise("tiny", "embedder")
    assert not list((tmp_path / "models" / "folders").iterdir())


def test_own_folders_are_recognised_by_their_files(tmp_path: Path) -> None:
    store, folder = ModelStore(tmp_path / "models"), tmp_path / "mine"
    write_folder(folder, "mpnet", {"id": "mine", "pooling": "mean", "max_tokens": 48})
    mine = store.materialise(str(folder), "embedder")
    assert (mine.path, mine.id, mine.triton_model, mine.max_tokens) == (folder, "mine", "bert", 48)
    (folder / "embedder.json").unlink()
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 30}')
    assert store.materialise(str(folder), "embedder").max_tokens == 30
    (folder / "colbert_linear.pt").touch()
    assert store.materialise(str(folder), "embedder").triton_model == "bge_m3"
    (folder / "sentence_bert_config.json").write_text("{")
    with pytest.raises(UsageError, match=r"sentence_bert_config\.json"):
        store.materialise(str(folder), "embedder")
    for name in ("model.safetensors", "colbert_linear.pt"):
        (folder / name).unlink()
    with pytest.raises(UsageError, match="contains no weights"):
        store.materialise(str(folder), "embedder")
    (folder / "openvino_model.xml").touch()
    (folder / "embedder.json").write_text('{"id": "exported", "max_tokens": 8192}')
    exported = store.materialise(str(folder), "embedder")
    assert (exported.id, exported.triton_model, exported.max_tokens) == ("exported", "bge_m3", 8192)


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("smollm3", "llm", "There is no llm 'smollm3'"),
        ("minilm", "llm", "minilm is an embedder"),
        ("smollm2-135m", "embedder", "Choose from: minilm, granite-30m, e5-small, minilm-f32, bge-m3"),
    ],
)
def test_unknown_names_and_wrong_kinds(tmp_path: Path, name: str, kind: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ModelStore(tmp_path).materialise(name, kind)  # type: ignore[arg-type]


def test_files_that_are_not_models(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"not a model")
    (tmp_path / "readme.txt").write_text("hello")
    store = ModelStore(tmp_path / "models")
    for path, kind in ((tmp_path / "no.gguf", "llm"), (tmp_path / "readme.txt", "llm"), (tmp_path, "embedder")):
        with pytest.raises(UsageError):
            store.materialise(str(path), kind)  # type: ignore[arg-type]
    assert not list((tmp_path / "models").glob("folders/*"))
