"""The supervisor restarts services, keeps their sockets, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from kserve_rag.errors import LaunchError
from kserve_rag.local import supervisor
from kserve_rag.local.control import ProcessStatus, SupervisorClient, listen
from kserve_rag.local.locking import try_lock
from tests.processes import ENDS_WITHIN_S, free_ports, until

REGION = f"test-{os.getpid()}-"

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {STUBBORN!r}])"
SERVER = """
import os, signal, socket
listener = socket.socket(fileno=int(os.environ["LISTENER"]))
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
if os.path.exists("broken"):
    raise SystemExit("broken")
notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"].replace("@", "\\0", 1))
while True:
    connection, _ = listener.accept()
    connection.sendall(str(os.getpid()).encode())
    connection.close()
"""

MODEL = f"""
import http.server, subprocess, sys
subprocess.Popen([sys.executable, "-c", {STUBBORN!r}])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        print("checked", flush=True)
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

STOPPED = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(400)
        self.end_headers()
        self.wfile.write(b"The engine has stopped after an internal error.")
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Supervised:
    """A supervisor with one listening socket, for the service `server`."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        lock = try_lock(run_dir / "lock")
        assert lock is not None
        with listen(run_dir) as control:
            descriptors = [lock, control.fileno(), self.listener.fileno()]
            command = [sys.executable, "-I", supervisor.__file__, "--run-dir", str(run_dir), "--stop-timeout-s", "1"]
            command += ["--lock-fd", str(lock), "--control-fd", str(control.fileno())]
            command += ["--listener", f"server={self.listener.fileno()}", "--shared-memory-prefix", REGION]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=descriptors)
        os.close(lock)
        self.listener.close()
        self.client = SupervisorClient(run_dir)

    def start(self, name: str, code: str, **more: Any) -> None:
        self.client.start(name, [sys.executable, "-c", code], dict(os.environ), **more)

    def start_up(self, name: str, code: str) -> psutil.Process:
        """Starts Python code and waits until it, or its child, says that it is up."""
        self.start(name, code)
        log = self.run_dir / f"{name}.log"
        until(lambda: log.exists() and "up" in log.read_text())
        return psutil.Process(self.status(name).pid)

    def status(self, name: str) -> ProcessStatus:
        return self.client.status()[name]

    def answer(self) -> int:
        """The pid of the server that accepts a connection; the connection may wait in the backlog."""
        with socket.create_connection(self.address, timeout=ENDS_WITHIN_S) as connection:
            return int(connection.recv(100))

    def supervisor(self) -> psutil.Process:
        """The child of the guard that supervises."""
        return psutil.Process(self.process.pid).children()[0]

    def close(self) -> None:
        self.client.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(ENDS_WITHIN_S)


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    supervised = Supervised(tmp_path)
    yield supervised
    supervised.close()


def family(*processes: psutil.Process) -> list[psutil.Process]:
    return [member for process in processes for member in (process, *process.children(recursive=True))]


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=ENDS_WITHIN_S)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


@pytest.mark.parametrize(
    "how", ["stop", "SIGTERM", "SIGINT", "end of input", "SIGKILL of the supervisor", "SIGKILL of its guard"]
)
def test_nothing_outlives_the_supervisor(supervised: Supervised, how: str) -> None:
    """Neither a process that ignores SIGTERM, nor its parent, nor shared memory."""
    everyone = family(supervised.start_up("plain", SLEEPER), supervised.start_up("parent", PARENT))
    assert len(everyone) == 3
    everyone.append(supervised.supervisor())
    region = supervisor.SHARED_MEMORY / f"{REGION}region"
    region.write_bytes(b"left over")
    if how == "stop":
        supervised.client.stop()
    elif how == "end of input":
        assert supervised.process.stdin is not None
        supervised.process.stdin.close()
    elif how == "SIGKILL of the supervisor":
        supervised.supervisor().kill()
    elif how == "SIGKILL of its guard":
        supervised.process.kill()
    else:
        supervised.process.send_signal(signal.Signals[how])
    assert gone(everyone)
    supervised.process.wait(ENDS_WITHIN_S)
    if how == "SIGKILL of its guard":
        region.unlink()
    assert not region.exists()
    lock = try_lock(supervised.run_dir / "lock")
    assert lock is not None
    os.close(lock)


def test_a_detached_supervisor_outlives_its_parent(supervised: Supervised) -> None:
    sleeper = supervised.start_up("plain", SLEEPER)
    supervised.client.detach()
    assert supervised.process.stdin is not None
    supervised.process.stdin.close()
    with pytest.raises(subprocess.TimeoutExpired):
        supervised.process.wait(0.5)
    assert sleeper.is_running()
    supervised.client.stop()
    assert gone([sleeper])
    assert supervised.process.wait(ENDS_WITHIN_S) == 0


def test_a_service_that_ends_is_restarted_and_callers_wait(supervised: Supervised) -> None:
    supervised.start("server", SERVER, fd_variable="LISTENER")
    first = psutil.Process(supervised.answer())
    first.kill()
    assert gone([first])
    assert supervised.answer() != first.pid
    status = supervised.status("server")
    assert (status.state, status.restarts, status.code) == ("running", 1, -signal.SIGKILL)


def test_descendants_end_with_their_process(supervised: Supervised) -> None:
    parent = supervised.start_up("parent", PARENT)
    children = parent.children()
    parent.kill()
    assert gone(children)


def test_a_model_that_loses_a_child_process_is_restarted(supervised: Supervised) -> None:
    (port,) = free_ports(1)
    check = {"url": f"http://127.0.0.1:{port}/", "body": {}}
    supervised.client.start("model", [sys.executable, "-c", MODEL, str(port)], dict(os.environ), check=check)
    log = supervised.run_dir / "model.log"
    # The children are known after the first check.
    until(lambda: log.exists() and log.read_text().count("checked") == 2)
    model = psutil.Process(supervised.status("model").pid)
    (child,) = model.children()
    child.kill()
    assert gone([model])
    until(lambda: supervised.status("model").restarts == 1)


def test_a_model_whose_engine_has_stopped_is_restarted(supervised: Supervised) -> None:
    (port,) = free_ports(1)
    check = {"url": f"http://127.0.0.1:{port}/", "body": {}}
    supervised.client.start("model", [sys.executable, "-c", STOPPED, str(port)], dict(os.environ), check=check)
    until(lambda: supervised.status("model").restarts >= 1)


def test_a_crash_loop_ends_and_callers_are_refused(supervised: Supervised) -> None:
    broken = supervised.run_dir / "broken"
    broken.touch()
    supervised.start("server", SERVER, fd_variable="LISTENER")
    until(lambda: supervised.status("server").state == "failed")
    status = supervised.status("server")
    assert (status.restarts, status.code, status.pid) == (supervisor.MAX_ENDS - 1, 1, 0)
    with pytest.raises(ConnectionRefusedError):
        supervised.answer()
    broken.unlink()
    supervised.client.restart("server", start_timeout_s=20, drain_timeout_s=5, stop_timeout_s=1)
    assert supervised.answer() == supervised.status("server").pid


def test_a_restart_waits_for_the_new_process_and_drains_the_old_one(supervised: Supervised) -> None:
    supervised.start("server", SERVER, fd_variable="LISTENER")
    first = psutil.Process(supervised.answer())
    supervised.client.restart("server", start_timeout_s=20, drain_timeout_s=20, stop_timeout_s=1)
    assert not first.is_running()
    assert supervised.answer() == supervised.status("server").pid
    assert supervised.status("server").restarts == 0


def test_a_new_process_that_does_not_become_ready_changes_nothing(supervised: Supervised) -> None:
    supervised.start("server", SERVER, fd_variable="LISTENER")
    first = supervised.answer()
    (supervised.run_dir / "broken").touch()
    with pytest.raises(LaunchError, match="new process of the server ended with 1"):
        supervised.client.restart("server", start_timeout_s=20, drain_timeout_s=5, stop_timeout_s=1)
    (supervised.run_dir / "broken").unlink()
    with pytest.raises(LaunchError, match="not ready in time"):
        supervised.client.restart("server", start_timeout_s=0, drain_timeout_s=5, stop_timeout_s=1)
    assert supervised.answer() == first == supervised.status("server").pid


def test_failing_commands(supervised: Supervised) -> None:
    with pytest.raises(LaunchError, match="/nowhere/program"):
        supervised.client.start("x", ["/nowhere/program"], {})
    with pytest.raises(LaunchError, match="not started yet"):
        supervised.client.restart("y", start_timeout_s=1, drain_timeout_s=1, stop_timeout_s=1)


def test_only_this_user_may_send_commands(supervised: Supervised) -> None:
    assert stat.S_IMODE((supervised.run_dir / "control.sock").stat().st_mode) == 0o600


def test_without_a_supervisor_there_is_no_client(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="starting or stopping"):
        SupervisorClient(tmp_path)
