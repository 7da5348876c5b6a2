"""The README's quickstart, pasted into a shell as it stands."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import trustme

from support.servers import start_server
from support.tokens import create_token_now

README = Path(__file__).parents[1] / "README.md"


def test_every_step_of_the_quickstart_works_as_pasted(database_url: str) -> None:
    assert shutil.which("curl"), "the quickstart needs curl"
    script = re.search(r"<!-- quickstart -->\n```sh\n(.*?)```", README.read_text(), re.DOTALL)
    assert script is not None
    with start_server(database_url) as server:
        # Only the address differs: the test has a port of its own.
        pasted = script[1].replace("http://127.0.0.1:8790", server.url)
        pasted = re.sub(r"^(curl .*?[^\\])$", r"\1; echo", pasted, flags=re.MULTILINE | re.DOTALL)
        done = subprocess.run(
            ["bash", "-eu", "-c", pasted], capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
    (look, first, second, paused, refused, done_job, drained, quiesced, resumed, claimed, log) = answers
    assert look["system"]["workersPaused"] is False
    assert look["system"]["version"] >= 1
    assert {"queued", "running", "staleRunning", "isDrained"} <= set(look["metrics"])
    assert (first["status"], second["status"]) == ("queued", "queued")
    assert (paused["system"]["mode"], paused["system"]["version"]) == ("drain", 2)
    assert paused["system"]["requestedBy"] == "local operator"
    assert refused["job"] is None
    assert refused["system"] == paused["system"]
    assert (done_job["id"], done_job["status"]) == (first["id"], "succeeded")
    assert drained["reached"] is True
    assert drained["metrics"]["safeToUpgrade"] is True
    assert quiesced["system"]["mode"] == "quiesce"
    assert resumed["system"]["workersPaused"] is False
    assert resumed["system"]["mode"] is None
    assert claimed["job"]["id"] == second["id"]
    assert [event["action"] for event in log["items"]] == ["resume", "pause", "pause"]


#: The steps of somebody who has a token, or none: then the headers are left out, and all of it works the same.
STEPS = """
AUTH=()
if [ -n "${TOKEN:-}" ]; then AUTH=(-H "Authorization: Bearer $TOKEN"); fi
WORKER=()
if [ -n "${WORKER_TOKEN:-}" ]; then WORKER=(-H "X-MoonMind-Worker-Token: $WORKER_TOKEN"); fi
toggle() { curl -sS --cacert "$CA" -X POST "${AUTH[@]}" -H "Content-Type: application/json" -d "$1" \
  "$API/api/system/worker-pause"; echo; }
look() { curl -sS --cacert "$CA" "${AUTH[@]}" "$API/api/system/worker-pause"; echo; }
claim() { curl -sS --cacert "$CA" "${WORKER[@]}" -H "Content-Type: application/json" \
  -d '{"workerId": "agent-1", "leaseSeconds": 60}' "$API/api/queue/jobs/claim"; echo; }
look
toggle '{"action": "pause", "mode": "drain", "reason": "Rolling API migration"}'
claim
look
toggle '{"action": "pause", "mode": "quiesce", "reason": "Short-lived infra tweak"}'
toggle '{"action": "resume", "reason": "Maintenance complete"}'
claim
look
"""


@pytest.mark.requirement("QS-01")
@pytest.mark.parametrize("with_token", [True, False], ids=["token", "no token"])
def test_the_steps_work_by_https_with_a_token_and_without_one(
    sqlite_url: str, tmp_path: Path, with_token: bool
) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = ca.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "cert.pem").write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    papers = ("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"))
    provider = {"HOLDFAST_AUTH_PROVIDER": "token"} if with_token else {}
    tokens: dict[str, str] = {}
    if with_token:
        tokens["TOKEN"] = create_token_now(sqlite_url, role="operator", user="ana").token
        tokens["WORKER_TOKEN"] = create_token_now(sqlite_url, workerId="agent-1").token
    with start_server(sqlite_url, *papers, **provider) as server:
        environment = {**os.environ, **tokens, "API": server.url, "CA": str(tmp_path / "ca.pem")}
        done = subprocess.run(
            ["bash", "-eu", "-c", STEPS],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=environment,
        )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    (look, paused, refused, watched, quiesced, resumed, claimed, last) = answers
    assert look["system"]["workersPaused"] is False
    assert (paused["system"]["mode"], paused["system"]["version"]) == ("drain", look["system"]["version"] + 1)
    assert paused["system"]["requestedBy"] == ("ana" if with_token else "local operator")
    assert refused == {"job": None, "system": paused["system"]}
    assert watched["metrics"]["isDrained"] is True
    assert quiesced["system"]["mode"] == "quiesce"
    assert (resumed["system"]["workersPaused"], resumed["system"]["mode"]) == (False, None)
    assert claimed["system"]["workersPaused"] is False
    log = last["audit"]["latest"]
    assert [(event["action"], event["reason"]) for event in log] == [
        ("resume", "Maintenance complete"),
        ("pause", "Short-lived infra tweak"),
        ("pause", "Rolling API migration"),
    ]
    assert {event["actor"] for event in log} == {"ana" if with_token else "local operator"}
