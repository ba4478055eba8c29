"""Settings of the page's server: refused values, and documentation."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from chassis.settings import SettingError, read_settings
from frontend.settings import FrontendSettings
from tests.frontend.page_servers import environment

README = Path(__file__).parents[2] / "frontend" / "README.md"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("transformer_url", "rag.example.com"),
        ("transformer_url", "ftp://rag.example.com"),
        ("ingest_url", "8086"),
        ("frame_ancestors", "'self'; script-src *"),
        ("frame_ancestors", "'self', https://a.example.com"),
        ("frame_ancestors", "https://a.example.com/\r\nset-cookie: a=b"),
        ("frame_ancestors", " "),
        ("allowed_hosts", "https://rag.example.com"),
        ("allowed_hosts", "rag.example.com:443"),
        ("allowed_hosts", "a.example.com,,b.example.com"),
        ("cors_origins", "*"),
        ("cors_origins", "https://a.example.com/"),
        ("title", "x" * 101),
        ("transfer_timeout_s", "0"),
    ],
)
def test_wrong_settings_are_named(name: str, value: str) -> None:
    with pytest.raises(SettingError, match=rf"^FRONTEND_{name.upper()}: "):
        read_settings(FrontendSettings, **{name: value})


@pytest.mark.parametrize(
    "value", ["'self'", "'none'", "'self' https://a.example.com https://*.example.com:*", "https: http://10.0.0.1:8080"]
)
def test_sites_that_may_frame_the_page(value: str) -> None:
    assert read_settings(FrontendSettings, frame_ancestors=value).frame_ancestors == value


@pytest.mark.parametrize(
    ("host", "allowed", "known"),
    [
        ("0.0.0.0", "", None),  # noqa: S104 - a pod's
        ("10.1.2.3", "", None),
        ("127.0.0.1", "", {"localhost", "127.0.0.1", "[::1]"}),
        ("::1", "", {"localhost", "127.0.0.1", "[::1]", "::1"}),
        ("0.0.0.0", "rag.example.com, [fe80::1]", {"rag.example.com", "[fe80::1]"}),  # noqa: S104
        ("127.0.0.1", "Rag.Example.com", {"rag.example.com"}),
    ],
)
def test_host_names_of_the_page(host: str, allowed: str, known: set[str] | None) -> None:
    assert read_settings(FrontendSettings, host=host, allowed_hosts=allowed).known_hosts() == known


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FrontendSettings.model_fields:
        monkeypatch.setenv(f"FRONTEND_{name.upper()}", "")
    assert read_settings(FrontendSettings).ingest_url is None


def test_the_program_exits_and_says_what_is_wrong() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "frontend"],
        env=environment(FRONTEND_TRANSFORMER_URL="nowhere", FRONTEND_HTTP_PORT="99999"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "FRONTEND_TRANSFORMER_URL: " in done.stderr
    assert "FRONTEND_HTTP_PORT: " in done.stderr
    assert "Traceback" not in done.stderr


def test_every_setting_is_documented() -> None:
    told = re.findall(r"^\| `FRONTEND_(\w+)` \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    own = [name for name, setting in FrontendSettings.model_fields.items() if setting.validation_alias is None]
    assert sorted(told) == sorted(name.upper() for name in own)
