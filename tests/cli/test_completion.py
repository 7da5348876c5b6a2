"""`holdfast completion`: what real shells make of the script, and that completing stays quick and quiet."""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

#: Loads the script into bash, types `holdfast …` and presses TAB: prints what is offered, one a line.
PRESS_TAB = """
source "$SCRIPT"
complete -p holdfast >/dev/null || exit 9
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
COMPREPLY=()
_holdfast_completion holdfast
printf '%s\\n' "${COMPREPLY[@]}"
"""
#: Many times what it takes, for a busy machine; a server's libraries alone take longer.
QUICK_SECONDS = 0.5


def completion(shell: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "holdfast_worker.cli", "completion", shell]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    done = completion("bash")
    assert done.returncode == 0
    path = tmp_path_factory.mktemp("completion") / "holdfast"
    path.write_text(done.stdout)
    return path


def offered(script: Path, *words: str) -> list[str]:
    """What bash offers for the last of these words."""
    programs = sysconfig.get_path("scripts")
    assert shutil.which("holdfast", path=programs)
    done = subprocess.run(
        ["bash", "--norc", "-c", PRESS_TAB, "bash", "holdfast", *words],
        env=os.environ | {"SCRIPT": str(script), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["pa"], ["pause"]),
        (["se"], ["serve"]),
        (["job"], ["jobs", "job"]),
        (["pause", "--mo"], ["--mode"]),
        (["pause", "--mode", ""], ["drain", "quiesce"]),
        (["pause", "--mode", "q"], ["quiesce"]),
        (["jobs", "--status", "su"], ["succeeded"]),
        (["serve", "--tls"], ["--tls-cert", "--tls-key"]),
        (["migrate", "--js"], ["--json"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["--ver"], ["--version"]),
        (["nonsense", "--"], ["--version", "--help"]),
        (["zzz"], []),
    ],
    ids=lambda part: " ".join(part) or "nothing",
)
def test_bash_completes_verbs_options_and_values(script: Path, words: list[str], wanted: list[str]) -> None:
    assert offered(script, *words) == wanted


def test_every_verb_is_offered_where_nothing_has_been_typed(script: Path) -> None:
    verbs = offered(script, "")
    assert {"status", "pause", "resume", "serve", "mcp", "migrate", "completion"} <= set(verbs)


@pytest.mark.parametrize("words", ["holdfast pa", "holdfast serve --tl"])
def test_completing_is_quick(words: str) -> None:
    environment = {"COMP_WORDS": words, "COMP_CWORD": "2", "_HOLDFAST_COMPLETE": "bash_complete"}
    command = [sys.executable, "-m", "holdfast_worker.cli"]
    times: list[float] = []
    for _ in range(5):
        begun = time.perf_counter()
        subprocess.run(command, env=os.environ | environment, capture_output=True, check=True, timeout=60)
        times.append(time.perf_counter() - begun)
    assert min(times) < QUICK_SECONDS


def test_where_the_server_is_not_installed_its_options_are_not_offered_and_nothing_is_said(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['holdfast_server'] = None\n")
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path) + (os.pathsep + before if before else ""))
    assert offered(script, "serve", "--tls") == []
    assert offered(script, "se") == ["serve"]


@pytest.mark.parametrize(
    ("shell", "words", "place"),
    [
        ("bash", "complete -o nosort -F _holdfast_completion holdfast", "bash-completion/completions"),
        ("zsh", "#compdef holdfast", "$fpath"),
        ("fish", "complete --no-files --command holdfast", "fish/completions"),
    ],
    ids=lambda part: part.split()[0],
)
def test_each_shell_gets_its_script_on_stdout_and_the_place_for_it_on_stderr(
    shell: str, words: str, place: str
) -> None:
    done = completion(shell)
    assert done.returncode == 0
    assert words in done.stdout
    assert "_HOLDFAST_COMPLETE" in done.stdout
    (line,) = done.stderr.splitlines()
    assert place in line


def test_another_shell_is_a_usage_error() -> None:
    done = completion("tcsh")
    assert done.returncode == 2
    assert "bash" in done.stderr
    assert done.stdout == ""
