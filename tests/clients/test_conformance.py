"""The protocol's own conformance suite, run as a whole, once by each revision that the server and it know.

Many scenarios call tools, resources and prompts that the suite wants a server to have for its sake alone. They
are named here too, so that whatever a new release of the suite brings is looked at.
"""

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from clients.harness import run_node
from support.servers import Server

SCRIPT = "@modelcontextprotocol/conformance/dist/index.js"

#: What a server can be asked as it is.
APPLICABLE = {
    "2025-11-25": [
        "dns-rebinding-protection",
        "ping",
        "prompts-list",
        "resources-list",
        "server-initialize",
        "server-session-lifecycle",
        "server-sse-multiple-streams",
        "tools-list",
    ],
    "2026-07-28": [
        "caching",
        "dns-rebinding-protection",
        "http-header-validation",
        "input-required-result-unsupported-methods",
        "prompts-list",
        "resources-list",
        "sep-2164-resource-not-found",
        "server-sse-multiple-streams",
        "server-stateless",
        "tools-list",
    ],
}
#: Scenarios with tools, resources and prompts of the suite's own.
WITH_FIXTURES = [
    "elicitation-*",
    "http-custom-header-server-validation",
    "input-required-result-*",
    "json-schema-2020-12",
    "prompts-get-*",
    "resources-read-*",
    "resources-subscribe",
    "resources-templates-read",
    "resources-unsubscribe",
    "server-sse-polling",
    "tools-call-*",
]
#: What a server may offer and this one does not.
NOT_OFFERED = ["completion-complete", "logging-set-level"]

Checks = dict[str, list[dict[str, Any]]]


class Suite:
    """The results of a revision's scenarios, which are run when first asked for."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self.of = cache(self._run)

    def _run(self, revision: str) -> Checks:
        results = self._folder / revision
        options = ["--suite", "all", "--spec-version", revision, "--output-dir", str(results)]
        done = run_node(SCRIPT, "server", "--url", self._url, *options, home=self._folder)
        assert "=== SUMMARY ===" in done.stdout, done.stdout + done.stderr
        return dict(_read(results))


def _read(results: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for folder in results.iterdir():
        named = re.fullmatch(r"server-(.+)-\d{4}-\d\d-\d\dT[0-9-]+Z", folder.name)
        assert named is not None, folder.name
        yield named[1], json.loads((folder / "checks.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def suite(shared_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return Suite(f"{shared_server.url}/mcp", tmp_path_factory.mktemp("conformance"))


@pytest.mark.parametrize(
    ("revision", "scenario"), [(revision, name) for revision, names in APPLICABLE.items() for name in names]
)
def test_a_scenario_is_passed(suite: Suite, revision: str, scenario: str) -> None:
    checks = suite.of(revision)[scenario]
    complaints = [
        f"{check['status']} {check['id']}: {check.get('errorMessage')}"
        for check in checks
        if check["status"] in {"FAILURE", "WARNING"}
    ]
    # Within a scenario, too, the suite misses tools that it wants a server to have for its sake.
    assert not [text for text in complaints if "does not list the diagnostic tool" not in text]
    passed = {check["id"] for check in checks if check["status"] == "SUCCESS"}
    assert passed - {"wire-schema-valid"}, "nothing was tested"


@pytest.mark.parametrize("revision", APPLICABLE)
def test_every_message_is_valid_by_the_schema_of_the_protocol(suite: Suite, revision: str) -> None:
    validated = [
        check
        for checks in suite.of(revision).values()
        for check in checks
        if check["id"] == "wire-schema-valid"
    ]
    assert len(validated) > len(APPLICABLE[revision])
    assert not [check["errorMessage"] for check in validated if check["status"] != "SUCCESS"]


@pytest.mark.parametrize("revision", APPLICABLE)
def test_no_scenario_is_left_out_without_a_reason(suite: Suite, revision: str) -> None:
    others = suite.of(revision).keys() - set(APPLICABLE[revision])
    reasons = [*WITH_FIXTURES, *NOT_OFFERED]
    assert not {name for name in others if not any(fnmatch(name, reason) for reason in reasons)}
