"""The hook in a CLI's settings: one JSON shape for Claude Code's settings.json and Codex's hooks.json."""

import copy
import json
import shlex
from itertools import pairwise
from pathlib import PurePath
from typing import Any, Final, cast

from holdfast_worker.hook.call import EVENT

__all__ = ["Unreadable", "merged", "ours", "parse", "rendered"]

#: All tools, the CLI's own and those of MCP servers.
_MATCHER: Final = "*"
#: What the program may be called in a command: on the path, by its path, or as a module.
_PROGRAMS: Final = frozenset({"holdfast", "holdfast.exe", "holdfast_worker.cli"})

Document = dict[str, Any]


class Unreadable(Exception):
    """The settings are not what the CLI itself would read; they stay as they are."""


def parse(text: str) -> Document:
    """The settings in a file. Raises Unreadable: what cannot be kept word for word is not touched."""
    if not text.strip():
        return {}
    try:
        document = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Unreadable(str(error)) from None
    if not isinstance(document, dict):
        raise Unreadable("it is not a JSON object")
    return cast("Document", document)


def rendered(document: Document) -> str:
    """As text, indented as both CLIs write it."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def merged(document: Document, command: str, timeout_seconds: int) -> Document:
    """The settings with the hook in them: ours, where there is one, brought up to date at its place, else a new one
    after all others (Codex knows a hook by its place). The rest is as it was. Raises Unreadable.
    """
    document = copy.deepcopy(document)
    handler = {"type": "command", "command": command, "timeout": timeout_seconds}
    groups = _groups(document)
    for found in (found for group in groups for found in _handlers(group)):
        if ours(found.get("command")):
            found.update(handler)
            return document
    groups.append({"matcher": _MATCHER, "hooks": [handler]})
    return document


def ours(command: object) -> bool:
    """Whether a hook's command is `holdfast hook`, however the program is named in it."""
    if not isinstance(command, str):
        return False
    try:
        # Both ways of splitting: a path of Windows loses its backslashes by the rules of a POSIX shell.
        ways = [shlex.split(command), [word.strip('"') for word in shlex.split(command, posix=False)]]
    except ValueError:
        return False
    return any(
        PurePath(program.replace("\\", "/")).name in _PROGRAMS and verb == "hook"
        for words in ways
        for program, verb in pairwise(words)
    )


def _groups(document: Document) -> list[object]:
    hooks: object = document.setdefault("hooks", {})
    if not isinstance(hooks, dict):
        raise Unreadable("its `hooks` is not an object")
    groups: object = cast("Document", hooks).setdefault(EVENT, [])
    if not isinstance(groups, list):
        raise Unreadable(f"its `hooks.{EVENT}` is not a list")
    return cast("list[object]", groups)


def _handlers(group: object) -> list[Document]:
    handlers: object = cast("Document", group).get("hooks") if isinstance(group, dict) else None
    if isinstance(handlers, list):
        found = cast("list[object]", handlers)
        if all(isinstance(handler, dict) for handler in found):
            return cast("list[Document]", found)
    raise Unreadable(f"an entry of its `hooks.{EVENT}` has no list of `hooks`")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
