"""In CI a skip fails the run, wherever it comes from; a developer may skip."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

SKIPPED_TEST = """
import pytest
def test_passes(): pass
@pytest.mark.skip(reason="no database")
def test_is_skipped(): pass
"""
SKIPPED_MODULE = """
import pytest
pytest.skip("no database", allow_module_level=True)
"""
EXPECTED_FAILURE = """
import pytest
@pytest.mark.xfail(reason="known")
def test_fails(): assert False
"""


@pytest.mark.parametrize(
    ("ci", "text", "code"),
    [
        ("true", SKIPPED_TEST, 1),
        ("true", SKIPPED_MODULE, 5),  # pytest itself fails where nothing ran at all
        ("true", EXPECTED_FAILURE, 0),
        ("", SKIPPED_TEST, 0),
    ],
    ids=["test", "module", "xfail", "developer"],
)
def test_a_skip_fails_the_run_in_ci(tmp_path: Path, ci: str, text: str, code: int) -> None:
    (tmp_path / "test_it.py").write_text(text)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", "--rootdir=.", "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(TESTS), "PYTEST_ADDOPTS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == code, run.stdout
    assert ("skipped, which fails the run" in run.stdout) == (code != 0)
