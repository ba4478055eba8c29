"""The parent of all services: nothing outlives it, however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from kserve_rag.local import supervisor
from tests.processes import until

ENDS_WITHIN_S = 20

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {STUBBORN!r}])"


def specification(name: str, argv: list[str], log: Path, **more: Any) -> dict[str, Any]:
    """The command that starts a process."""
    what = {"name": name, "service": name, "number": 1, "ports": [], "drains": False, **more}
    return {"do": "start", "argv": argv, "env": dict(os.environ), "log": str(log), **what}


class Channel:
    """A supervisor and what it says."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.state = run_dir / "graph.json"
        self.state.write_text("{}")
        command = [sys.executable, "-I", supervisor.__file__, "--run-dir", str(run_dir), "--stop-timeout-s", "1"]
        command += ["--state", str(self.state), "--shared-memory-prefix", f"test-{os.getpid()}-"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else {}

    def start(self, name: str, code: str) -> psutil.Process:
        """Starts Python code and waits until it, or its child, says that it is up."""
        log = self.run_dir / f"{name}.log"
        self.tell(**specification(name, [sys.executable, "-c", code], log))
        event = self.hear()
        assert event["started"] == name
        process = psutil.Process(event["pid"])
        until(lambda: "up" in log.read_text() or not process.is_running())
        assert "up" in log.read_text()
        return process

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue


@pytest.fixture
def channel(tmp_path: Path) -> Iterator[Channel]:
    channel = Channel(tmp_path)
    yield channel
    channel.process.kill()
    channel.process.wait()
    channel.close()


def family(*processes: psutil.Process) -> list[psutil.Process]:
    return [member for process in processes for member in (process, *process.children(recursive=True))]


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=ENDS_WITHIN_S)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


@contextlib.contextmanager
def numbered(number: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process with this number, which is free, in a group of its own."""
    process = None
    try:
        while process is None or process.pid != number:
            if process is not None:
                process.kill()
                process.wait()
            try:
                # Source: proc_sys_kernel(5).
                Path("/proc/sys/kernel/ns_last_pid").write_text(str(number - 1))
            except OSError:
                pytest.skip("may not choose the number of a process")
            process = subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=True)
        yield process
    finally:
        if process is not None:
            process.kill()
            process.wait()


@pytest.mark.parametrize("how", ["stop", "SIGTERM", "SIGINT", "end of input", "SIGKILL"])
def test_nothing_outlives_it(channel: Channel, how: str) -> None:
    """Neither a process that ignores SIGTERM, nor the child of one that has ended."""
    everyone = family(channel.start("plain", SLEEPER), channel.start("parent", PARENT))
    assert len(everyone) == 3
    if how == "stop":
        channel.tell(do="stop")
    elif how == "end of input":
        assert channel.process.stdin is not None
        channel.process.stdin.close()
    else:
        channel.process.send_signal(signal.Signals[how])
    assert gone(everyone)
    channel.process.wait(ENDS_WITHIN_S)
    assert channel.state.exists() == (how == "SIGKILL")


def test_detached_it_lives_on_without_its_starter(channel: Channel) -> None:
    sleeper = channel.start("plain", SLEEPER)
    channel.tell(do="detach")
    channel.close()
    with pytest.raises(subprocess.TimeoutExpired):
        channel.process.wait(0.5)
    assert sleeper.is_running()
    channel.process.terminate()
    assert gone([sleeper])
    assert channel.process.wait(ENDS_WITHIN_S) == 0


def test_the_end_of_a_process_is_told_and_written_down(channel: Channel) -> None:
    channel.tell(**specification("brief", [sys.executable, "-c", "raise SystemExit(3)"], channel.run_dir / "brief.log"))
    assert channel.hear()["started"] == "brief"
    assert channel.hear() == {"ended": "brief", "code": 3}
    assert json.loads(supervisor.exit_file(channel.run_dir, "brief").read_text())["code"] == 3


def test_a_full_disk_ends_nothing_else(channel: Channel) -> None:
    other, brief = channel.start("other", SLEEPER), channel.start("brief", SLEEPER)
    supervisor.exit_file(channel.run_dir, "brief").symlink_to("/dev/full")
    brief.kill()
    assert channel.hear() == {"ended": "brief", "code": -9}
    channel.tell(do="specification", name="other")
    assert channel.hear()["specification"]["name"] == "other"
    assert other.is_running()


def test_it_goes_on_without_its_watchdog(channel: Channel) -> None:
    other, brief = channel.start("other", SLEEPER), channel.start("brief", SLEEPER)
    (watchdog,) = set(psutil.Process(channel.process.pid).children()) - {other, brief}
    watchdog.kill()
    assert gone([watchdog])
    brief.kill()
    assert channel.hear() == {"ended": "brief", "code": -9}
    third = channel.start("third", SLEEPER)
    channel.tell(do="stop")
    assert gone([other, third])
    channel.process.wait(ENDS_WITHIN_S)
    assert not channel.state.exists()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_whoever_gets_the_number_of_a_process_that_has_ended_is_left_alone(
    channel: Channel, how: signal.Signals
) -> None:
    brief, sleeper = channel.start("brief", SLEEPER), channel.start("plain", SLEEPER)
    brief.kill()
    assert channel.hear() == {"ended": "brief", "code": -9}
    # What the watchdog does last.
    region = supervisor.SHARED_MEMORY / f"test-{os.getpid()}-region"
    region.write_bytes(b"left over")
    with numbered(brief.pid) as another:
        channel.process.send_signal(how)
        assert gone([sleeper])
        until(lambda: not region.exists())
        assert another.poll() is None


def test_a_process_that_ends_takes_its_children_along(channel: Channel) -> None:
    parent = channel.start("parent", PARENT)
    children = parent.children()
    parent.kill()
    assert channel.hear() == {"ended": "parent", "code": -9}
    assert gone(children)


def test_a_program_that_does_not_exist(channel: Channel) -> None:
    channel.tell(**specification("x", ["/nowhere/program"], channel.run_dir / "x.log"))
    event = channel.hear()
    assert event["failed"] == "x"
    assert "/nowhere/program" in event["why"]


def test_shared_memory_of_a_killed_triton_is_removed(channel: Channel) -> None:
    region = supervisor.SHARED_MEMORY / f"test-{os.getpid()}-region"
    region.write_bytes(b"left over")
    sleeper = channel.start("plain", SLEEPER)
    channel.tell(do="stop")
    channel.process.wait(ENDS_WITHIN_S)
    assert gone([sleeper])
    # The watchdog removes it just after the supervisor's end.
    until(lambda: not region.exists())
