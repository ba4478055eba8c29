"""HTTPS with the certificate that KServe names in KSERVE_TLS_CERT_FILE."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from chassis.settings import SettingError, read_settings
from tests.fakes.echo_service import EchoSettings
from tests.fakes.gateway import certificate
from tests.processes import ENDS_WITHIN_S, free_ports, program, until

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, ROOT / "tests" / "fakes" / "echo_service.py"]


def environment(folder: Path, http_port: int, grpc_port: int) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "ECHO_HOST": "127.0.0.1",
        "ECHO_HTTP_PORT": str(http_port),
        "ECHO_GRPC_PORT": str(grpc_port),
        "KSERVE_TLS_CERT_FILE": str(folder / "server.pem"),
        "KSERVE_TLS_KEY_FILE": str(folder / "server.key"),
    }


def answers(url: str, file: Path) -> bool:
    """Whether the server has the certificate of this file."""
    try:
        return httpx.get(url, verify=ssl.create_default_context(cafile=str(file)), trust_env=False).status_code == 200
    except httpx.ConnectError:
        return False


def test_a_service_has_the_certificate_and_takes_its_successor(tmp_path: Path) -> None:
    _, file = certificate(tmp_path)
    earlier, second = tmp_path / "earlier.pem", tmp_path / "second.pem"
    earlier.write_bytes(file.read_bytes())
    http_port, grpc_port = free_ports(2)
    log = tmp_path / "log"
    url = f"https://127.0.0.1:{http_port}/v2/health/live"
    with program([*COMMAND, tmp_path], url, environment(tmp_path, http_port, grpc_port), log=log):
        assert answers(url, earlier)
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(url.replace("https", "http"), trust_env=False)
        certificate(tmp_path)
        second.write_bytes(file.read_bytes())
        until(lambda: answers(url, second))
        assert not answers(url, earlier)
        file.write_text("half a certifi")  # while it is being replaced
        until(lambda: "the earlier one stays" in log.read_text())
        assert answers(url, second)


def test_a_certificate_without_its_key_names_both_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, file = certificate(tmp_path)
    monkeypatch.setenv("KSERVE_TLS_CERT_FILE", str(file))
    with pytest.raises(
        SettingError, match=r"^KSERVE_TLS_KEY_FILE: .*KSERVE_TLS_CERT_FILE and KSERVE_TLS_KEY_FILE, or neither"
    ):
        read_settings(EchoSettings)
    monkeypatch.setenv("KSERVE_TLS_KEY_FILE", str(tmp_path / "absent.key"))
    with pytest.raises(SettingError, match=r"^KSERVE_TLS_KEY_FILE: Path does not point to a file"):
        read_settings(EchoSettings)


def test_a_file_that_is_no_certificate_ends_the_start(tmp_path: Path) -> None:
    certificate(tmp_path)
    (tmp_path / "server.pem").write_text("no certificate")
    done = subprocess.run(
        [*COMMAND, tmp_path],
        env=environment(tmp_path, *free_ports(2)),
        capture_output=True,
        text=True,
        timeout=ENDS_WITHIN_S,
        check=False,
    )
    assert done.returncode == 2
    assert "KSERVE_TLS_CERT_FILE: the certificate or its key cannot be loaded" in done.stdout + done.stderr
