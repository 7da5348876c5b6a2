"""A stand-in for the model behind an agent's CLI: it speaks as much of the two APIs as the CLIs need for one task.

    with ModelStub() as model:
        # ANTHROPIC_BASE_URL=model.url for Claude Code, base_url = model.url + "/v1" for Codex
        ...
        assert model.results == [...]

The model is obedient: each line of the prompt that begins with `$ ` is a shell command, which it has the CLI run, one
after the other. Then it says `Done.` and is content with whatever came of it. It keeps nothing between two requests, so
many agents may talk to it at once.
"""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self

__all__ = ["SAYS", "ModelStub"]

#: What the model says once it has run all commands.
SAYS: Final = "Done. All of it has been run."
#: How a command is given in a prompt.
PROMPT: Final = "$ "

Events = Iterator[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Turn:
    """What a request of a CLI shows of the conversation."""

    prompt: str
    #: What the tools answered so far, as the model sees it.
    results: list[str]
    #: Whether the model may call the shell at all: CLIs ask for titles and the like, too.
    has_shell: bool

    @property
    def next_command(self) -> str | None:
        """The command that the model runs now; None once it is done."""
        commands = [line[len(PROMPT) :] for line in self.prompt.splitlines() if line.startswith(PROMPT)]
        return commands[len(self.results)] if self.has_shell and len(self.results) < len(commands) else None


@dataclass
class ModelStub:
    """The server, on loopback. `results`: every answer of a tool that the model was shown, in their order."""

    results: list[str] = field(default_factory=list)
    #: What was asked at a path that this model does not know.
    unknown: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers.get("content-length") or 0))
                path = self.path.partition("?")[0]
                if path == "/v1/messages":
                    events = messages_events(stub._noted(turn_of_messages(json.loads(content))))
                elif path == "/v1/responses":
                    events = responses_events(stub._noted(turn_of_responses(json.loads(content))))
                else:
                    stub.unknown.append(self.path)
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                for name, data in events:
                    self.wfile.write(f"event: {name}\ndata: {json.dumps({'type': name} | data)}\n\n".encode())

            def do_GET(self) -> None:
                stub.unknown.append(self.path)
                self.send_error(404)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None: ...

        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _noted(self, turn: Turn) -> Turn:
        """The same turn. Its latest result is new; the CLI sends the earlier ones again with each request."""
        with self._lock:
            if turn.has_shell and turn.results:
                self.results.append(turn.results[-1])
        return turn


# Claude Code: the Messages API


def turn_of_messages(request: dict[str, Any]) -> Turn:
    """What a request to the Messages API shows."""
    prompt: list[str] = []
    results: list[str] = []
    for message in request["messages"]:
        if message["role"] != "user":
            continue
        for block in _blocks(message["content"]):
            if block["type"] == "text":
                prompt.append(block["text"])
            elif block["type"] == "tool_result":
                results.append("\n".join(part.get("text", "") for part in _blocks(block.get("content", ""))))
    shell = any(tool["name"] == "Bash" for tool in request.get("tools", ()))
    return Turn("\n".join(prompt), results, shell)


def messages_events(turn: Turn) -> Events:
    """The model's answer as the Messages API streams it."""
    command = turn.next_command
    block: dict[str, Any]
    if command is None:
        block, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": SAYS}
    else:
        wanted = {"command": command, "description": "Run what was asked for"}
        block = {"type": "tool_use", "id": f"toolu_{len(turn.results)}", "name": "Bash", "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(wanted)}
    message = {
        "id": f"msg_{len(turn.results)}",
        "type": "message",
        "role": "assistant",
        "model": "stub",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
    yield "message_start", {"message": message}
    yield "content_block_start", {"index": 0, "content_block": block}
    yield "content_block_delta", {"index": 0, "delta": delta}
    yield "content_block_stop", {"index": 0}
    reason = "end_turn" if command is None else "tool_use"
    stop = {"stop_reason": reason, "stop_sequence": None}
    yield "message_delta", {"delta": stop, "usage": {"output_tokens": 1}}
    yield "message_stop", {}


def _blocks(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


# Codex: the Responses API


def turn_of_responses(request: dict[str, Any]) -> Turn:
    """What a request to the Responses API shows."""
    prompt: list[str] = []
    results: list[str] = []
    for item in request["input"]:
        if item["type"] == "message" and item["role"] == "user":
            prompt.extend(part["text"] for part in item["content"] if part["type"] == "input_text")
        elif item["type"] == "function_call_output":
            output = item["output"]
            results.append(output if isinstance(output, str) else json.dumps(output))
    shell = any(tool.get("name") == "exec_command" for tool in request.get("tools", ()))
    return Turn("\n".join(prompt), results, shell)


def responses_events(turn: Turn) -> Events:
    """The model's answer as the Responses API streams it."""
    command = turn.next_command
    number = len(turn.results)
    item: dict[str, Any]
    if command is None:
        item = {
            "type": "message",
            "id": f"msg_{number}",
            "role": "assistant",
            "content": [{"type": "output_text", "text": SAYS}],
        }
    else:
        item = {
            "type": "function_call",
            "id": f"fc_{number}",
            "call_id": f"call_{number}",
            "name": "exec_command",
            "arguments": json.dumps({"cmd": command}),
        }
    yield "response.created", {"response": {"id": f"resp_{number}"}}
    yield "response.output_item.done", {"output_index": 0, "item": item}
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    yield "response.completed", {"response": {"id": f"resp_{number}", "usage": usage}}
