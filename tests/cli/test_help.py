"""What the command line says of itself, and what that costs."""

import json
import re
import subprocess
import sys

import pytest

from holdfast_core import __version__

VERBS = [
    "status",
    "pause",
    "resume",
    "wait",
    "maintain",
    "history",
    "enqueue",
    "jobs",
    "job",
    "cancel",
    "requeue",
    "retry",
    "blockers",
    "workers",
    "watch",
    "login",
    "token",
    "demo",
    "completion",
]
SERVER_VERBS = ["serve", "mcp", "mcp-config", "doctor", "migrate"]
#: What takes long to import, or is not there on a worker host.
HEAVY = [
    "alembic",
    "anyio",
    "asyncio",
    "asyncpg",
    "fastapi",
    "httpcore2",
    "httpx2",
    "importlib.metadata",
    "mcp",
    "pydantic",
    "pydantic_settings",
    "rich",
    "sqlalchemy",
    "starlette",
    "structlog",
    "uvicorn",
]


def loaded_by(*arguments: str) -> list[str]:
    """Which of the heavy modules a verb has loaded at its end."""
    program = (
        "import sys, json\n"
        "from holdfast_worker.cli import main\n"
        "main(sys.argv[1:], prog_name='holdfast', standalone_mode=False)\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    loaded: list[str] = json.loads(done.stdout.splitlines()[-1])
    return loaded


def holdfast(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "holdfast_worker.cli", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_help_imports_nothing_heavy() -> None:
    assert loaded_by("--help") == []


@pytest.mark.parametrize("verb", VERBS)
def test_a_verbs_help_imports_nothing_heavy(verb: str) -> None:
    assert loaded_by(verb, "--help") == []


def test_help_names_every_verb_in_one_line_and_the_exit_codes() -> None:
    done = holdfast("--help")
    assert done.returncode == 0
    for verb in VERBS + SERVER_VERBS:
        assert re.search(rf"^  {verb} +[A-Z].*\.$", done.stdout, re.MULTILINE), f"{verb} has no line, or more"
    assert "Exit codes: 0 done" in done.stdout


@pytest.mark.parametrize("verb", SERVER_VERBS)
def test_the_servers_verbs_are_found_through_the_entry_points(verb: str) -> None:
    done = holdfast(verb, "--help")
    assert done.returncode == 0
    assert f"Usage: holdfast {verb}" in done.stdout


def test_the_version_is_that_of_the_core() -> None:
    assert holdfast("--version").stdout == f"holdfast, version {__version__}\n"


def test_an_unknown_verb_is_a_usage_error_that_names_the_nearest() -> None:
    done = holdfast("stauts")
    assert done.returncode == 2
    assert "Did you mean 'status'?" in done.stderr
    assert done.stdout == ""


def test_an_unknown_option_is_a_usage_error() -> None:
    assert holdfast("status", "--nope").returncode == 2
    assert holdfast("--nope").returncode == 2
