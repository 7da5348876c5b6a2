"""`holdfast hook install`: what goes into the settings of Claude Code and Codex, and what it leaves there."""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from holdfast_worker.hook.settings import ours

CLIENTS = ["claude-code", "codex"]
FILES = {"claude-code": "settings.json", "codex": "hooks.json"}
THEIRS = {
    "description": "ours ü",
    "hooks": {
        "PreToolUse": [
            {"matcher": "Bash", "hooks": [{"type": "command", "command": "guard --hook", "timeout": 5}]}
        ],
        "Stop": [{"hooks": [{"type": "command", "command": "bell"}]}],
    },
}


@dataclass
class Home:
    """A home folder, and the installer run in it."""

    path: Path

    def file(self, client: str) -> Path:
        return self.path / {"claude-code": ".claude", "codex": ".codex"}[client] / FILES[client]

    def put(self, client: str, content: str | bytes | dict[str, Any]) -> Path:
        file = self.file(client)
        file.parent.mkdir(exist_ok=True)
        text = json.dumps(content, ensure_ascii=False) if isinstance(content, dict) else content
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    def run(
        self, client: str, *options: str, cwd: Path | None = None, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        hidden = dict.fromkeys(("CLAUDE_CONFIG_DIR", "CODEX_HOME"), "")
        return subprocess.run(
            [sys.executable, "-m", "holdfast_worker.cli", "hook", "install", "--client", client, *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=cwd or self.path,
            env=os.environ | hidden | {"HOME": str(self.path)} | environment,
            check=False,
        )

    def write(self, client: str, *options: str, **environment: str) -> str:
        """Run with --write; what it said."""
        done = self.run(client, "--write", *options, **environment)
        assert (done.returncode, done.stdout) == (0, ""), done
        return done.stderr

    def backups(self, client: str) -> list[Path]:
        return sorted(self.file(client).parent.glob("*.bak"))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def handlers(document: Any) -> list[dict[str, Any]]:
    """All handlers before a tool call, in their order."""
    return [handler for group in document["hooks"]["PreToolUse"] for handler in group["hooks"]]


@pytest.mark.parametrize("client", CLIENTS)
def test_it_prints_what_belongs_into_the_settings_and_writes_nothing(home: Home, client: str) -> None:
    done = home.run(client)
    assert done.returncode == 0
    document = json.loads(done.stdout)
    [group] = document["hooks"]["PreToolUse"]
    assert group["matcher"] == "*"
    [handler] = group["hooks"]
    assert handler["type"] == "command"
    program, *words = shlex.split(handler["command"])
    assert (Path(program).name, words) == ("holdfast", ["hook", "--limit", "3300s"])
    assert handler["timeout"] > 3_300
    assert str(home.file(client)) in done.stderr
    assert "trust" in done.stderr
    assert list(home.path.iterdir()) == []


def test_its_options_go_to_the_hook_and_the_time_out_stays_above_the_limit(home: Home) -> None:
    options = ["--limit", "90s", "--url", "https://h.example", "--worker-id", "a b", "--lease-seconds", "60"]
    [handler] = handlers(json.loads(home.run("codex", *options).stdout))
    assert shlex.split(handler["command"])[1:] == ["hook", *options]
    assert handler["timeout"] == 150


@pytest.mark.parametrize("client", CLIENTS)
def test_what_else_is_in_the_file_stays_and_a_copy_of_it_is_kept(home: Home, client: str) -> None:
    file = home.put(client, THEIRS)
    file.chmod(0o640)
    before = file.read_bytes()
    said = home.write(client)
    after = json.loads(file.read_bytes())
    assert after["hooks"]["PreToolUse"][:-1] == THEIRS["hooks"]["PreToolUse"]  # type: ignore[index]
    assert ours(handlers(after)[-1]["command"])
    del after["hooks"]["PreToolUse"][-1]
    assert after == THEIRS
    assert list(after) == list(THEIRS)
    assert "ü" in file.read_text(encoding="utf-8")
    assert file.stat().st_mode & 0o777 == 0o640
    [backup] = home.backups(client)
    assert backup.read_bytes() == before
    assert backup.stat().st_mode & 0o777 == 0o640
    assert str(backup) in said


@pytest.mark.parametrize("client", CLIENTS)
def test_a_second_run_changes_nothing_and_another_limit_only_that(home: Home, client: str) -> None:
    home.write(client)
    file = home.file(client)
    first = file.read_bytes()
    assert file.stat().st_mode & 0o077 == 0
    assert "already" in home.write(client)
    assert file.read_bytes() == first
    assert home.backups(client) == []

    document = json.loads(first)
    document["hooks"]["PreToolUse"].append(
        {"matcher": "Edit", "hooks": [{"type": "command", "command": "later"}]}
    )
    document["hooks"]["PreToolUse"][0]["matcher"] = "Bash"
    home.put(client, document)
    home.write(client, "--limit", "2m")
    ours_now, later = handlers(json.loads(file.read_bytes()))
    assert "--limit 120s" in ours_now["command"]
    assert ours_now["timeout"] == 180
    assert later == {"type": "command", "command": "later"}
    # Whom it is asked about is the person's to say.
    assert json.loads(file.read_bytes())["hooks"]["PreToolUse"][0]["matcher"] == "Bash"


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff{}",
        b"[]",
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b'{"hooks": []}',
        b'{"hooks": {"PreToolUse": {}}}',
        b'{"hooks": {"PreToolUse": [{"matcher": "Bash"}]}}',
        b'{"hooks": {"PreToolUse": [{"hooks": ["x"]}]}}',
        b'// mine\n{"hooks": {}}',
    ],
    ids=["cut", "binary", "list", "twice", "nan", "hooks", "groups", "group", "handler", "comment"],
)
def test_a_file_that_cannot_be_read_is_named_and_not_touched(home: Home, client: str, content: bytes) -> None:
    file = home.put(client, content)
    done = home.run(client, "--write")
    assert done.returncode == 1
    assert f"Error: {file} is not touched" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert file.read_bytes() == content
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"{}", b"\xef\xbb\xbf{}"], ids=["empty", "line", "object", "bom"]
)
def test_an_empty_file_is_filled(home: Home, content: bytes) -> None:
    file = home.put("codex", content)
    home.write("codex")
    assert len(handlers(json.loads(file.read_bytes()))) == 1


def test_a_link_to_settings_that_are_kept_elsewhere_stays_one(home: Home) -> None:
    elsewhere = home.path / "dotfiles.json"
    elsewhere.write_text(json.dumps(THEIRS))
    link = home.file("claude-code")
    link.parent.mkdir()
    link.symlink_to(elsewhere)
    home.write("claude-code")
    assert link.is_symlink()
    assert len(handlers(json.loads(elsewhere.read_bytes()))) == 2


def test_a_folder_that_cannot_be_written_is_told_in_a_line(home: Home) -> None:
    (home.path / ".claude").write_text("a file")
    done = home.run("claude-code", "--write")
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("client", "variable"), [("claude-code", "CLAUDE_CONFIG_DIR"), ("codex", "CODEX_HOME")], ids=CLIENTS
)
def test_settings_that_the_client_was_told_to_keep_elsewhere_are_found(
    home: Home, client: str, variable: str
) -> None:
    elsewhere = home.path / "moved"
    home.write(client, **{variable: str(elsewhere)})
    assert len(handlers(json.loads((elsewhere / FILES[client]).read_bytes()))) == 1


@pytest.mark.parametrize("client", CLIENTS)
def test_for_a_project_the_program_goes_by_its_name(home: Home, client: str) -> None:
    project = home.path / "project"
    project.mkdir()
    done = home.run(client, "--project", "--write", cwd=project)
    assert done.returncode == 0, done
    [handler] = handlers(json.loads((project / home.file(client).relative_to(home.path)).read_bytes()))
    assert shlex.split(handler["command"])[:2] == ["holdfast", "hook"]
    assert not home.file(client).exists()


@pytest.mark.parametrize(
    "options",
    [["--trust"], ["--write", "--lease-seconds", "5"], ["--limit", "no"]],
    ids=["trust", "lease", "limit"],
)
def test_options_that_do_not_go_together_are_a_usage_error(home: Home, options: list[str]) -> None:
    done = home.run("codex", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert not home.file("codex").exists()


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("#!/bin/sh\nexit 3\n", "Codex has ended"),
        ('#!/bin/sh\nread -r line\necho \'{"id": 1, "error": "no"}\'\n', "Codex refuses initialize"),
        (None, "cannot be started"),
    ],
    ids=["ends", "refuses", "missing"],
)
def test_a_codex_that_cannot_be_asked_leaves_the_hook_and_says_how_to_trust_it(
    home: Home, program: str | None, told: str
) -> None:
    codex = home.path / "codex"
    if program is not None:
        codex.write_text(program)
        codex.chmod(0o755)
    done = home.run("codex", "--write", "--trust", "--codex", str(codex))
    assert done.returncode == 1
    assert told in done.stderr
    assert "/hooks" in done.stderr
    assert len(handlers(json.loads(home.file("codex").read_bytes()))) == 1


@pytest.mark.parametrize(
    ("command", "is_ours"),
    [
        ("holdfast hook", True),
        ("/opt/venv/bin/holdfast hook --limit 5m", True),
        ("env A=1 holdfast hook", True),
        ("python -m holdfast_worker.cli hook", True),
        (r'"C:\Program Files\holdfast.exe" hook', True),
        ("my-holdfast hook", False),
        ("echo hook", False),
        ("holdfast status", False),
        ("holdfast", False),
        ("holdfast 'hook", False),
        (None, False),
    ],
)
def test_our_own_hook_is_known_by_its_command(command: str | None, is_ours: bool) -> None:
    assert ours(command) is is_ours
