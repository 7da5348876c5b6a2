"""How other programs call this one."""

import shutil
import sys
from pathlib import Path

__all__ = ["own_program"]


def own_program() -> str | None:
    """The path of the `holdfast` that runs now, or else of the one on the path; None where there is none."""
    for place in (Path(sys.argv[0]), Path(sys.executable).with_name("holdfast")):
        if place.name in {"holdfast", "holdfast.exe"} and (found := shutil.which(str(place.absolute()))):
            return found
    return shutil.which("holdfast")
