"""`holdfast worker pause|resume|status|stop` as people and scripts meet them: processes of their own."""

import json
import os
import subprocess
import sys
import webbrowser
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from holdfast_core.states import JobPhase, PauseMode
from holdfast_worker.cli import main
from support.control_port import Steered, ask, steered


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def holdfast(*arguments: str, **environment: str) -> Result:
    done = subprocess.run(
        [sys.executable, "-m", "holdfast_worker.cli", "worker", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture
def port() -> Generator[Steered]:
    with steered("exec-1") as port:
        yield port


@pytest.mark.requirement("ST-05")
def test_the_verbs_flip_the_local_pause_and_show_what_code_and_the_port_have_set(port: Steered) -> None:
    said = holdfast("pause")
    assert (said.code, said.err) == (0, "The worker exec-1 takes nothing new.\n")
    assert port.worker.hold.locally_paused is True
    assert holdfast("status", "--json").json["locallyPaused"] is True
    port.worker.resume()
    assert holdfast("status", "--json").json["locallyPaused"] is False
    ask(port.control.url, "POST", "/pause", port.control.token)
    assert "paused by its operator" in holdfast("status").out
    said = holdfast("resume")
    assert (said.code, said.err) == (0, "The worker exec-1 takes work again.\n")
    assert port.worker.hold.locally_paused is False
    assert holdfast("resume").code == 0, "a resume of what runs is fine: there is no version to lose"


def test_status_is_a_table_for_people_and_the_models_json_for_scripts(port: Steered) -> None:
    port.learn(PauseMode.QUIESCE, 7, "disk\x1b[31m")
    port.take(1, JobPhase.PARKED, "step 3")
    said = holdfast("status")
    assert said.code == 0
    lines = dict(line.split(":", 1) for line in said.out.splitlines())
    assert lines["Worker"].strip() == "exec-1"
    assert lines["State"].strip() == "paused"
    assert lines["Local"].strip() == "takes work"
    assert lines["System"].strip() == r"paused (Quiesce), version 7: disk\x1b[31m"
    assert lines["Slots"].strip() == "1 of 2 taken"
    assert "report attempt 1, parked at step 3" in lines["Job"]
    read = holdfast("status", "--json").json
    assert (read["workerId"], read["jobs"][0]["phase"], read["system"]["version"]) == ("exec-1", "parked", 7)


def test_a_resume_says_that_the_system_stays_paused(port: Steered) -> None:
    port.learn(PauseMode.DRAIN, 2)
    assert holdfast("pause", "--json").json["locallyPaused"] is True
    said = holdfast("resume", "--json")
    assert "the system is: `holdfast resume` ends that" in said.err
    assert (said.json["locallyPaused"], said.json["system"]["workersPaused"]) == (False, True)


def test_a_pause_says_what_goes_on(port: Steered) -> None:
    port.take(1)
    assert holdfast("pause").err == "The worker exec-1 takes nothing new; 1 job goes on.\n"
    port.take(2)
    assert holdfast("pause").err == "The worker exec-1 takes nothing new; 2 jobs go on.\n"


def test_stop_asks_for_the_orderly_end(port: Steered) -> None:
    port.take(1)
    said = holdfast("stop")
    assert (said.code, port.worker.hold.stopping) == (0, True)
    assert said.err == f"The worker exec-1 (process {os.getpid()}) ends once its job has.\n"
    assert "stopping" in said.out


@pytest.mark.parametrize("verb", ["pause", "resume", "status", "stop"])
def test_without_a_worker_the_verbs_say_so_and_end_with_6(verb: str) -> None:
    said = holdfast(verb)
    assert (said.code, said.out) == (6, "")
    assert said.err.startswith("Error: No worker runs on this host under this user.")


def test_an_unknown_id_ends_with_6_and_lists_what_runs(port: Steered) -> None:
    said = holdfast("pause", "--worker-id", "other")
    assert said.code == 6
    assert f"what runs is exec-1 (process {os.getpid()})" in said.err
    assert port.worker.hold.locally_paused is False


def test_where_several_run_the_id_is_asked_for_and_taken_from_the_environment_too(port: Steered) -> None:
    with steered("exec-2") as second:
        said = holdfast("pause")
        assert said.code == 2
        assert "exec-1" in said.err
        assert "exec-2" in said.err
        assert "--worker-id" in said.err
        assert holdfast("pause", "--worker-id", "exec-2").code == 0
        assert (port.worker.hold.locally_paused, second.worker.hold.locally_paused) == (False, True)
        assert holdfast("pause", HOLDFAST_WORKER_ID="exec-1").code == 0
        assert port.worker.hold.locally_paused is True


def test_a_worker_that_is_stuck_ends_the_verb_with_6(port: Steered, monkeypatch: pytest.MonkeyPatch) -> None:
    port.worker.breaks = True
    said = CliRunner().invoke(main, ["worker", "status"])
    assert (said.exit_code, "status 500" in said.stderr) == (6, True)
    port.worker.breaks = False
    monkeypatch.setattr("holdfast_worker.runtime.control.asking.ANSWER_SECONDS", 0.2)
    from threading import Event

    free = Event()
    port.portal.start_task_soon(free.wait, 30)  # its loop stands still, as under SIGSTOP
    said = CliRunner().invoke(main, ["worker", "status"])
    free.set()
    assert (said.exit_code, "has not answered within 0.2 s" in said.stderr) == (6, True)


def test_the_page_is_opened_by_a_code_that_works_once_and_is_no_token(
    port: Steered, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = holdfast("status", "--print-url")
    base, _, code = said.out.strip().partition("/#")
    assert (said.code, base) == (0, port.control.url)
    assert code not in {"", port.control.token}
    assert ask(base, "POST", "/session", None, {"code": code}).status == 200
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    assert CliRunner().invoke(main, ["worker", "status", "--open"]).exit_code == 0
    assert opened[0].startswith(f"{port.control.url}/#")
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    said_again = CliRunner().invoke(main, ["worker", "status", "--open"])
    assert (said_again.exit_code, "--print-url" in said_again.stderr) == (1, True)


def test_the_verbs_are_in_the_help_which_loads_none_of_them() -> None:
    code = (
        "import sys; from holdfast_worker.cli import main; main(['worker', '--help'], standalone_mode=False);"
        " heavy = {'pydantic', 'httpx2', 'anyio', 'PIL', 'pystray', 'h11', 'http.client'} & set(sys.modules);"
        " sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    for verb in ("run", "status", "pause", "resume", "stop", "tray"):
        assert f"\n  {verb} " in done.stdout


def test_without_the_trays_libraries_its_install_line_is_told(port: Steered) -> None:
    code = (
        "import sys; sys.modules['PIL'] = None; sys.modules['pystray'] = None;"
        " from holdfast_worker.cli import main; main(['worker', 'tray'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "pip install 'holdfast[tray]'" in done.stderr
