"""The command line: output, errors and exit statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from kserve_rag.cli.app import app
from kserve_rag.local.graph import (
    ANSWERING,
    SERVICES,
    GraphState,
    default_services,
    log_file,
    need_running,
    running,
    write_state,
)
from kserve_rag.local.locking import try_lock
from kserve_rag.settings import Settings
from tests.kserve_rag.command_line import Run, environment, runner, runner_here
from tests.processes import ENDS_WITHIN_S


@pytest.fixture
def cli(graph_settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `kserve-rag …` in the shared graph's home."""
    return runner_here(graph_settings, monkeypatch, capsys)


@pytest.fixture
def own(graph_settings: Settings, tmp_path: Path) -> Settings:
    """A home where no graph runs."""
    return graph_settings.model_copy(update={"home": tmp_path / "home"})


@pytest.fixture
def own_cli(own: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return runner_here(own, monkeypatch, capsys)


def test_help_teaches_with_examples(graph_settings: Settings) -> None:
    shown = runner(graph_settings)("--help")
    assert shown.returncode == 0
    assert "kserve-rag up --docs" in shown.stdout
    for command in ("up", "ask", "ingest", "status", "models", "logs", "restart", "down"):
        assert command in shown.stdout
        assert f"kserve-rag {command}" in CliRunner().invoke(app, [command, "--help"]).output


def test_ask_streams_the_answer_and_then_its_sources(graph: Any, cli: Run) -> None:
    answer = cli("ask", "--temperature", "0", "--max-tokens", "24", "What does error code E08 mean?")
    assert answer.returncode == 0, answer.stderr
    text, _, sources = answer.stdout.partition("Sources (index")
    assert text.strip()
    assert "Troubleshooting" in sources
    assert "characters" in sources
    assert "score" in sources


def test_ask_as_json(graph: Any, cli: Run) -> None:
    answer = cli("ask", "--json", "--num-docs", "1", "--max-tokens", "4", "What does error code E08 mean?")
    parsed = json.loads(answer.stdout)
    assert {"text_output", "sources", "usage", "finish_reason", "index_version", "timings"} <= parsed.keys()
    assert len(parsed["sources"]) == 1


def test_models_are_listed_and_chosen(graph: Any, cli: Run) -> None:
    assert cli("ask", "--list-models").stdout == "rag  rag\n"
    (card,) = json.loads(cli("ask", "--list-models", "--json").stdout)
    assert (card["id"], card["defaults"]["top_k"]) == ("rag", 4)
    refused = cli("ask", "--model", "gpt-9", "What does error code E08 mean?")
    assert refused.returncode != 0
    assert "This service has 'rag'" in refused.stderr
    refused = cli("ask", "--template", "short", "What does error code E08 mean?")
    assert "This service has 'default'" in refused.stderr
    assert "kserve-rag ask" in cli("ask").stderr


def test_up_checks_the_file_of_models_first(own_cli: Run, own: Settings, tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text("models: []")
    refused = own_cli("up", "--models", str(file))
    assert refused.returncode == 2
    assert f"{file}: models: " in refused.stderr
    assert not log_file(own.run, "transformer").exists()


def test_status_as_json_is_what_is_documented(graph: Any, cli: Run) -> None:
    shown = cli("status", "--json")
    assert shown.returncode == 0, shown.stdout
    parsed = json.loads(shown.stdout)
    assert parsed.keys() == {"services", "index"}
    assert tuple(parsed["services"]) == SERVICES
    for name, service in parsed["services"].items():
        state = graph.state.services[name]
        assert service["url"] == state.url
        if name != "frontend":  # whose page may not be built
            assert psutil.pid_exists(service.pop("pid"))
            assert service == {"url": state.url, "ready": True, "reason": None, "restarts": 0}
    assert parsed["index"].keys() == {
        *("name", "version", "documents", "chunks", "languages", "weights", "stale", "skipped")
    }
    assert parsed["index"]["version"] == graph.index_version
    assert parsed["index"]["documents"] == sum(1 for path in graph.corpus.rglob("*") if path.is_file())


def test_status_for_people(graph: Any, cli: Run) -> None:
    shown = cli("status").stdout
    assert graph.transformer in shown
    assert "smollm2-135m" in shown
    assert graph.index_version in shown


def test_up_on_a_running_graph_says_so(graph: Any, cli: Run) -> None:
    again = cli("up")
    assert again.returncode == 0, again.stderr
    assert graph.transformer in again.stdout
    page = graph.state.services["frontend"].url
    assert f"the page is at {page}" in again.stdout or "there is no web page: " in again.stdout
    other = cli("up", "--model", "qwen2.5-0.5b")
    assert other.returncode == 4
    assert "model qwen2.5-0.5b instead of smollm2-135m" in other.stderr
    assert "kserve-rag down" in other.stderr
    assert "models /models.yaml instead of none" in cli("up", "--models", "/models.yaml").stderr
    assert "There is no llm 'nonesuch'" in cli("up", "--model", "nonesuch").stderr
    elsewhere = cli("up", "--page-port", "1")
    assert elsewhere.returncode == 4
    assert "page port 1 instead of " in elsewhere.stderr


def test_logs(graph: Any, cli: Run) -> None:
    both = cli("logs").stdout
    assert "transformer │ " in both
    assert "embedder    │ " in both
    assert "│" not in cli("logs", "predictor").stdout.splitlines()[0]
    wrong = cli("logs", "database")
    assert wrong.returncode == 2
    assert f"Choose from: {', '.join(SERVICES)}" in wrong.stderr


def test_the_logs_hold_no_question(graph: Any, cli: Run) -> None:
    cli("ask", "--max-tokens", "1", "Is the word zyzzyva in a log?")
    assert "zyzzyva" not in cli("logs").stdout


def test_models_are_listed(graph_settings: Settings) -> None:
    shown = runner(graph_settings)("models").stdout
    for name in ("minilm", "bge-m3", "smollm2-135m", "llama-3.1-8b", "Apache-2.0"):
        assert name in shown


def test_models_fetch(cli: Run) -> None:
    fetched = cli("models", "fetch", "minilm")
    assert fetched.returncode == 0, fetched.stderr
    assert (Path(fetched.stdout.split(" is in ")[1].strip()) / "model.onnx").is_file()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("ask", "anyone there?"), 4, "not running"),
        (("ingest", "."), 4, "not running"),
        (("restart",), 4, "not running"),
        (("restart", "database"), 2, "There is no service 'database'"),
        (("ask", "--url", "http://127.0.0.1:9", "anyone there?"), 5, "Nothing can be reached at http://127.0.0.1:9"),
        (("up", "--docs", "/nowhere"), 2, "There is no file or folder /nowhere"),
        (("up", "--model", "nonesuch"), 2, "There is no llm 'nonesuch'"),
        (("models", "fetch", "nonesuch"), 2, "There is no model 'nonesuch'"),
        (("logs",), 2, "There are no logs"),
        (("ask", "--url", "localhost:8080", "anyone there?"), 5, "'localhost:8080' is not an HTTP URL"),
        (("frobnicate",), 2, "frobnicate"),
        (("ask",), 2, 'The question is missing: kserve-rag ask "'),
        (("ask", "anyone", "there?"), 2, 'Quote it: kserve-rag ask "anyone there?"'),
        (("up", "--port", "http"), 2, "'--port': Input should be a valid integer\n"),
    ],
)
def test_errors_are_one_clear_line(own_cli: Run, arguments: tuple[str, ...], status: int, said: str) -> None:
    failed = own_cli(*arguments)
    assert failed.returncode == status
    assert said in failed.stderr
    assert "Traceback" not in failed.stderr
    lines = [line for line in failed.stderr.splitlines() if line.lower().startswith("error:")]
    assert len(lines) == 1


def test_an_unknown_model_is_refused_before_anything_is_fetched(own_cli: Run, tmp_path: Path) -> None:
    for option in ("--model", "--embedder"):
        failed = own_cli("up", option, "nonesuch", KSERVE_RAG_MODELS_DIR=str(tmp_path / "models"))
        assert (failed.returncode, "nonesuch" in failed.stderr) == (2, True)
    assert not list(tmp_path.glob("models/*"))


def test_the_version(own_cli: Run) -> None:
    assert own_cli("--version").stdout == f"kserve-rag {version('kserve-rag')}\n"


def test_a_bad_setting_names_its_variable(own_cli: Run) -> None:
    failed = own_cli("status", KSERVE_RAG_PORT="http")
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: KSERVE_RAG_PORT:")


def test_a_home_that_is_not_a_folder(own: Settings, own_cli: Run) -> None:
    own.home.write_bytes(b"a file")
    failed = own_cli("status")
    assert failed.returncode == 3
    assert failed.stderr.startswith(f"error: Not a directory: {own.run}. Free some space, grant access,")
    assert "KSERVE_RAG_HOME" in failed.stderr


def test_characters_that_the_terminal_cannot_show(own: Settings) -> None:
    own.run.mkdir(parents=True)
    for name in ANSWERING:
        log_file(own.run, name).write_text("Grüße\n", encoding="utf-8")
    shown = runner(own)("logs", PYTHONIOENCODING="ascii")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("Gr??e") == len(ANSWERING)


def test_up_shows_the_models_that_run(own: Settings, own_cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those that it would choose by default."""
    monkeypatch.delenv("KSERVE_RAG_MODEL")
    services = default_services(own.model_copy(update=dict.fromkeys(("port", "page_port"), 9)))
    lock = try_lock(own.run / "graph.lock")
    assert lock is not None
    write_state(
        own,
        GraphState(
            started_at=datetime.now(timezone.utc),
            llm="mine.gguf",
            embedder="e5-small",
            index_root=own.indexes,
            index_name="default",
            services=services,
        ),
    )
    again = own_cli("up")
    os.close(lock)
    assert "(mine.gguf, e5-small)" in again.stdout, again.stderr


def test_relative_folders_start_at_the_callers_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The services run in another folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KSERVE_RAG_HOME", "the home")
    monkeypatch.setenv("KSERVE_RAG_MODELS_DIR", "~/models")
    settings = Settings()
    assert (settings.home, settings.models) == (tmp_path / "the home", Path.home() / "models")


NOBODY = """
import os, pwd, sys
def unknown(uid):
    raise KeyError(uid)
pwd.getpwuid = unknown
os.environ.pop("HOME", None)
from kserve_rag.cli.app import main
sys.argv = ["kserve-rag", "models"]
main()
"""


def test_a_user_without_a_home_directory(own: Settings) -> None:
    def models(environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", NOBODY]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    environ = environment(own)
    assert models(environ).returncode == 0
    del environ["KSERVE_RAG_HOME"]
    failed = models(environ)
    assert (failed.returncode, failed.stderr.count("\n")) == (2, 1)
    assert "Set KSERVE_RAG_HOME" in failed.stderr


def test_status_without_a_graph_exits_with_1(own_cli: Run) -> None:
    shown = own_cli("status", "--json")
    assert shown.returncode == 1
    parsed = json.loads(shown.stdout)
    assert parsed["index"] is None
    assert all(service["reason"] == "not running" for service in parsed["services"].values())
    down = own_cli("down")
    assert down.returncode == 0
    assert "not running" in down.stdout


def test_from_nothing_to_an_answer_and_back(own: Settings, own_cli: Run, tmp_path: Path) -> None:
    """up --detach --ask, then ingest --add, then ingest alone, then down."""
    run, apart = own_cli, runner(own)
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, text in ((first, "The harbour master of Vardal is Ingrid Moe."), (second, "Vardal has 412 moorings.")):
        folder.mkdir()
        (folder / "page.md").write_text(f"# Vardal\n\n{text}\n")
    question = "Who is the harbour master of Vardal?"
    up = apart("up", "--detach", "--docs", str(first), "--ask", question)
    assert up.returncode == 0, up.stdout + up.stderr
    assert "Sources (index" in up.stdout
    state = need_running(own)
    parent = psutil.Process(state.supervisor_pid)
    processes = [parent, *parent.children(recursive=True)]
    try:
        added = run("ingest", "--add", str(second))
        assert added.returncode == 0, added.stderr
        assert json.loads(run("status", "--json").stdout)["index"]["documents"] == 2
        restarted = run("restart", "vectorstore")
        assert restarted.returncode == 0, restarted.stderr
        assert "The vectorstore is restarted." in restarted.stdout
        assert run("logs", "vectorstore").stdout.count("Started server process") == 2
        moorings = json.loads(run("ask", "--json", "--max-tokens", "8", "How many moorings has Vardal?").stdout)
        assert any("412 moorings" in source["text"] for source in moorings["sources"])
        assert run("ingest", str(second)).returncode == 0
        assert json.loads(run("status", "--json").stdout)["index"]["documents"] == 1
        (tmp_path / "press.md").write_text("# Oslo\n\nOslo has 9 ferries.\n")
        pressed = run("ingest", "--collection", "press", str(tmp_path / "press.md"))
        assert pressed.returncode == 0, pressed.stderr
        ferries = json.loads(run("ask", "--json", "--max-tokens", "8", "-c", "press", "How many ferries?").stdout)
        assert [source["source"] for source in ferries["sources"]] == ["press.md"]
        assert run("rollback").returncode == 0
        assert json.loads(run("status", "--json").stdout)["index"]["documents"] == 2
        assert run("ingest", str(second)).returncode == 0
        nothing, photo = tmp_path / "empty", tmp_path / "photo.png"
        nothing.mkdir()
        photo.write_bytes(b"\x89PNG")
        for arguments in ((nothing,), (photo,), ("--add", photo), ("--yes", photo)):
            refused = run("ingest", *map(str, arguments))
            assert refused.returncode == 2
            assert "the index is unchanged" in refused.stderr
        (listed,) = json.loads(run("documents", "--json").stdout)
        assert (listed["source"], listed["documents"], listed["stale"]) == ("page.md", 1, None)
        assert json.loads(run("documents", "--skipped", "--json").stdout) == []
        assert json.loads(run("status", "--json").stdout)["index"]["documents"] == 1
    finally:
        down = apart("down")
    assert down.returncode == 0
    _, alive = psutil.wait_procs(processes, timeout=ENDS_WITHIN_S)
    assert not alive
    assert running(own) is None
