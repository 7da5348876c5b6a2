"""Docs cannot rot: what can be compared with the code is."""

import re
from pathlib import Path

import pytest
from click import Context
from pydantic import ValidationError

from holdfast_core.policy import INCLUDED, PERMISSIONS, Permission, may_call
from holdfast_core.policy import TOOLS as TOOL_TABLE
from holdfast_core.schemas.sessions import SERVER_FRAMES, WORKER_FRAMES
from holdfast_core.settings import Settings
from holdfast_core.states import JOB_TRANSITIONS, PAUSE_TRANSITIONS, TERMINAL, Role, WorkerState
from holdfast_server.mcp.catalog import TOOLS
from holdfast_server.mcp.prompts import list_prompts
from holdfast_server.mcp.resources import list_resources, list_templates
from holdfast_worker.cli import main

DOCS = Path(__file__).parents[1] / "docs"


def arrows(heading: str) -> set[tuple[str, str, str]]:
    """The arrows of the diagram under a heading of docs/states.md, without the ones from nowhere."""
    section = (DOCS / "states.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    return {
        (start, end, verb.strip())
        for start, end, verb in re.findall(r"^ +(\w+) --> (\w+): (.+)$", section, re.MULTILINE)
    }


def test_the_diagram_of_jobs_is_what_the_code_goes_by() -> None:
    assert arrows("Jobs") == {
        (str(start), str(end), verb)
        for start, verbs in JOB_TRANSITIONS.items()
        for verb, ends in verbs.items()
        for end in ends
    }
    assert {state for state, verbs in JOB_TRANSITIONS.items() if set(verbs) <= {"retry"}} == TERMINAL


def test_the_diagram_of_the_pause_is_what_the_code_goes_by() -> None:
    assert arrows("The pause") == {
        (str(start), str(end), request)
        for start, requests in PAUSE_TRANSITIONS.items()
        for request, end in requests.items()
    }


def test_every_state_of_a_worker_is_explained() -> None:
    section = (DOCS / "states.md").read_text().split("## Workers\n")[1]
    assert re.findall(r"^\| (\w+) \|", section, re.MULTILINE)[1:] == [str(state) for state in WorkerState]


def test_the_table_of_settings_is_what_the_code_reads() -> None:
    rows = re.findall(
        r"^\| `HOLDFAST_(\w+)` \| (.*?) \| (.+) \|$", (DOCS / "settings.md").read_text(), re.MULTILINE
    )
    documented = {name.lower(): (default.strip().strip("`"), text) for name, default, text in rows}
    assert list(documented) == list(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        default, text = documented[name]
        assert text == field.description
        if name == "database_url":
            continue  # it depends on the user
        wanted = field.get_default()
        shown = str(wanted).lower() if isinstance(wanted, bool) else str(wanted)
        assert default == ("" if wanted in (None, (), {}) else shown)


def test_the_tools_of_the_contract_are_those_of_the_server() -> None:
    section = (DOCS / "contract.md").read_text().split("## 5. MCP")[1].split("\n\n")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row)} == {tool.name for tool in TOOLS}


def test_the_resources_prompts_and_roles_of_mcp_are_as_documented() -> None:
    text = (DOCS / "mcp.md").read_text()
    contract = (DOCS / "contract.md").read_text()
    everybody = frozenset(Role)
    uris = {str(one.uri) for one in list_resources("dot", everybody).resources}
    uris |= {str(one.uri_template) for one in list_templates("dot", everybody).resource_templates}
    assert set(re.findall(r"^\| `(holdfast://[^`]+)` \|", text, re.MULTILINE)) == uris
    assert set(re.findall(r"`(holdfast://[^`]+)`", contract)) == uris
    prompts = {prompt.name for prompt in list_prompts("dot", everybody).prompts}
    assert (
        set(re.findall(r"^\| `([a-z-]+)` \|", text.split("## Prompts")[1].split("##")[0], re.MULTILINE))
        == prompts
    )
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text.split("## Roles")[1], re.MULTILINE))
    tools: dict[str, set[str]] = {}
    for role, said in rows.items():
        before = re.match(r"the (\w+)'s", said)
        tools[role] = set(re.findall(r"`([^`]+)`", said)) | (tools[before[1]] if before else set())
    assert tools == {role: {name for name in TOOL_TABLE if may_call(INCLUDED[role], name)} for role in Role}


def test_the_table_of_permissions_is_the_policy() -> None:
    section = (DOCS / "security.md").read_text().split("## Roles")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", section, re.MULTILINE)
    documented = {permission: set(said.split(", ")) for permission, said in rows}
    assert documented.pop("open") == {"everybody", "known or not"}
    assert documented.pop("identity") == {"everybody who is known"}
    assert documented == {
        str(permission): {str(role) for role in roles}
        for permission, roles in PERMISSIONS.items()
        if permission not in {Permission.OPEN, Permission.IDENTITY}
    }


def test_the_frames_of_the_contract_are_those_of_the_code() -> None:
    section = (DOCS / "contract.md").read_text().split("## 6. Push sessions")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| .+? \|(?: `(\w+)[ `])?", section, re.MULTILINE)
    assert [frame for frame, _ in rows] == list(WORKER_FRAMES)
    unasked = section.split("Without being asked")[1].split("\n")[0]
    answers = {answer for _, answer in rows if answer}
    assert answers | set(re.findall(r"`(system|offer|cancel|error) \{", unasked)) == set(SERVER_FRAMES)


def test_the_verbs_of_the_contract_are_those_of_the_command_line() -> None:
    section = (DOCS / "contract.md").read_text().split("## 8. Command line")[1]
    listed = re.search(r"`holdfast ([^`]+)`", section)
    assert listed is not None
    assert set(listed[1].split(" | ")) == set(main.list_commands(Context(main)))


def test_settings_cannot_be_changed_once_read() -> None:
    settings = Settings(database_url="sqlite:////tmp/unused.db")
    with pytest.raises(ValidationError):
        settings.port = 1
