"""`holdfast login`: a token is kept for one server, in a file of its owner's alone, and goes to no other."""

import json
import os
import select
import stat
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from cli.harness import PATIENCE_SECONDS, Cli, Result, StandIn
from holdfast_core.errors import ConfigurationError
from holdfast_worker.client import Client
from holdfast_worker.credentials import origin_of, store_token, stored_token
from holdfast_worker.wire import Address
from support.servers import Server, start_server
from support.tokens import create_token_now

SNAPSHOT = b"{}"


@pytest.fixture(scope="module")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('login') / 'holdfast.db'}"


@pytest.fixture(scope="module")
def server(database_url: str) -> Generator[Server]:
    with start_server(database_url, HOLDFAST_AUTH_PROVIDER="token") as server:
        yield server


@pytest.fixture(scope="module")
def token(server: Server, database_url: str) -> str:
    return create_token_now(database_url, role="operator", user="olga").token


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where this test's tokens are kept."""
    return tmp_path / "config" / "holdfast" / "credentials.json"


@pytest.fixture
def home(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(file.parents[1]))


@pytest.fixture
def cli(server: Server, home: None) -> Cli:
    return Cli(server.url)


def log_in(cli: Cli, token: str, *options: str) -> Result:
    done = cli("login", *options, stdin=token + "\n")
    assert done.code == 0, done.err
    return done


def test_a_token_from_stdin_is_kept_for_its_owner_alone_and_used(
    cli: Cli, server: Server, token: str, file: Path
) -> None:
    assert cli("status").code == 7
    done = log_in(cli, token, "--token-stdin")
    assert done.out == f"Server: {server.url}\nName:   olga\nRole:   operator\n"
    assert str(file) in done.err
    assert token not in done.out + done.err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [path.name for path in file.parent.iterdir()] == ["credentials.json"]
    assert json.loads(file.read_text()) == {"servers": {server.url: {"token": token}}}
    assert cli("status").code == 0
    shown = cli("login", "--status")
    assert (shown.code, shown.out) == (0, done.out)
    assert cli("login", "--status", "--json").json["name"] == "olga"
    with Client(server.url) as client:
        assert client.identity().name == "olga"


def test_a_person_is_asked_without_an_echo(cli: Cli, token: str, file: Path) -> None:
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "holdfast_worker.cli", "login"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"HOLDFAST_URL": cli.url},
        start_new_session=True,
    )
    shown, typed = b"", False
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while process.poll() is None or select.select([ours], [], [], 0)[0]:
            assert time.monotonic() < deadline, shown
            if select.select([ours], [], [], 0.05)[0]:
                shown += os.read(ours, 65_536)
            if not typed and b"not shown" in shown and not termios.tcgetattr(theirs)[3] & termios.ECHO:
                os.write(ours, token.encode() + b"\n")
                typed = True
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
    assert process.returncode == 0, shown
    assert b"olga" in shown
    assert token.encode() not in shown
    assert token in file.read_text()


def test_a_token_that_is_not_good_is_not_kept(cli: Cli, token: str, file: Path) -> None:
    done = cli("login", stdin="hfa_nonsense\n")
    assert (done.code, done.out) == (7, "")
    assert "Nothing was stored." in done.err
    assert not file.exists()
    log_in(cli, token)
    assert cli("login", stdin="hfa_nonsense\n").code == 7
    assert cli("status").code == 0  # the one before stays


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("\n", "no token"),
        ("", "no token"),
        ("a b\n", "characters that no token has"),
        ("x" * 9_000, "longer"),
    ],
)
def test_what_cannot_be_a_token_is_a_usage_error(cli: Cli, file: Path, typed: str, said: str) -> None:
    done = cli("login", stdin=typed)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert not file.exists()


def test_an_option_and_the_environment_come_before_what_is_kept(
    cli: Cli, database_url: str, token: str
) -> None:
    viewer = create_token_now(database_url, role="viewer", user="vera").token
    log_in(cli, token)
    assert cli("login", "--status", "--json").json["name"] == "olga"
    assert cli("login", "--status", "--json", HOLDFAST_TOKEN=viewer).json["name"] == "vera"
    assert cli("status", HOLDFAST_TOKEN="wrong").code == 7
    assert cli("status", "--token", viewer, HOLDFAST_TOKEN="wrong").code == 0
    assert cli("status", HOLDFAST_TOKEN="").code == 0  # empty is unset
    assert cli("status", "--token", "").code == 7  # said to be none
    assert "HOLDFAST_TOKEN is set" in cli("login", stdin=token, HOLDFAST_TOKEN=viewer).err


def test_a_kept_token_goes_to_no_other_server(
    cli: Cli, server: Server, token: str, stand_in: StandIn, cli_for: Callable[[str], Cli]
) -> None:
    log_in(cli, token)
    stand_in.answer(200, SNAPSHOT)
    cli_for(stand_in.url)("status")
    stand_in.answer(302, b"", Location=server.url)
    cli_for(stand_in.url)("status")
    assert len(stand_in.seen) == 2
    assert not any("authorization" in request for request in stand_in.seen)
    # The same host under another name is another server, too.
    assert cli_for(server.url.replace("127.0.0.1", "localhost"))("status").code == 7
    # And what is kept is not passed on by a server of ours that sends clients elsewhere.
    stand_in.answer(200, SNAPSHOT)
    with Client(server.url) as client:
        client.status()
    assert len(stand_in.seen) == 2


def test_each_server_has_its_own(cli: Cli, server: Server, token: str, file: Path, home: None) -> None:
    store_token("https://elsewhere.example.com:443", "another")
    log_in(cli, token)
    assert stored_token("https://elsewhere.example.com:443") == "another"
    assert stored_token("https://elsewhere.example.com:8443") is None
    assert stored_token("http://elsewhere.example.com:443") is None
    assert Address.of("https://Elsewhere.example.com/holdfast/").token == "another"
    assert Address.of("https://elsewhere.example.com", "").token == ""
    done = cli("login", "--remove")
    assert done.code == 0
    assert "forgotten" in done.err
    assert cli("status").code == 7
    assert stored_token("https://elsewhere.example.com:443") == "another"
    assert "No token is kept" in cli("login", "--remove").err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_a_file_that_others_can_read_or_write_is_refused_with_the_way_out(
    cli: Cli, token: str, file: Path, mode: int
) -> None:
    log_in(cli, token)
    before = file.read_bytes()
    file.chmod(mode)
    for arguments in (["status"], ["login"], ["login", "--status"], ["login", "--remove"]):
        done = cli(*arguments, stdin=token)
        assert (done.code, done.out) == (1, ""), arguments
        assert f"`chmod 600 {file}`" in done.err
        assert len(done.err.splitlines()) == 1
    assert file.read_bytes() == before
    assert cli("status", HOLDFAST_TOKEN=token).code == 0  # then the file is nothing to it
    file.chmod(0o600)
    assert cli("status").code == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"servers": []}', b"\xff", b"[" * 100_000])
def test_a_broken_file_is_told_and_left_as_it_is(cli: Cli, token: str, file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    file.chmod(0o600)
    for arguments in (["status"], ["login"], ["login", "--remove"]):
        done = cli(*arguments, stdin=token)
        assert (done.code, done.out) == (1, ""), arguments
        assert "is not what `holdfast login` writes" in done.err
    assert file.read_bytes() == content


def test_what_a_newer_version_has_added_stays(file: Path, home: None) -> None:
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"servers": {"https://a:443": {"token": "t", "note": 1}}, "more": [1]}))
    file.chmod(0o600)
    store_token("https://b:443", "u")
    read = json.loads(file.read_text())
    assert read == {
        "servers": {"https://a:443": {"token": "t", "note": 1}, "https://b:443": {"token": "u"}},
        "more": [1],
    }
    assert stored_token("https://a:443") == "t"


def test_a_folder_that_cannot_be_written_is_told(file: Path, home: None) -> None:
    file.parents[1].mkdir(parents=True)
    file.parent.touch()
    with pytest.raises(ConfigurationError, match=r"credentials\.json"):
        store_token("https://a:443", "t")


def test_a_token_is_not_asked_for_where_it_would_travel_in_the_clear(
    cli_for: Callable[[str], Cli], home: None, file: Path
) -> None:
    cli = cli_for("http://holdfast.invalid")
    done = cli("login", stdin="secret\n")
    assert (done.code, done.out) == (2, "")
    assert "is not https" in done.err
    assert "--insecure" in done.err
    assert cli("login", "--insecure", stdin="secret\n").code == 6  # accepted; nobody is there
    assert not file.exists()


def test_where_nobody_is_asked_who_they_are_nothing_is_kept(
    shared_server: Server, cli_for: Callable[[str], Cli], home: None, file: Path
) -> None:
    cli = cli_for(shared_server.url)
    done = log_in(cli, "anything")
    assert "authentication is disabled" in done.err
    assert not file.exists()
    assert "all, since authentication is disabled" in cli("login", "--status").out


def test_a_workers_token_says_which_worker(cli: Cli, database_url: str) -> None:
    done = log_in(cli, create_token_now(database_url, workerId="exec-1").token)
    assert "Role:   worker\nWorker: exec-1\n" in done.out


def test_a_worker_and_its_host_use_what_is_kept(cli: Cli, database_url: str, tmp_path: Path) -> None:
    log_in(cli, create_token_now(database_url, workerId="exec-1").token)
    done = cli(
        *("worker", "run", "--worker-id", "exec-2", "--transport", "http", "--exec", "true"),
        XDG_RUNTIME_DIR=str(tmp_path),
    )
    assert done.code == 7
    assert "bound to the worker exec-1" in done.err


def test_status_and_remove_stand_alone(cli: Cli) -> None:
    for arguments in (["--status", "--remove"], ["--status", "--token-stdin"], ["--remove", "--insecure"]):
        done = cli("login", *arguments)
        assert done.code == 2
        assert "stand alone" in done.err


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://127.0.0.1:8790", "http://127.0.0.1:8790"),
        ("http://localhost", "http://localhost:80"),
        ("https://H.example.com/a/b", "https://h.example.com:443"),
        ("https://[::1]:8443", "https://[::1]:8443"),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, origin: str) -> None:
    assert origin_of(url) == origin
