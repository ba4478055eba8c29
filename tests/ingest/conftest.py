from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from embedder.tokens import TokenCounter
from ingest.settings import IngestSettings
from tests.fakes.embedder import LoopbackEmbedder

DATA = Path(__file__).parents[3] / "shared" / "data"
"""Real corpora, if they are beside the checkout."""

_WORDS = (
    "a and at be by clay door every first for from glaze has in is it its kiln not of on one opens or pot pots shelf "
    "the then this to twice two was water wheel with"
)


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WordPiece tokenizer that behaves as MiniLM's does: common words are one token, others split into letters."""
    characters = string.ascii_lowercase + string.digits + string.punctuation + "äöüßéñ–“”’°€…"
    vocabulary = ["[UNK]", *_WORDS.split(), *characters, *(f"##{character}" for character in characters)]
    tokenizer = Tokenizer(
        models.WordPiece(
            {token: number for number, token in enumerate(dict.fromkeys(vocabulary))},
            unk_token="[UNK]",  # noqa: S106 - not that kind of token
            max_input_chars_per_word=100,
        )
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # As in the published file; callers that count tokens must switch it off.
    tokenizer.enable_truncation(128)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="session")
def tokens(tokenizer_path: Path) -> TokenCounter:
    return TokenCounter.load(tokenizer_path)


@pytest.fixture
def embedder() -> Iterator[LoopbackEmbedder]:
    with LoopbackEmbedder() as server:
        yield server


@pytest.fixture
def make_settings(tmp_path: Path, embedder: LoopbackEmbedder, tokenizer_path: Path) -> Callable[..., IngestSettings]:
    """Settings of a run against the loopback embedder; keywords override."""

    def make(**changes: Any) -> IngestSettings:
        values: dict[str, Any] = {
            "index_root": tmp_path / "indexes",
            "embedder_url": embedder.url,
            "tokenizer": tokenizer_path,
            "retry_wait_s": 0.0,
            "embed_attempts": 3,
        }
        return IngestSettings(**(values | changes))

    return make


@pytest.fixture(scope="session")
def press_releases() -> Path:
    folder = DATA / "press-releases"
    if not folder.is_dir():
        pytest.skip("the press releases are not beside this checkout")
    return folder
