"""Failing starts of a graph, and every way to stop one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from kserve_rag.errors import LaunchError, NotRunningError, PortTakenError, SetupError, UsageError
from kserve_rag.local.control import SupervisorClient
from kserve_rag.local.graph import (
    ANSWERING,
    GraphState,
    follow,
    log_file,
    need_running,
    running,
    status,
    stop,
)
from kserve_rag.local.launcher import choose_llm, launch, model_store
from kserve_rag.local.locking import locked
from kserve_rag.local.triton import check_platform, ensure_triton_environment, run_program
from kserve_rag.models.catalogue import Catalogue
from kserve_rag.progress import Progress
from kserve_rag.settings import Settings
from tests.kserve_rag.command_line import environment
from tests.processes import ENDS_WITHIN_S, STARTS_WITHIN_S, until


@pytest.fixture
def settings(graph_settings: Settings, tmp_path: Path) -> Settings:
    """A separate home."""
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
        processes = psutil.Process(graph.state.supervisor_pid).children(recursive=True)
        with pytest.raises(LaunchError) as raised:
            graph.wait_ready("embedder")
        # The supervisor tries again.
        until(lambda: "ended with status" in str(status(settings).services["embedder"].reason))
    assert "The embedder ended" in raised.value.message
    # Further attempts append to the log.
    log = log_file(settings.run, "embedder").read_text()
    shown = [line.strip() for line in raised.value.message.splitlines()[1:]]
    assert "triton_model.py" in " ".join(shown)
    assert [line for line in shown if line not in log] == []
    assert not any(process.is_running() for process in processes)
    assert running(settings) is None


def test_a_taken_port_names_who_holds_it(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(PortTakenError, match=rf"Port {port}.*process {os.getpid()}.*--port"):
            launch(settings.model_copy(update={"port": port}))
    assert running(settings) is None


def test_a_taken_page_port_is_an_error(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(PortTakenError, match=rf"Port {port} for the web page .*--page-port"):
            launch(settings.model_copy(update={"page_port": port}))


def test_an_unknown_model_starts_nothing(settings: Settings) -> None:
    with pytest.raises(UsageError, match="nonesuch"):
        launch(settings.model_copy(update={"model": "nonesuch"}))
    assert running(settings) is None


def test_a_home_has_one_graph(graph: object, graph_settings: Settings) -> None:
    with pytest.raises(LaunchError, match="already runs"):
        launch(graph_settings)
    state = need_running(graph_settings)
    assert psutil.Process(state.supervisor_pid).is_running()


def test_other_users_cannot_read_the_home(graph: object, graph_settings: Settings) -> None:
    home = graph_settings.home
    assert home.stat().st_mode & 0o077 == 0
    for file in home.glob("run/*.log"):
        assert file.stat().st_mode & 0o077 == 0, file


def test_without_a_graph(settings: Settings) -> None:
    assert running(settings) is None
    assert not stop(settings)
    with pytest.raises(NotRunningError, match="kserve-rag up"):
        need_running(settings)
    found = status(settings)
    assert {service.reason for service in found.services.values()} == {"not running"}
    assert found.index is None


def test_a_stale_state_file_is_ignored(settings: Settings, graph_settings: Settings) -> None:
    settings.run.mkdir(parents=True)
    (settings.run / "graph.json").write_text("{}")
    assert running(settings) is None


def test_taken_service_ports_are_avoided_and_other_state_versions_refused(
    settings: Settings,
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as holder,
        launch(settings.model_copy(update={"vectorstore_port": holder.getsockname()[1]})) as graph,
    ):
        assert graph.url("vectorstore") != f"http://127.0.0.1:{holder.getsockname()[1]}"
        path = settings.run / "graph.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "services": {"database": {}}}))
        with pytest.raises(LaunchError, match="Another version"):
            running(settings)
        assert stop(settings)
        assert psutil.Process(graph.state.supervisor_pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_up_leaves_no_process_behind(settings: Settings, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "kserve_rag", "up"]
    up = subprocess.Popen(command, env=environment(settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        state = _all_started(settings, up)
        parent = psutil.Process(state.supervisor_pid)
        everyone = [parent, *parent.children(recursive=True)]
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
from kserve_rag.cli.shared import exit_on_signals

try:
    with exit_on_signals():
        exec("import os, signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)")
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_a_signal_during_exec(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    ended = subprocess.run([sys.executable, "-m", "interrupted"], cwd=tmp_path, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, b"")


def _all_started(settings: Settings, up: subprocess.Popen[bytes]) -> GraphState:
    """The state once every service on the path of a question has a process."""

    def started() -> GraphState | None:
        state = running(settings) if (settings.run / "graph.json").exists() else None
        if state is None:
            return None
        with SupervisorClient(settings.run) as client:
            return state if client.status().keys() >= set(ANSWERING) else None

    until(lambda: up.poll() is not None or started() is not None, STARTS_WITHIN_S)
    state = started()
    if state is None:
        pytest.fail(f"up did not start every service: {up.communicate()[0].decode()}")
    return state


GIVEN_UP = """
import _thread, os, signal, sys
from kserve_rag.local.launcher import launch
from kserve_rag.progress import Progress
from kserve_rag.settings import Settings

class Impatient(Progress):
    told = False
    def note(self, task, text):
        if "another process" in text and not self.told:
            self.told = True
            _thread.interrupt_main()

# Shells ignore SIGINT in background jobs.
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    launch(Settings(), progress=Impatient())
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_waiting_for_another_fetching_process_can_be_interrupted(settings: Settings, tmp_path: Path) -> None:
    elsewhere = settings.model_copy(update={"models_dir": tmp_path / "models"})
    environ = {**environment(elsewhere), "KSERVE_RAG_OFFLINE": "true"}
    with contextlib.ExitStack() as stack:
        for name in Catalogue.load().defaults.values():
            stack.enter_context(locked(tmp_path / "models" / "locks" / f"model-{name}.lock"))
        command = [sys.executable, "-c", GIVEN_UP]
        ended = subprocess.run(command, env=environ, capture_output=True, timeout=ENDS_WITHIN_S, check=False)
    assert ended.returncode == 130, ended.stderr.decode()
    assert running(settings) is None


def test_followed_logs_have_whole_lines(settings: Settings) -> None:
    settings.run.mkdir(parents=True)
    log = log_file(settings.run, "embedder")
    log.write_text("one\ntw")
    rest = ["", "o\nend"]

    def ended() -> bool:
        with log.open("a") as more:
            more.write(rest.pop(0))
        return not rest

    lines = [line for _, line in follow(settings.run, ["embedder"], until=ended)]
    assert lines == ["one", "two", "end"]


def test_this_machine_can_run_triton() -> None:
    check_platform()


def test_a_python_that_triton_cannot_use(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="KSERVE_RAG_TRITON_PYTHON"):
        ensure_triton_environment(tmp_path, python=Path("/bin/false"))


def test_building_the_environment_can_be_interrupted() -> None:
    class Impatient(Progress):
        def note(self, task: str, text: str) -> None:
            raise KeyboardInterrupt

    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with pytest.raises(KeyboardInterrupt):
        run_program(command, Impatient())
    assert command not in [child.cmdline() for child in psutil.Process().children()]


def test_a_failing_build_command_is_reported() -> None:
    program = "import sys; print('no'); sys.exit('such package')"
    with pytest.raises(SetupError, match="such package"):
        run_program([sys.executable, "-c", program], Progress())


def test_offline_no_environment_is_built(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="KSERVE_RAG_OFFLINE"):
        ensure_triton_environment(tmp_path, offline=True)


GB = 1_000_000_000


def test_without_a_choice_the_default_llm_is_taken_if_it_fits(settings: Settings) -> None:
    chosen = settings.model_copy(update={"model": None})
    assert choose_llm(chosen, 16 * GB) == (Catalogue.load().defaults["llm"], "")


def test_with_little_memory_the_fallback_llm_is_taken_and_explained(settings: Settings) -> None:
    name, notice = choose_llm(settings.model_copy(update={"model": None}), 1 * GB)
    assert name == Catalogue.load().fallback_llm
    assert "needs 2.5 GB of memory and 1.0 GB are free" in notice
    assert "--model NAME" in notice


def test_an_explicit_model_is_taken_whatever_the_memory(settings: Settings) -> None:
    assert choose_llm(settings.model_copy(update={"model": "llama-3.1-8b"}), 1 * GB) == ("llama-3.1-8b", "")


def test_offline_the_default_llm_has_to_be_on_this_machine(settings: Settings, llm_folder: Path) -> None:
    """The fallback is in the cache; a catalogue's default that is not is no choice without a network."""
    offline = settings.model_copy(update={"model": None, "offline": True})
    if model_store(offline).cached(Catalogue.load().defaults["llm"]):
        pytest.skip("the default LLM is on this machine")
    name, notice = choose_llm(offline, 16 * GB)
    assert name == Catalogue.load().fallback_llm
    assert "KSERVE_RAG_OFFLINE" in notice
