"""The README's quickstart, pasted into a shell as it stands."""

import json
import re
import shutil
import subprocess
from pathlib import Path

from support.servers import start_server

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
