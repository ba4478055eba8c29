"""The catalogue, and fetching: from a hub, from wheels, from paths; resumed, refused, offline, by several at once."""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
import pytest

from kserve_rag.errors import FetchError, UsageError
from kserve_rag.models.fetch import HubSource, PathSource, WheelSource, file_sha256
from kserve_rag.models.store import Catalogue, EmbedderModel, ModelFile, ModelStore
from kserve_rag.progress import Silent
from kserve_rag.settings import Settings
from tests.fakes.model_hub import Hub, HubFile, running_hub
from tests.tiny_bert import write_folder, write_pack

CONTENT = b"".join(number.to_bytes(4, "big") for number in range(800_000))
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATH = "acme/model/resolve/main/weights.bin"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        hub.files[PATH] = HubFile(CONTENT)
        yield hub


@pytest.fixture
def store(hub: Hub, tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models", hub_url=hub.url)


def from_hub(sha256: str | None = SHA256, file: str = "weights.bin", revision: str = "main") -> ModelFile:
    return ModelFile(name=file, sha256=sha256, sources=(HubSource(hub="acme/model", file=file, revision=revision),))


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


# ── the hub ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_is_fetched_once(store: ModelStore, hub: Hub) -> None:
    blob = store.fetch(from_hub(), label="weights")
    assert blob.read_bytes() == CONTENT
    assert blob.name == SHA256
    assert store.fetch(from_hub(), label="weights") == blob
    assert len(hub.requests("/acme")) == 1


def test_a_broken_download_goes_on_where_it_broke(store: ModelStore, hub: Hub) -> None:
    hub.break_after = 2_000_000
    assert store.fetch(from_hub(), label="weights").read_bytes() == CONTENT
    ranges = [asked.range for asked in hub.requests(f"/{SHA256}")]
    assert ranges[0] is None
    assert ranges[1] is not None
    assert int(ranges[1].removeprefix("bytes=").rstrip("-")) > 0


class Stop(Silent):
    """Interrupts what is fetched, in its midst."""

    def update(self, task: str, done: int, total: int | None) -> None:
        if done > 1_000_000:
            raise KeyboardInterrupt


def test_another_process_goes_on_too(store: ModelStore, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        ModelStore(tmp_path / "models", hub_url=hub.url, progress=Stop()).fetch(from_hub(), label="weights")
    assert store.fetch(from_hub(), label="weights").read_bytes() == CONTENT
    assert hub.requests(f"/{SHA256}")[-1].range is not None


def test_what_is_not_known_of_an_unfinished_file_is_fetched_anew(store: ModelStore, hub: Hub, tmp_path: Path) -> None:
    """Its version was cut short, as by a full disk or a power cut."""
    with pytest.raises(KeyboardInterrupt):
        ModelStore(tmp_path / "models", hub_url=hub.url, progress=Stop()).fetch(from_hub(), label="weights")
    (version,) = (tmp_path / "models" / "partial").glob("*.version")
    version.write_bytes(b"")
    assert store.fetch(from_hub(), label="weights").read_bytes() == CONTENT
    assert hub.requests(f"/{SHA256}")[-1].range is None


def test_a_copy_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    class Stop(Silent):
        def update(self, task: str, done: int, total: int | None) -> None:
            if done:
                raise KeyboardInterrupt

    original = tmp_path / "weights.bin"
    original.write_bytes(CONTENT)
    file = ModelFile(name="w", sha256=SHA256, sources=(PathSource(path=original),))
    with pytest.raises(KeyboardInterrupt):
        ModelStore(tmp_path / "models", progress=Stop()).fetch(file, label="weights")
    assert not list((tmp_path / "models" / "partial").iterdir())


def test_what_was_begun_of_another_file_is_thrown_away(store: ModelStore, hub: Hub, tmp_path: Path) -> None:
    hub.files[PATH] = HubFile(b"old" * 1_000_000)

    with pytest.raises(KeyboardInterrupt):
        ModelStore(tmp_path / "models", hub_url=hub.url, progress=Stop()).fetch(from_hub(None), label="weights")
    hub.files[PATH] = HubFile(CONTENT)
    assert store.fetch(from_hub(), label="weights").read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_not_kept(store: ModelStore, tmp_path: Path) -> None:
    expected = "0" * 64
    with pytest.raises(FetchError, match=f"sha256 is {SHA256}, expected {expected}"):
        store.fetch(from_hub(expected), label="weights")
    assert not list((tmp_path / "models").glob("blobs/*"))
    assert not [path for path in (tmp_path / "models" / "partial").iterdir() if path.stat().st_size]


@pytest.mark.parametrize("large", [True, False])
def test_without_a_known_hash_the_hubs_own_digest_counts(store: ModelStore, hub: Hub, large: bool) -> None:
    hub.files[PATH] = HubFile(CONTENT, large=large, stated_digest="1" * (64 if large else 40))
    with pytest.raises(FetchError, match="not what the hub stated"):
        store.fetch(from_hub(None), label="weights")
    hub.files[PATH] = HubFile(CONTENT, large=large)
    assert store.fetch(from_hub(None), label="weights").name == SHA256


def test_the_first_content_is_recorded_and_no_other_accepted(store: ModelStore, hub: Hub) -> None:
    blob = store.fetch(from_hub(None), label="weights")
    blob.unlink()
    hub.files[PATH] = HubFile(b"replaced upstream")
    with pytest.raises(FetchError, match=f"expected {SHA256}"):
        store.fetch(from_hub(None), label="weights")


def test_the_token_goes_to_the_hub_and_not_to_its_storage(hub: Hub, tmp_path: Path) -> None:
    hub.files[PATH] = HubFile(CONTENT, gated=True)
    with pytest.raises(FetchError, match="HF_TOKEN"):
        ModelStore(tmp_path / "a", hub_url=hub.url).fetch(from_hub(), label="weights")
    ModelStore(tmp_path / "b", hub_url=hub.url, hub_token="hub-token").fetch(from_hub(), label="weights")  # noqa: S106
    assert hub.requests("/acme")[-1].authorization == "Bearer hub-token"
    assert hub.requests(f"/{SHA256}")[-1].authorization is None


def test_every_failed_source_is_listed(store: ModelStore, tmp_path: Path) -> None:
    sources = (HubSource(hub="acme/model", file="gone.bin"), PathSource(path=tmp_path / "nowhere"))
    with pytest.raises(FetchError) as raised:
        store.fetch(ModelFile(name="w", sha256=SHA256, sources=sources), label="weights")
    assert "hub acme/model@main: gone.bin: status 404" in raised.value.message
    assert "nowhere: there is no such file" in raised.value.message
    assert "--model" in raised.value.message


def test_the_next_source_is_tried(store: ModelStore, tmp_path: Path) -> None:
    good = tmp_path / "weights.bin"
    good.write_bytes(CONTENT)
    sources = (HubSource(hub="acme/model", file="gone.bin"), PathSource(path=good))
    assert store.fetch(ModelFile(name="w", sha256=SHA256, sources=sources), label="weights").name == SHA256
    assert good.exists()


def test_an_unreachable_hub_says_so(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="ConnectError"):
        ModelStore(tmp_path, hub_url="http://127.0.0.1:9").fetch(from_hub(), label="weights")


class Everywhere(dict[str, HubFile]):
    """The file at every path, hence also where the hub redirects to."""

    def get(self, *_: object) -> HubFile:  # type: ignore[override]
        return HubFile(CONTENT)


def test_a_hub_that_is_set_up_wrongly_is_a_source_that_failed(hub: Hub, tmp_path: Path) -> None:
    hub.files, hub.storage_url = Everywhere(), hub.url
    for url, said in ((hub.url, "TooManyRedirects"), ("http://hub:port", "InvalidURL")):
        with pytest.raises(FetchError, match=said):
            ModelStore(tmp_path, hub_url=url).fetch(from_hub(), label="weights")


def test_offline_what_is_cached_is_enough(store: ModelStore, hub: Hub, tmp_path: Path) -> None:
    offline = ModelStore(tmp_path / "models", hub_url=hub.url, offline=True)
    with pytest.raises(FetchError, match="offline"):
        offline.fetch(from_hub(), label="weights")
    blob = store.fetch(from_hub(), label="weights")
    assert offline.fetch(from_hub(), label="weights") == blob


def test_two_at_once_fetch_it_once(hub: Hub, tmp_path: Path) -> None:
    stores = [ModelStore(tmp_path / "models", hub_url=hub.url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        blobs = set(pool.map(lambda store: store.fetch(from_hub(), label="weights"), stores))
    assert len(blobs) == 1
    assert len(hub.requests("/acme")) == 1


# ── wheels ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Makes wheels in a folder where pip finds them; gives their sha256."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    def make(package: str, content: bytes, platform: str = "any") -> str:
        path = folder / f"{package}-1.0-py3-none-{platform}.whl"
        info = f"{package}-1.0.dist-info"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{package}/data.bin", content)
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
            archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-{platform}\n")
            archive.writestr(f"{info}/RECORD", "")
        return hashlib.sha256(path.read_bytes()).hexdigest()

    return make


def part(package: str, sha256: str, path: str = "data.bin") -> dict[str, str]:
    return {"package": package, "version": "1.0", "sha256": sha256, "path": f"{package}/{path}"}


def test_a_file_comes_out_of_wheels_in_parts(store: ModelStore, wheel: Callable[..., str]) -> None:
    parts = [
        part("weights_a", wheel("weights_a", CONTENT[:1000])),
        part("weights_b", wheel("weights_b", CONTENT[1000:])),
    ]
    source = WheelSource.model_validate({"wheels": parts})
    file = ModelFile(name="w", sha256=SHA256, sources=(source,))
    assert store.fetch(file, label="weights").read_bytes() == CONTENT


def test_a_wheel_of_any_platform_can_be_asked_for(store: ModelStore, wheel: Callable[..., str]) -> None:
    """Its code is never run: a file is taken out of it."""
    described = part("weights_a", wheel("weights_a", CONTENT, "win_arm64"))
    here, there = (
        ModelFile(name="w", sha256=SHA256, sources=(WheelSource.model_validate({"wheels": [wheel]}),))
        for wheel in (described, {**described, "platform": "win_arm64"})
    )
    with pytest.raises(FetchError, match="pip could not download"):
        store.fetch(here, label="weights")
    assert store.fetch(there, label="weights").read_bytes() == CONTENT


def test_a_wheel_with_another_hash_is_refused(store: ModelStore, wheel: Callable[..., str]) -> None:
    wheel("weights_a", CONTENT)
    source = WheelSource.model_validate({"wheels": [part("weights_a", "2" * 64)]})
    with pytest.raises(FetchError, match=r"wheel weights_a==1\.0"):
        store.fetch(ModelFile(name="w", sha256=SHA256, sources=(source,)), label="weights")


def test_a_wheel_without_the_file_is_refused(store: ModelStore, wheel: Callable[..., str]) -> None:
    source = WheelSource.model_validate({"wheels": [part("weights_a", wheel("weights_a", CONTENT), "no.bin")]})
    with pytest.raises(FetchError, match=r"does not hold weights_a/no\.bin"):
        store.fetch(ModelFile(name="w", sha256=SHA256, sources=(source,)), label="weights")


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


def test_a_gguf_file_of_the_users_own(tiny_gguf: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models", offline=True)
    folder = store.materialise(str(tiny_gguf), "llm")
    assert {"model.gguf", "tokenizer.json", "tokenizer_config.json"} <= {path.name for path in folder.path.iterdir()}
    assert json.loads((folder.path / "tokenizer_config.json").read_text())["chat_template"] == "{{ messages }}"
    # A tokenizer that lies beside the file is taken rather than the one in it.
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "mine"}')
    other = store.materialise(str(tiny_gguf), "llm")
    assert other.path != folder.path
    assert json.loads((other.path / "tokenizer_config.json").read_text()) == {"chat_template": "mine"}


def test_a_folder_of_the_users_own(real: ModelStore, tmp_path: Path) -> None:
    folder = real.materialise("minilm", "embedder").path
    mine = ModelStore(tmp_path).materialise(str(folder), "embedder")
    assert (mine.path, mine.triton_model, mine.max_tokens) == (folder, "minilm", 256)


def packed(pack: Path) -> ModelStore:
    """A store whose catalogue has one embedder, `tiny`, in this pack."""
    described = {
        "kind": "embedder",
        "what": "a pack",
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
    catalogue = Catalogue.model_validate({"defaults": {}, "models": {"tiny": described}})
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


def test_folders_of_the_users_own_tell_by_their_files_what_they_are(tmp_path: Path) -> None:
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
    with pytest.raises(UsageError, match="holds no weights"):
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
def test_names_that_do_not_fit(tmp_path: Path, name: str, kind: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ModelStore(tmp_path).materialise(name, kind)  # type: ignore[arg-type]


def test_files_that_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"not a model")
    (tmp_path / "readme.txt").write_text("hello")
    store = ModelStore(tmp_path / "models")
    for path, kind in ((tmp_path / "no.gguf", "llm"), (tmp_path / "readme.txt", "llm"), (tmp_path, "embedder")):
        with pytest.raises(UsageError):
            store.materialise(str(path), kind)  # type: ignore[arg-type]
    assert not list((tmp_path / "models").glob("folders/*"))


def test_one_waits_while_another_makes_the_folder(hub: Hub, tmp_path: Path) -> None:
    """A second store is told that another fetches, and gets the same file."""
    notes: list[str] = []
    waits = threading.Event()

    class Slow(Silent):
        def update(self, task: str, done: int, total: int | None) -> None:
            waits.wait(20)

    class Listening(Silent):
        def note(self, task: str, text: str) -> None:
            notes.append(text)
            if "another process" in text:
                waits.set()

    first = ModelStore(tmp_path / "models", hub_url=hub.url, progress=Slow())
    second = ModelStore(tmp_path / "models", hub_url=hub.url, progress=Listening())
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(first.fetch, from_hub(), label="weights")
        while not hub.requests("/acme"):
            waits.wait(0.01)
        other = pool.submit(second.fetch, from_hub(), label="weights")
        assert one.result() == other.result()
    assert "another process fetches it" in notes
