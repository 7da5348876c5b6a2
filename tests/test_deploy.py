"""What cannot be run here is checked: the image's file, the Compose file, the manifests, the units."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from click.testing import CliRunner

from holdfast_server.commands.processes import END_SECONDS
from holdfast_worker.cli import main
from support.servers import start_server

ROOT = Path(__file__).parents[1]
MANIFESTS = [
    path for path in sorted((ROOT / "deploy/kubernetes").glob("*.yaml")) if path.stem != "kustomization"
]
UNITS = sorted((ROOT / "deploy/systemd").iterdir())
#: The user of the image.
USER = 10001
VERSIONS = ["1.30", "1.37"]


def run(program: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """A program that came with this Python's environment, or the system's."""
    found = shutil.which(program, path=str(Path(sys.executable).parent)) or shutil.which(program)
    assert found, f"{program} is not here"
    return subprocess.run(
        [found, *arguments],
        cwd=ROOT,
        env=environment or None,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def objects() -> dict[str, Any]:
    """Those of the manifests, by kind."""
    found = [document for path in MANIFESTS for document in yaml.safe_load_all(path.read_text())]
    return {document["kind"]: document for document in found}


def pods() -> dict[str, Any]:
    return {
        kind: found["spec"]["template"]["spec"]
        for kind, found in objects().items()
        if "template" in found.get("spec", {})
    }


def test_hadolint_has_nothing_to_say_of_the_image() -> None:
    linted = run("hadolint", "Dockerfile")
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, "")


def test_what_the_image_is_made_of_is_not_kept_from_it() -> None:
    wanted = {name for line in copied() for name in line.split()[:-1]}
    admitted = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert admitted == wanted
    assert all((ROOT / name).exists() for name in wanted)


def copied() -> list[str]:
    return re.findall(r"^COPY (?!--from)(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def compose() -> Any:
    """The Compose file as Compose itself understands it."""
    understood = run(
        "docker-compose", "--file", "compose.yaml", "config", "--format", "json", POSTGRES_PASSWORD="x"
    )
    assert understood.returncode == 0, understood.stderr
    return yaml.safe_load(understood.stdout)


def test_compose_understands_its_file_and_starts_each_service_when_what_it_needs_is_healthy() -> None:
    services = compose()["services"]
    assert services["server"]["deploy"]["replicas"] == 2
    for name, service in services.items():
        for needed, condition in service.get("depends_on", {}).items():
            assert condition["condition"] == "service_healthy", name
            assert services[needed]["healthcheck"]["test"], needed
    without = run("docker-compose", "--file", "compose.yaml", "config", POSTGRES_PASSWORD="")
    assert without.returncode != 0
    assert "POSTGRES_PASSWORD" in without.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifests_are_those_that_kubernetes_takes(version: str) -> None:
    taken = run(
        "kubernetes-validate", "--strict", "--quiet", "--kubernetes-version", version, *map(str, MANIFESTS)
    )
    assert (taken.returncode, taken.stdout + taken.stderr) == (0, "")


def test_the_kustomization_names_every_manifest_and_image() -> None:
    kustomization = yaml.safe_load((ROOT / "deploy/kubernetes/kustomization.yaml").read_text())
    assert sorted(kustomization["resources"]) == [path.name for path in MANIFESTS]
    images = {container["image"] for pod in pods().values() for container in pod["containers"]}
    assert {image["name"] for image in kustomization["images"]} == images


def test_the_pods_are_restricted_and_have_the_time_that_they_need_to_end() -> None:
    found = pods()
    assert set(found) == {"Deployment", "StatefulSet"}
    for pod in found.values():
        assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsNonRoot"]) == (USER, True)
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
    assert f"USER {USER}:{USER}" in (ROOT / "Dockerfile").read_text()
    server, worker = found["Deployment"], found["StatefulSet"]
    waits = int(server["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert waits + END_SECONDS < server["terminationGracePeriodSeconds"]
    options = worker["containers"][0]["args"]
    grace = int(options[options.index("--grace-seconds") + 1])
    assert grace + 10 < worker["terminationGracePeriodSeconds"], "--kill-after is 10"


def test_the_probes_of_the_manifests_are_answered_by_a_server_that_is_ready(sqlite_url: str) -> None:
    container = pods()["Deployment"]["containers"][0]
    with start_server(sqlite_url, HOLDFAST_AUTH_PROVIDER="token") as server:
        pod = {"Host": "10.0.0.7:8790"}  # what a probe says by itself
        assert httpx2.get(server.url + "/readyz", headers=pod).status_code == 421
        for name in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = container[name]["httpGet"]
            headers = {header["name"]: header["value"] for header in probe["httpHeaders"]}
            assert httpx2.get(server.url + probe["path"], headers=headers).status_code == 200, name


def test_the_health_checks_of_the_containers_tell_a_server_from_none(sqlite_url: str) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    of_image = re.search(r'CMD \["python", "-c", "(.+)"\]', dockerfile)
    assert of_image is not None
    checks = [of_image[1], compose()["services"]["server"]["healthcheck"]["test"][-1]]

    def ends_with(check: str, url: str) -> int:
        asked = check.replace("http://127.0.0.1:8790", url)
        assert asked != check
        return subprocess.run(
            [sys.executable, "-c", asked], stderr=subprocess.DEVNULL, timeout=60, check=False
        ).returncode

    with start_server(sqlite_url) as server:
        assert [ends_with(check, server.url) for check in checks] == [0, 0]
    assert [ends_with(check, server.url) for check in checks] == [1, 1]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_units_are_sound_to_systemd(unit: Path, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("holdfast")
    text = unit.read_text()
    assert text.count("/opt/holdfast/bin/holdfast ") == 1
    # It looks for the program, too.
    copy = tmp_path / unit.name.replace("@.", "@exec-1.")
    copy.write_text(text.replace("/opt/holdfast/bin/holdfast ", f"{program} "))
    verified = run("systemd-analyze", "verify", "--man=no", str(copy))
    assert (verified.returncode, verified.stderr) == (0, "")


def commands() -> list[list[str]]:
    """How the images, the manifests and the units call the command line."""
    found = [["worker", "run", *compose()["services"][name]["command"]] for name in ("worker-1", "worker-2")]
    found.append(["worker", "run", *pods()["StatefulSet"]["containers"][0]["args"]])
    for unit in UNITS:
        line = re.search(r"^ExecStart=\S+ (.+)$", unit.read_text(), re.MULTILINE)
        assert line is not None
        found.append(line[1].replace("$HOLDFAST_WORKER_OPTIONS", "--types report --exec ./report.sh").split())
    return found


def test_each_command_is_one_that_the_command_line_knows() -> None:
    for arguments in commands():
        said = CliRunner().invoke(main, [*arguments, "--help"])
        assert said.exit_code == 0, said.output
