"""The work: one job for each Python file of a source tree."""

import sysconfig
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["Selection", "choose_files", "payload_for"]

#: Larger files would hold a worker (and the interpreter's lock) for longer than a demo should.
MAX_FILE_BYTES: Final = 1_048_576
_NEVER: Final = frozenset({"__pycache__", "site-packages", "node_modules"})
#: The standard library keeps files that are wrong on purpose among its tests.
_TESTS: Final = frozenset({"test", "tests", "idle_test"})


@dataclass(frozen=True)
class Selection:
    """Which files became jobs, of how many."""

    root: Path
    files: tuple[str, ...]
    found: int
    too_large: int


def choose_files(source: Path | None, limit: int) -> Selection:
    """At most `limit` Python files, spread evenly over the tree; by default the standard library without its tests."""
    root = (source or Path(sysconfig.get_path("stdlib"))).resolve()
    skipped = _NEVER if source else _NEVER | _TESTS
    found: list[str] = []
    too_large = 0
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if any(part in skipped or part.startswith(".") for part in inside.parts) or not path.is_file():
            continue
        if path.stat().st_size > MAX_FILE_BYTES:
            too_large += 1
        else:
            found.append(inside.as_posix())
    count = min(limit, len(found))
    spread = tuple(found[i * len(found) // count] for i in range(count))
    return Selection(root, spread, len(found), too_large)


def payload_for(selection: Selection, name: str, pace_seconds: float) -> dict[str, Any]:
    """A job's payload. Its least time differs from file to file, so that jobs do not end in step."""
    share = 0.5 + zlib.crc32(name.encode("utf-8", "replace")) / 2**32
    return {"root": str(selection.root), "path": name, "paceSeconds": round(pace_seconds * share, 3)}
