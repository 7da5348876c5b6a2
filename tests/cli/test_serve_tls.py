"""`holdfast serve` over HTTPS, as curl and the command line meet it, and what it says of files that do not fit."""

import json
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from cli.harness import Cli
from support.reaper import reaper

README = Path(__file__).parents[2] / "README.md"
PATIENCE = 60.0
READY = "Holdfast is ready at "


@dataclass(frozen=True)
class Papers:
    """A CA of the test's own, and a certificate for this host."""

    ca: Path
    certificate: Path
    key: Path

    @property
    def options(self) -> tuple[str, ...]:
        return "--tls-cert", str(self.certificate), "--tls-key", str(self.key)


def issue(folder: Path, *names: str) -> Papers:
    folder.mkdir(exist_ok=True)
    ca = trustme.CA()
    papers = Papers(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    issued = ca.issue_cert(*names)
    ca.cert_pem.write_to_path(papers.ca)
    issued.private_key_pem.write_to_path(papers.key)
    papers.certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    return papers


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return issue(tmp_path_factory.mktemp("tls"), "127.0.0.1", "localhost")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "holdfast_worker.cli", "serve", *arguments]


@contextmanager
def serving(url: str, *options: str, port: int = 0, **environment: str) -> Generator[str]:
    """A server, and the address that it tells. Ends well, or the test fails."""
    with subprocess.Popen(
        command("--port", str(port), *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"HOLDFAST_DATABASE_URL": url} | environment,
        text=True,
    ) as process:
        reaper().watch_process(process.pid)
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], PATIENCE)[0], "no line came in time"
            line = process.stdout.readline()
            assert line.startswith(READY), line
            yield line.removeprefix(READY).strip()
        finally:
            process.terminate()
            _, errors = process.communicate(timeout=PATIENCE)
            reaper().forget(process.pid)
    assert process.returncode == 0
    assert "Traceback" not in errors


@contextmanager
def the_port(number: int) -> Generator[int]:
    """A port of this host that nobody uses; waits for another run of this test to be done with it."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_server(("127.0.0.1", number)).close()
            break
        except OSError as error:
            if time.monotonic() > until:
                pytest.fail(f"this test needs the port {number}, which is taken: {error}")
            time.sleep(0.2)
    yield number


@pytest.mark.parametrize("workers", ["1", "2"])
def test_every_step_of_the_quickstart_works_over_https_with_a_private_ca(
    database_url: str, papers: Papers, workers: str
) -> None:
    assert shutil.which("curl"), "the quickstart needs curl"
    script = re.search(r"<!-- quickstart -->\n```sh\n(.*?)```", README.read_text(), re.DOTALL)
    assert script is not None
    with (
        the_port(8443) as port,
        serving(database_url, *papers.options, "--workers", workers, port=port) as address,
    ):
        assert address == "https://127.0.0.1:8443"
        pasted = script[1].replace("http://127.0.0.1:8790", address)
        pasted = re.sub(r"\bcurl ", f"curl --fail --cacert {papers.ca} ", pasted)
        pasted = re.sub(r"^(curl .*?[^\\])$", r"\1; echo", pasted, flags=re.MULTILINE | re.DOTALL)
        done = subprocess.run(
            ["bash", "-eu", "-c", pasted], capture_output=True, text=True, timeout=120, check=False
        )
        status = subprocess.run(
            [sys.executable, "-m", "holdfast_worker.cli", "status", "--json", "--url", address],
            capture_output=True,
            env=os.environ | {"SSL_CERT_FILE": str(papers.ca)},
            text=True,
            timeout=PATIENCE,
            check=True,
        )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
    assert len(answers) == 11
    refused, claimed, log = answers[4], answers[9], answers[10]
    assert refused["job"] is None
    assert refused["system"]["workersPaused"] is True
    assert claimed["job"] is not None
    assert [event["action"] for event in log["items"]] == ["resume", "pause", "pause"]
    assert json.loads(status.stdout)["system"]["version"] == 4


def test_what_is_not_trusted_ends_with_6_and_says_how_to_trust_it(
    sqlite_url: str, papers: Papers, cli_for: Callable[[str], Cli], tmp_path: Path
) -> None:
    other = issue(tmp_path / "other", "127.0.0.1")
    with serving(sqlite_url, *papers.options) as address:
        cli = cli_for(address)
        for environment in ({"SSL_CERT_FILE": "", "SSL_CERT_DIR": ""}, {"SSL_CERT_FILE": str(other.ca)}):
            done = cli("status", **environment)
            assert (done.code, done.out) == (6, "")
            (line,) = done.err.splitlines()
            assert address in line
            assert "not trusted" in line
            assert "SSL_CERT_FILE=" in line
        assert cli("status", SSL_CERT_FILE=str(papers.ca)).code == 0


def test_a_certificate_for_another_name_is_told_as_that(
    sqlite_url: str, cli_for: Callable[[str], Cli], tmp_path: Path
) -> None:
    papers = issue(tmp_path / "named", "queue.example")
    with serving(sqlite_url, *papers.options) as address:
        done = cli_for(address)("status", SSL_CERT_FILE=str(papers.ca))
    assert done.code == 6
    (line,) = done.err.splitlines()
    assert "127.0.0.1" in line
    assert "mismatch" in line
    assert "SSL_CERT_FILE" not in line


def test_a_file_of_cas_that_cannot_be_read_is_a_usage_error(cli_for: Callable[[str], Cli]) -> None:
    done = cli_for("https://127.0.0.1:1")("status", SSL_CERT_FILE="/nowhere/ca.pem")
    assert done.code == 2
    assert "SSL_CERT_FILE" in done.err
    assert "Traceback" not in done.err


def test_https_to_a_server_without_it_is_one_line(sqlite_url: str, cli_for: Callable[[str], Cli]) -> None:
    with serving(sqlite_url) as address:
        done = cli_for(address.replace("http:", "https:"))("status")
    assert done.code == 6
    assert len(done.err.splitlines()) == 1


def test_the_environment_names_the_files_too(
    sqlite_url: str, papers: Papers, cli_for: Callable[[str], Cli]
) -> None:
    named = {"HOLDFAST_TLS_CERT": str(papers.certificate), "HOLDFAST_TLS_KEY": str(papers.key)}
    with serving(sqlite_url, **named) as address:
        assert address.startswith("https://")
        assert cli_for(address)("status", SSL_CERT_FILE=str(papers.ca)).code == 0


@pytest.mark.parametrize(
    ("certificate", "key", "words"),
    [
        ("cert.pem", "", "HOLDFAST_TLS_KEY is not set"),
        ("", "key.pem", "HOLDFAST_TLS_CERT is not set"),
        ("none.pem", "key.pem", "HOLDFAST_TLS_CERT {folder}/none.pem cannot be read: No such file"),
        ("cert.pem", "none.pem", "HOLDFAST_TLS_KEY {folder}/none.pem cannot be read: No such file"),
        ("other", "key.pem", "HOLDFAST_TLS_CERT {folder}/other cannot be read: Is a directory"),
        ("key.pem", "key.pem", "key.pem holds no certificate"),
        ("cert.pem", "cert.pem", "cert.pem holds no private key"),
        ("cert.pem", "other.pem", "is not the key of the certificate"),
        ("cert.pem", "rsa.pem", "is not the key of the certificate"),
        ("broken.pem", "key.pem", "OpenSSL cannot use HOLDFAST_TLS_CERT"),
        ("cert.pem", "locked.pem", "is locked with a passphrase"),
    ],
)
def test_files_that_do_not_do_are_one_line_and_exit_code_2(
    tmp_path: Path, certificate: str, key: str, words: str
) -> None:
    issue(tmp_path, "127.0.0.1")
    shutil.copy(issue(tmp_path / "other", "127.0.0.1").key, tmp_path / "other.pem")
    rsa = trustme.CA().issue_cert("127.0.0.1", key_type=trustme.KeyType.RSA)
    rsa.private_key_pem.write_to_path(tmp_path / "rsa.pem")
    (tmp_path / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    key_itself = load_pem_private_key((tmp_path / "key.pem").read_bytes(), None)
    (tmp_path / "locked.pem").write_bytes(
        key_itself.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    )
    options: list[str] = []
    if certificate:
        options += ["--tls-cert", f"{tmp_path}/{certificate}"]
    if key:
        options += ["--tls-key", f"{tmp_path}/{key}"]
    untouched = tmp_path / "never-made.db"
    done = subprocess.run(
        command("--port", "0", "--database-url", f"sqlite:///{untouched}", *options),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert words.format(folder=tmp_path) in line
    assert not untouched.exists()
