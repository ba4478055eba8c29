"""Settings that stop the transformer at the start: one line with the variable and the remedy."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from chassis.settings import SettingError
from kserve_rag.models.store import ModelStore
from kserve_rag.settings import Settings
from transformer.__main__ import build
from transformer.settings import TransformerSettings


@pytest.fixture(scope="session")
def tokenizer_folder() -> Path:
    return ModelStore(Settings().models).materialise("smollm2-135m", "llm").path


def start(**variables: str) -> tuple[int, list[str]]:
    """Exit status and output of the program, without INFO lines."""
    environment = {**os.environ, "TRANSFORMER_HOST": "127.0.0.1", **variables}
    done = subprocess.run(
        [sys.executable, "-m", "transformer"], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, [line for line in (done.stdout + done.stderr).splitlines() if " INFO " not in line]


def test_a_wrong_path_of_the_tokenizer(tmp_path: Path) -> None:
    status, lines = start(TRANSFORMER_PROMPT_FORMAT=str(tmp_path / "nowhere"), TRANSFORMER_LOG_FORMAT="json")
    assert status == 2
    (line,) = lines
    told = json.loads(line)
    assert told["level"] == "ERROR"
    assert told["message"].startswith("TRANSFORMER_PROMPT_FORMAT: name the folder of the LLM's tokenizer.")
    assert f"{tmp_path}/nowhere/tokenizer.json" in told["message"]


def test_a_taken_port(tokenizer_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, lines = start(TRANSFORMER_PROMPT_FORMAT=str(tokenizer_folder), TRANSFORMER_GRPC_PORT=str(port))
    assert status == 2
    assert [line for line in lines if "ERROR" in line and f"GRPC_PORT: cannot listen on 127.0.0.1:{port}" in line]
    assert "Traceback" not in "".join(lines)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"prompt_format": ""},
            r"TRANSFORMER_PROMPT_FORMAT: the LLM server 'llmapi' takes finished prompts\..*openai_chat",
        ),
        ({"predictor_layout": "openai"}, r"TRANSFORMER_PROMPT_FORMAT: the LLM server 'openai' takes finished prompts"),
        ({"predictor_layout": "openai_chat"}, r"TRANSFORMER_CONTEXT_TOKENS: no tokenizer names the window\. Set it"),
    ],
)
def test_without_a_tokenizer(settings: dict[str, str], told: str) -> None:
    with pytest.raises(SettingError, match=told):
        build(TransformerSettings.model_validate(settings))


def _template_that_is_not_text(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe{{")


def _template_that_is_none(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages")


def _no_template(folder: Path) -> None:
    _change(folder, chat_template=[{"name": "rag"}, "default"])


def _no_window(folder: Path) -> None:
    _change(folder, model_max_length=None)


def _config_that_is_cut_off(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"chat_template": ')


def _change(folder: Path, **fields: object) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_template_that_is_not_text, r"TRANSFORMER_PROMPT_FORMAT: .*chat_template\.jinja cannot be read"),
        (_template_that_is_none, r"TRANSFORMER_PROMPT_FORMAT: .*not a Jinja template"),
        (_no_template, r"TRANSFORMER_PROMPT_FORMAT: .*has no chat template"),
        (_config_that_is_cut_off, r"TRANSFORMER_PROMPT_FORMAT: .*cannot be read as JSON"),
        (_no_window, r"TRANSFORMER_CONTEXT_TOKENS: .*names no window\. Set it"),
    ],
)
def test_a_tokenizer_that_cannot_be_used(
    tokenizer_folder: Path, tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tokenizer_folder / name).read_bytes())
    damage(tmp_path)
    with pytest.raises(SettingError, match=told) as refused:
        build(TransformerSettings(prompt_format=tmp_path))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["vectorstore_url", "predictor_url"])
@pytest.mark.parametrize("url", ["", "predictor", "predictor:8080", "ftp://predictor", "http://"])
def test_invalid_urls(name: str, url: str) -> None:
    with pytest.raises(ValidationError, match=name):
        TransformerSettings.model_validate({name: url})
