"""A host without the server's libraries: the client's verbs work, the server's name the install line.

Their absence is played by a `sitecustomize` that refuses to import them, in the process and in its children.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

INSTALL_LINE = "pip install 'holdfast[server]'"
ABSENT = ["alembic", "asyncpg", "fastapi", "mcp", "sqlalchemy", "starlette", "uvicorn"]


@pytest.fixture
def light(tmp_path: Path) -> dict[str, str]:
    """An environment in which the server's libraries are not installed."""
    code = f"import sys\nfor name in {ABSENT!r}: sys.modules[name] = None\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    before = os.environ.get("PYTHONPATH")
    path = str(tmp_path) + (os.pathsep + before if before else "")
    # One database of its own, should a server start after all.
    return os.environ | {"PYTHONPATH": path, "HOLDFAST_DATABASE_URL": f"sqlite:///{tmp_path}/holdfast.db"}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "holdfast_worker.cli", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=environment)


@pytest.mark.parametrize("verb", [["serve", "--port", "0"], ["mcp"], ["migrate"]], ids=lambda verb: verb[0])
def test_a_server_verb_answers_with_the_install_line(light: dict[str, str], verb: list[str]) -> None:
    done = run(light, *verb)
    assert done.returncode == 1
    assert INSTALL_LINE in done.stderr
    assert "is missing" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_the_demo_answers_with_the_install_line_and_leaves_nothing(
    light: dict[str, str], tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    done = run(light | {"TMPDIR": str(temporary)}, "demo")
    assert done.returncode == 1
    assert INSTALL_LINE in done.stderr
    assert list(temporary.iterdir()) == []


def test_the_clients_verbs_need_none_of_it(light: dict[str, str]) -> None:
    done = run(light, "status", "--url", "http://127.0.0.1:1")
    assert done.returncode == 6, done.stderr


def test_tokens_are_made_at_a_server_without_it_and_else_answer_with_the_install_line(
    light: dict[str, str],
) -> None:
    there = run(light, "token", "list", "--url", "http://127.0.0.1:1")
    assert there.returncode == 6, there.stderr
    here = run(light, "token", "create", "--worker-id", "w")
    assert (here.returncode, here.stdout) == (1, "")
    assert INSTALL_LINE in here.stderr
    assert "--url" in here.stderr
    assert len(here.stderr.splitlines()) == 1


def test_who_logs_in_needs_none_of_it(light: dict[str, str]) -> None:
    done = run(light, "login", "--status", "--url", "http://127.0.0.1:1")
    assert done.returncode == 6, done.stderr


def test_the_face_needs_none_of_it(light: dict[str, str]) -> None:
    program = "import holdfast; holdfast.Client('http://127.0.0.1:1').close()"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env=light)


def test_a_missing_part_of_our_own_is_a_bug_and_not_an_extra(tmp_path: Path) -> None:
    code = "import sys\nsys.modules['holdfast_core.settings'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    done = run(os.environ | {"PYTHONPATH": str(tmp_path)}, "serve", "--port", "0")
    assert done.returncode == 1
    assert INSTALL_LINE not in done.stderr
    assert "holdfast_core.settings" in done.stderr


def test_without_the_entry_point_the_install_line_comes_as_well() -> None:
    program = (
        "import importlib.metadata\n"
        "importlib.metadata.entry_points = lambda **_: ()\n"
        "from holdfast_worker.cli import main\n"
        "main(['serve'], prog_name='holdfast')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert INSTALL_LINE in done.stderr
