"""`holdfast worker install-service`, with the real systemctl, which enables and disables without a running manager."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

NAME = "holdfast-worker-exec-1"
RUN = ("--worker-id", "exec-1", "--types", "report", "--exec", "./report.sh")


@dataclass(frozen=True)
class Host:
    """A user's home folder, and the command line in it."""

    home: Path

    @property
    def unit(self) -> Path:
        return self.home / ".config/systemd/user" / f"{NAME}.service"

    @property
    def link(self) -> Path:
        return self.home / ".config/systemd/user/default.target.wants" / f"{NAME}.service"

    @property
    def secret(self) -> Path:
        return self.home / ".config/holdfast" / f"{NAME}.env"

    def run(self, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "SSL_"))}
        return subprocess.run(
            command,
            cwd=self.home,
            env=kept
            | {"HOME": str(self.home), "XDG_RUNTIME_DIR": str(self.home), "SYSTEMD_OFFLINE": "1"}
            | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def worker(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return self.run(sys.executable, "-m", "holdfast_worker.cli", "worker", *arguments, **environment)

    def files(self) -> dict[str, str]:
        """All that there is, links by what they name."""
        found = sorted(path for path in self.home.rglob("*") if path.is_symlink() or path.is_file())
        return {
            str(path.relative_to(self.home)): str(path.readlink()) if path.is_symlink() else path.read_text()
            for path in found
        }


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_what_is_installed_is_sound_to_systemd_starts_by_itself_and_ends_as_workers_end(host: Host) -> None:
    said = host.worker("install-service", *RUN, "--grace-seconds", "60", HOLDFAST_LOG_FORMAT="json")
    assert said.returncode == 0, said.stderr
    assert host.link.resolve() == host.unit
    verified = host.run("systemd-analyze", "verify", "--user", "--man=no", str(host.unit), SYSTEMD_OFFLINE="")
    assert (verified.returncode, verified.stderr) == (0, "")
    lines = host.unit.read_text().splitlines()
    program = Path(sys.executable).with_name("holdfast")
    assert f"ExecStart={program} worker run {' '.join(RUN)} --grace-seconds 60" in lines
    assert {f"WorkingDirectory={host.home}", "KillMode=mixed", "TimeoutStopSec=80"} <= set(lines)
    assert {"Restart=on-failure", "RestartPreventExitStatus=2 7"} <= set(lines)
    assert f"uninstall-service --name {NAME}" in said.stderr


def test_a_second_run_changes_nothing(host: Host) -> None:
    assert "Wrote" in host.worker("install-service", *RUN).stderr
    before = host.files()
    again = host.worker("install-service", *RUN)
    assert (again.returncode, host.files()) == (0, before)
    assert "Wrote" not in again.stderr
    assert "is up to date" in again.stderr


def test_without_auto_start_nothing_but_a_person_starts_it(host: Host) -> None:
    host.worker("install-service", *RUN)
    assert host.link.is_symlink()
    said = host.worker("install-service", *RUN, "--no-auto-start")
    assert said.returncode == 0, said.stderr
    assert not host.link.is_symlink()
    assert "Restart=no" in host.unit.read_text().splitlines()
    assert f"systemctl --user start {NAME}" in said.stderr
    host.worker("install-service", *RUN)
    assert host.link.is_symlink(), "and back"


def test_a_token_goes_into_a_file_of_its_owner_and_never_into_the_unit(host: Host) -> None:
    token = 'hfw_a"b$c'
    said = host.worker("install-service", *RUN, HOLDFAST_TOKEN=token, HOLDFAST_URL="https://hold.example")
    assert said.returncode == 0, said.stderr
    assert host.secret.stat().st_mode & 0o777 == 0o600
    assert 'HOLDFAST_TOKEN="hfw_a\\"b\\$c"' in host.secret.read_text().splitlines()
    assert f"EnvironmentFile=-{host.secret}" in host.unit.read_text()
    assert "hfw_" not in host.unit.read_text() + said.stderr + said.stdout
    before = host.files()
    again = host.worker("install-service", *RUN, HOLDFAST_TOKEN="hfw_other")
    assert "is left as it is" in again.stderr
    assert host.files() == before
    refused = host.worker("install-service", *RUN, "--token", token)
    assert (refused.returncode, host.files()) == (2, before)
    assert "HOLDFAST_TOKEN" in refused.stderr


def test_a_unit_of_somebody_else_is_left_alone(host: Host) -> None:
    host.unit.parent.mkdir(parents=True)
    host.unit.write_text("[Service]\nExecStart=/bin/true\n")
    before = host.files()
    for verb in (("install-service", *RUN), ("uninstall-service", "--worker-id", "exec-1")):
        refused = host.worker(*verb)
        assert (refused.returncode, host.files()) == (1, before), refused.stderr
        assert "left as it is" in refused.stderr
    host.unit.unlink()
    host.unit.symlink_to("/dev/null")  # masked
    assert host.worker("install-service", *RUN).returncode == 1
    assert host.unit.readlink() == Path("/dev/null")


def test_what_was_installed_goes_without_a_trace_but_the_token(host: Host) -> None:
    host.worker("install-service", *RUN, HOLDFAST_TOKEN="hfw_x")
    said = host.worker("uninstall-service", "--worker-id", "exec-1")
    assert said.returncode == 0, said.stderr
    assert list(host.files()) == [str(host.secret.relative_to(host.home))]
    assert f"rm {host.secret}" in said.stderr
    again = host.worker("uninstall-service", "--worker-id", "exec-1")
    assert again.returncode == 0
    assert "There is no" in again.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--types", "report"), "--exec 'COMMAND' or --handler"),
        ((*RUN, "--slots", "0"), "--slots"),
        ((*RUN, "--no-such"), "--no-such"),
        ((*RUN, "--system"), "--run-as"),
        ((*RUN, "--run-as", "nobody"), "--system"),
        ((*RUN, "--system", "--run-as", "no-such-user"), "no-such-user"),
        ((*RUN, "--name", "a b"), "--name"),
    ],
)
def test_what_could_not_run_is_refused_before_anything_is_written(
    host: Host, options: tuple[str, ...], told: str
) -> None:
    refused = host.worker("install-service", *options)
    assert (refused.returncode, host.files()) == (2, {})
    assert told in refused.stderr


def test_a_unit_of_the_host_is_printed_with_its_user_and_nothing_is_written(host: Host) -> None:
    printed = host.worker("install-service", "--system", "--run-as", "nobody", "--print", *RUN)
    assert printed.returncode == 0, printed.stderr
    assert {"User=nobody", "WantedBy=multi-user.target", "After=network-online.target"} <= set(
        printed.stdout.splitlines()
    )
    assert host.files() == {}


def test_each_word_of_the_command_reaches_the_worker_as_it_was_given(host: Host) -> None:
    command = 'say "a b" $HOME 50% \\n'
    printed = host.worker("install-service", "--print", "--types", "a", "--exec", command)
    line = next(line for line in printed.stdout.splitlines() if line.startswith("ExecStart="))
    # systemd takes $$ and %% for one each, and reads the rest as C does.
    assert line.endswith(' --types a --exec "say \\"a b\\" $$HOME 50%% \\\\n"')


def test_a_host_without_systemd_is_told_what_to_do_instead(host: Host) -> None:
    refused = host.worker("install-service", *RUN, PATH=str(host.home))
    assert (refused.returncode, host.files()) == (1, {})
    assert "holdfast worker run" in refused.stderr
