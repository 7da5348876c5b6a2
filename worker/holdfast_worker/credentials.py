"""The tokens that `holdfast login` keeps: one for each server, in a file of its owner's alone.

`credentials.json` in the user's folder for configuration: `{"servers": {"https://holdfast.example.com:443": {"token":
"…"}}}`. The key is the server's origin (scheme, host and port), and a token goes to no other.
"""

import json
import os
import stat
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

from holdfast_core.errors import ConfigurationError

__all__ = ["credentials_path", "forget_token", "origin_of", "store_token", "stored_token"]

#: A file of ours is a few hundred bytes a server; what is larger is none.
MAX_FILE_BYTES: Final = 1_048_576
_PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def credentials_path() -> Path:
    """Where they are kept."""
    from platformdirs import user_config_path  # only where it is wanted: start-up time

    return user_config_path("holdfast", appauthor=False) / "credentials.json"


def origin_of(url: str) -> str:
    """The scheme, host and port of a server's address, always with the port."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}:{parts.port or _PORTS.get(parts.scheme, 0)}"


def stored_token(origin: str) -> str | None:
    """The token that was kept for this very server. Raises ConfigurationError where the file cannot be trusted."""
    entry = _servers(_read(credentials_path())).get(origin)
    token = cast("dict[str, Any]", entry).get("token") if isinstance(entry, dict) else None
    return token if isinstance(token, str) and token else None


def store_token(origin: str, token: str) -> Path:
    """Keep it, in place of an earlier one. Returns where. Raises ConfigurationError where that cannot be."""
    path = credentials_path()
    kept = _read(path)
    kept["servers"] = {**_servers(kept), origin: {"token": token}}
    _write(path, kept)
    return path


def forget_token(origin: str) -> bool:
    """Forget the token of this server; returns whether there was one. Raises ConfigurationError."""
    path = credentials_path()
    kept = _read(path)
    servers = _servers(kept)
    if servers.pop(origin, None) is None:
        return False
    _write(path, {**kept, "servers": servers})
    return True


def _read(path: Path) -> dict[str, Any]:
    """What is kept; empty where nothing is. What a newer version has added stays in it."""
    try:
        with path.open("rb") as file:
            _check(path, os.fstat(file.fileno()))
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}.") from None
    try:
        if len(content) > MAX_FILE_BYTES:
            raise ValueError("it is too large")
        read: Any = json.loads(content)
        kept = cast("dict[str, Any]", read if isinstance(read, dict) else {"servers": None})
        if not isinstance(kept.get("servers", {}), dict):
            raise ValueError("it holds something else")
    except (ValueError, RecursionError):
        raise ConfigurationError(
            f"{path} is not what `holdfast login` writes, so no token is taken from it. Mend it, or move it away and"
            " log in again."
        ) from None
    return kept


def _servers(kept: Mapping[str, Any]) -> dict[str, Any]:
    return dict(kept.get("servers", {}))


def _check(path: Path, status: os.stat_result) -> None:
    """Raises ConfigurationError where somebody else could have read or written it."""
    if sys.platform == "win32":
        # Best effort: below the user's profile other users have no access, unless somebody gave it to them.
        return
    if status.st_uid != os.geteuid():
        raise ConfigurationError(f"{path} belongs to somebody else, so no token is taken from it. Remove it.")
    if status.st_mode & _OTHERS:
        raise ConfigurationError(
            f"{path} is open to other users of this host, so no token is taken from it: `chmod 600 {path}` closes it."
            " Who may have read it has the tokens in it: have them revoked, and log in anew."
        )


def _write(path: Path, kept: Mapping[str, Any]) -> None:
    """All of it or nothing; for the owner's eyes from the start."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".new")  # 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(kept, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror or error}.") from None
