"""rclone's S3 server, over a folder whose subfolders are the buckets."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.processes import free_ports, until

ACCESS_KEY = "key"
SECRET_KEY = "secret"  # noqa: S105 - of a test server
_RCLONE = Path(sys.executable).with_name("rclone")


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """A server until the block ends. Yields its URL."""
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    # No cache of folders: tests change the files below the server.
    options = ["--vfs-cache-mode", "off", "--dir-cache-time", "0", "--etag-hash", "MD5"]
    command = [_RCLONE, "serve", "s3", *options, "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--addr", address, folder]
    environ = {**os.environ, "RCLONE_CONFIG": os.devnull}
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: _listens(port) or process.poll() is not None)
        assert process.poll() is None, f"rclone ended with status {process.returncode}"
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(30)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 10):
        return True
    return False
