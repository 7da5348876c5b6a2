"""Docs cannot rot: what can be compared with the code is."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from holdfast_core.settings import Settings
from holdfast_core.states import JOB_TRANSITIONS, PAUSE_TRANSITIONS, TERMINAL, WorkerState

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
        assert default == ("" if wanted in (None, ()) else shown)


def test_settings_cannot_be_changed_once_read() -> None:
    settings = Settings(database_url="sqlite:////tmp/unused.db")
    with pytest.raises(ValidationError):
        settings.port = 1
