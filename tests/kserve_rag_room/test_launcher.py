"""Starting a graph that cannot start, and stopping one in every way there is."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from processes import STARTS_WITHIN_S, until

from kserve_rag.errors import LaunchError, NotRunningError, PortTakenError, SetupError, UsageError
from kserve_rag.graph import ANSWERING, GraphState, log_file, need_running, running, status, stop
from kserve_rag.launcher import launch
from kserve_rag.settings import Settings
from kserve_rag.triton import check_platform, ensure_triton_environment

ENDS_WITHIN_S = 40


@pytest.fixture
def settings(graph_settings: Settings, tmp_path: Path) -> Settings:
    """A home of its own, beside the shared graph's."""
    return graph_settings.model_copy(update={"home": tmp_path / "home", "start_timeout_s": 120})


def test_a_service_that_fails_shows_its_last_lines(
    graph_settings: Settings, settings: Settings, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model.onnx").write_bytes(b"no model")
    (broken / "tokenizer.json").write_text("{}")
    settings = settings.model_copy(update={"embedder": str(broken)})
    with launch(settings) as graph:
        processes = [service.pid for service in graph.state.services.values() if service.pid]
        with pytest.raises(LaunchError) as raised:
            graph.wait_ready("embedder")
        assert status(settings).services["embedder"].reason is not None
        assert "ended" in str(status(settings).services["embedder"].reason)
    assert "The embedder ended" in raised.value.message
    last = [line for line in log_file(settings.run, "embedder").read_text().splitlines() if line.strip()][-1]
    assert last in raised.value.message
    assert not any(psutil.pid_exists(pid) for pid in processes)
    assert running(settings) is None


def test_a_taken_port_names_who_holds_it(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(PortTakenError, match=rf"Port {port}.*process {os.getpid()}.*--port"):
            launch(settings.model_copy(update={"port": port}))
    assert running(settings) is None


def test_the_pages_port_is_one_that_people_type(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(PortTakenError, match=rf"Port {port}, where the web page .*--page-port"):
            launch(settings.model_copy(update={"page_port": port}))


def test_other_taken_ports_are_avoided(graph_settings: Settings, settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = holder.getsockname()[1]
        with launch(settings.model_copy(update={"vectorstore_port": taken})) as graph:
            assert graph.url("vectorstore") != f"http://127.0.0.1:{taken}"


def test_an_unknown_model_starts_nothing(settings: Settings) -> None:
    with pytest.raises(UsageError, match="nonesuch"):
        launch(settings.model_copy(update={"model": "nonesuch"}))
    assert running(settings) is None


def test_a_home_has_one_graph(graph: object, graph_settings: Settings) -> None:
    with pytest.raises(LaunchError, match="runs already"):
        launch(graph_settings)
    state = need_running(graph_settings)
    assert psutil.Process(state.supervisor_pid).is_running()


def test_what_does_not_run(settings: Settings) -> None:
    assert running(settings) is None
    assert not stop(settings)
    with pytest.raises(NotRunningError, match="kserve-rag up"):
        need_running(settings)
    found = status(settings)
    assert {service.reason for service in found.services.values()} == {"not running"}
    assert found.index is None


def test_a_state_file_that_was_left_behind_is_not_believed(settings: Settings, graph_settings: Settings) -> None:
    settings.run.mkdir(parents=True)
    (settings.run / "graph.json").write_text("{}")
    assert running(settings) is None


def test_the_state_of_another_version_is_told_apart(settings: Settings) -> None:
    with launch(settings) as graph:
        path = settings.run / "graph.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "services": {"database": {}}}))
        with pytest.raises(LaunchError, match="another version"):
            running(settings)
        assert stop(settings)
        assert not psutil.pid_exists(graph.state.services["vectorstore"].pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_up_leaves_no_process_behind(settings: Settings, number: signal.Signals) -> None:
    environment = {
        **os.environ,
        "KSERVE_RAG_HOME": str(settings.home),
        "KSERVE_RAG_MODELS_DIR": str(settings.models),
        "KSERVE_RAG_ENVS_DIR": str(settings.envs),
        "KSERVE_RAG_PORT": "0",
        "KSERVE_RAG_GRPC_PORT": "0",
        "KSERVE_RAG_PAGE_PORT": "0",
    }
    up = subprocess.Popen(
        [sys.executable, "-m", "kserve_rag", "up"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        state = _all_started(settings, up)
        roots = [state.supervisor_pid, *(service.pid for service in state.services.values() if service.pid)]
        everyone = [
            member for pid in roots for member in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
        ]
        up.send_signal(number)
        output, _ = up.communicate(timeout=ENDS_WITHIN_S)
        assert up.returncode == (-9 if number == signal.SIGKILL else 130), output.decode()
        assert b"Traceback" not in output
        _, alive = psutil.wait_procs(everyone, timeout=ENDS_WITHIN_S)
        assert not alive
        assert running(settings) is None
    finally:
        up.kill()
        up.communicate()


INTERRUPTED = """
import sys
from kserve_rag.cli import _stopped_by_signals

try:
    with _stopped_by_signals():
        exec("import os, signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)")
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_a_signal_that_meets_code_made_at_run_time(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    ended = subprocess.run([sys.executable, "-m", "interrupted"], cwd=tmp_path, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, b"")


def _all_started(settings: Settings, up: subprocess.Popen[bytes]) -> GraphState:
    """The state in which every service that questions pass through has a process."""

    def started() -> GraphState | None:
        state = running(settings) if (settings.run / "graph.json").exists() else None
        return state if state is not None and all(state.services[name].pid for name in ANSWERING) else None

    until(lambda: up.poll() is not None or started() is not None, STARTS_WITHIN_S)
    state = started()
    if state is None:
        pytest.fail(f"up did not start every service: {up.communicate()[0].decode()}")
    return state


def test_this_machine_can_run_triton() -> None:
    check_platform()


def test_a_python_that_triton_cannot_use(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="KSERVE_RAG_TRITON_PYTHON"):
        ensure_triton_environment(tmp_path, python=Path("/bin/false"))


def test_offline_no_environment_is_built(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="KSERVE_RAG_OFFLINE"):
        ensure_triton_environment(tmp_path, offline=True)
