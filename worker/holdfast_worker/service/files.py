"""Writing a service's files: our own are replaced, other people's never."""

import os
from pathlib import Path

__all__ = ["Foreign", "is_ours", "put", "put_secret"]


class Foreign(Exception):
    """The file is there and is not ours."""


def put(path: Path, text: str, *, mark: str) -> bool:
    """Let the file hold `text`, which begins with `mark`, as does each of ours. Returns whether that is a change.

    Raises Foreign, OSError.
    """
    before = _read(path, mark)
    if before == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)
    return True


def put_secret(path: Path, text: str) -> bool:
    """Make a file that only its owner can read, unless there is one. Returns whether it was made. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(file, "w") as made:
        made.write(text)
    return True


def is_ours(path: Path, *, mark: str) -> bool:
    """Whether the file is there. Raises Foreign, OSError."""
    return _read(path, mark) is not None


def _read(path: Path, mark: str) -> str | None:
    if not path.exists() and not path.is_symlink():
        return None
    text = path.read_text(errors="replace") if path.exists() else ""
    if not text.startswith(mark):
        raise Foreign
    return text
