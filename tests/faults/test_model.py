"""The model of gate and lease, in every order of its steps: docs/model/gate.pml, by Spin."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).parents[2] / "docs" / "model" / "gate.pml"

pytestmark = pytest.mark.skipif(
    not (shutil.which("spin") and shutil.which("cc")), reason="needs spin and a C compiler"
)


def tried(folder: Path, *flags: str) -> str:
    """What Spin says of the model, with these halves of it left out."""
    for command in (
        ["spin", "-a", *flags, str(MODEL)],
        ["cc", "-O1", "-DSAFETY", "-o", "pan", "pan.c"],
        ["./pan", "-m100000"],
    ):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout


def test_no_order_of_steps_breaks_a_promise(tmp_path: Path) -> None:
    said = tried(tmp_path)
    assert "errors: 0" in said, said
    assert "max search depth too small" not in said
    # No step that is never taken: what cannot happen in the model proves nothing.
    assert not re.search(r"gate\.pml:\d+, state", said), said
    stored = re.search(r"([\d.e+]+) states, stored", said)
    assert stored is not None
    assert float(stored[1]) > 10_000


@pytest.mark.parametrize("half", ["NO_GATE", "LATE_LOCK", "NO_FENCE", "FREE_SWEEP"])
def test_without_one_half_a_promise_is_broken(tmp_path: Path, half: str) -> None:
    said = tried(tmp_path, f"-D{half}")
    assert "assertion violated" in said, said
    assert "errors: 1" in said
