"""The clients of other SDKs, on each transport and in both eras of the protocol."""

import json
import sys
from collections.abc import Generator
from typing import Any
from uuid import uuid4

import pytest

from clients.harness import HERE, INSTALLED, Child, environment, node
from holdfast_core import __version__
from support.servers import Server

pytestmark = pytest.mark.usefixtures("url")  # which is running again after each test


class Sdk:
    """A connected client."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.connected = child.receive()

    def request(self, method: str, **params: Any) -> Any:
        """What the client was answered, as it hands it on."""
        answer = self._answer(method, params)
        assert "result" in answer, answer
        return answer["result"]

    def failed(self, method: str, **params: Any) -> Any:
        """The error of the protocol that a request met."""
        answer = self._answer(method, params)
        assert "error" in answer, answer
        return answer["error"]

    def ask(self, tool: str, **arguments: Any) -> Any:
        """The structured answer of a tool, which stands as text beside it."""
        result = self.request("tools/call", name=tool, arguments=arguments)
        (text,) = result["content"]
        assert not result.get("isError"), text
        assert json.loads(text["text"]) == result["structuredContent"]
        return result["structuredContent"]

    def refused(self, tool: str, **arguments: Any) -> str:
        """The text of a tool's error."""
        result = self.request("tools/call", name=tool, arguments=arguments)
        assert result["isError"] is True
        assert result.get("structuredContent") is None
        (content,) = result["content"]
        text: str = content["text"]
        return text

    def _answer(self, method: str, params: dict[str, Any]) -> Any:
        self._child.send({"method": method, "params": params})
        return self._child.receive()


#: How they connect: over what, and by which version of the protocol. Over stdio, by whichever each prefers.
WAYS: dict[str, dict[str, Any]] = {
    "http-2025-11-25": {"mode": "legacy"},
    "http-2026-07-28": {"mode": "auto"},
    "stdio": {"command": "holdfast", "args": ["mcp"]},
}


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """One of WAYS."""
    way: str = request.param
    return way


@pytest.fixture(scope="module", params=["typescript", "fastmcp"])
def sdk(
    request: pytest.FixtureRequest,
    way: str,
    shared_server: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator[Sdk]:
    """A connected client."""
    home = tmp_path_factory.mktemp("home")
    more: dict[str, Any] = {"url": f"{shared_server.url}/mcp"}
    if way == "stdio":
        more = {"env": environment(home, HOLDFAST_DATABASE_URL=f"sqlite:///{home}/holdfast.db")}
    argument = json.dumps(WAYS[way] | more)
    if request.param == "typescript":
        # Given as text, a module finds its packages from the working folder.
        script = (HERE / "call.mjs").read_text(encoding="utf-8")
        command = [node(), "--input-type=module", "--eval", script, argument]
    else:
        command = [sys.executable, str(HERE / "call.py"), argument]
    with Child(command, environment(home), cwd=INSTALLED) as child:
        yield Sdk(child)


@pytest.mark.requirement("FR-003", "FR-005", "FR-006", "US2-1")
def test_a_job_and_a_pause_go_their_way(sdk: Sdk, way: str) -> None:
    versions = {"2025-11-25", "2026-07-28"} if way == "stdio" else {way.removeprefix("http-")}
    assert sdk.connected["protocolVersion"] in versions
    assert sdk.connected["serverInfo"]["version"] == __version__
    names = {tool["name"] for tool in sdk.request("tools/list")["tools"]}
    assert {"queue.enqueue", "queue.claim", "system.pause", "system.resume"} <= names

    kind = f"review-{uuid4()}"  # the server is shared, and may hold jobs of other tests
    me = {"workerId": "w-1", "leaseSeconds": 60}
    first = sdk.ask("queue.enqueue", type=kind, payload={"pull": 7, "title": "Grüße, 世界"})
    second = sdk.ask("queue.enqueue", type=kind)
    claim = sdk.ask("queue.claim", **me, allowedTypes=[kind])
    assert (claim["job"]["id"], claim["job"]["payload"]) == (first["id"], first["payload"])
    assert claim["system"]["workersPaused"] is False
    held = {"jobId": first["id"], "workerId": "w-1", "leaseToken": claim["job"]["leaseToken"]}
    beat = sdk.ask("queue.heartbeat", **held, leaseSeconds=60, progress={"step": 1})
    assert (beat["progress"], beat["system"]) == ({"step": 1}, claim["system"])
    done = sdk.ask("queue.complete", **held, resultSummary="Looks good.")
    assert (done["status"], done["resultSummary"]) == ("succeeded", "Looks good.")

    paused = sdk.ask("system.pause", mode="drain", reason="Rolling API migration")["system"]
    assert (paused["workersPaused"], paused["version"]) == (True, claim["system"]["version"] + 1)
    refused = sdk.ask("queue.claim", **me, allowedTypes=[kind], waitSeconds=25)
    assert refused == {"job": None, "system": paused}
    drained = sdk.ask("system.wait", **{"for": "drained"})
    assert (drained["reached"], drained["metrics"]["safeToUpgrade"]) == (True, True)

    resumed = sdk.ask("system.resume", reason="Migration done")["system"]
    assert (resumed["workersPaused"], resumed["version"]) == (False, paused["version"] + 1)
    claim = sdk.ask("queue.claim", **me, allowedTypes=[kind], waitSeconds=25)
    assert claim["job"]["id"] == second["id"]
    held = {"jobId": second["id"], "workerId": "w-1", "leaseToken": claim["job"]["leaseToken"]}
    sdk.ask("queue.complete", **held)

    assert sdk.refused("system.resume", reason="again").startswith("[not_paused] ")
    assert sdk.refused("queue.enqueue", type=kind, kind=kind).startswith(
        "[invalid_request] kind: unknown field"
    )
    assert sdk.failed("tools/call", name="queue.claims", arguments={})["code"] == -32602


def test_what_is_there_to_read_can_be_read(sdk: Sdk) -> None:
    listed = {resource["uri"] for resource in sdk.request("resources/list")["resources"]}
    assert {"holdfast://system", "holdfast://playbook"} <= listed
    (system,) = sdk.request("resources/read", uri="holdfast://system")["contents"]
    assert json.loads(system["text"])["system"] == sdk.ask("system.status")["system"]
    (playbook,) = sdk.request("resources/read", uri="holdfast://playbook")["contents"]
    assert "system.pause" in playbook["text"]

    prompts = {prompt["name"] for prompt in sdk.request("prompts/list")["prompts"]}
    assert prompts == {"upgrade", "why-not-drained"}
    told = sdk.request("prompts/get", name="why-not-drained", arguments={})
    assert told["messages"][0]["content"]["text"].strip()


@pytest.mark.parametrize("sdk", ["typescript"], indirect=True)  # fastmcp's has no subscriptions
def test_a_subscriber_is_told_of_a_pause(sdk: Sdk) -> None:
    before = sdk.ask("system.status")["system"]["version"]
    sdk.request("subscribe", uri="holdfast://system")
    sdk.ask("system.pause", mode="quiesce", reason="Rolling API migration")
    assert sdk.request("next update") == {"uri": "holdfast://system"}
    (system,) = sdk.request("resources/read", uri="holdfast://system")["contents"]
    told = json.loads(system["text"])["system"]
    assert (told["mode"], told["version"]) == ("quiesce", before + 1)
    sdk.ask("system.resume", reason="Migration done")
