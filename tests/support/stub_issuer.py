"""An issuer that signs whatever a test asks for, and counts what it is asked: for tokens that no real provider makes.

with stub_issuer() as issuer:
    issuer.token(sub="ada", roles=["operator"], exp=time() - 5)
"""

import json
import threading
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

__all__ = ["AUDIENCE", "StubIssuer", "new_key", "stub_issuer"]

#: What its tokens are for, unless a test says otherwise.
AUDIENCE: Final = "https://holdfast.test/mcp"
DISCOVERY: Final = "/.well-known/openid-configuration"
JWKS: Final = "/keys"


def new_key(algorithm: str) -> Any:
    """A private key for this algorithm."""
    match algorithm[:2]:
        case "RS" | "PS":
            return rsa.generate_private_key(65_537, 2_048)
        case "ES":
            curve = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}[algorithm]
            return ec.generate_private_key(curve)
        case _:
            return ed25519.Ed25519PrivateKey.generate()


@cache
def _first_keys() -> dict[str, tuple[str, Any]]:
    """Those of every stub: making keys takes long."""
    kids = {"one": "RS256", "ES256": "ES256", "ES384": "ES384", "ES512": "ES512", "EdDSA": "EdDSA"}
    return {kid: (algorithm, new_key(algorithm)) for kid, algorithm in kids.items()}


class StubIssuer:
    """Its address, its keys by their ids, and `asked`: how often each path was asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: Counter[str] = Counter()
        #: What it publishes, and what it can sign with: algorithm and private key.
        self.keys: dict[str, tuple[str, Any]] = {}
        #: On top of its metadata.
        self.metadata: dict[str, Any] = {}
        #: Answers to other paths.
        self.answers: dict[str, tuple[int, dict[str, Any]]] = {}
        self.is_away = False
        self.keys |= _first_keys()

    def add(self, kid: str, algorithm: str) -> None:
        """A further key."""
        self.keys[kid] = algorithm, new_key(algorithm)

    def claims(self, **changed: Any) -> dict[str, Any]:
        """What a good token of an operator says; None leaves a claim out."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ada",
            "name": "Ada",
            "roles": ["operator"],
            "iat": now,
            "exp": now + 300,
            **changed,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(
        self, *, kid: str = "one", key: Any = None, header: dict[str, Any] | None = None, **changed: Any
    ) -> str:
        """A signed token. `key`: of another private key than the one of this id; it then has to fit it."""
        algorithm, own = self.keys[kid]
        headers = {"kid": kid, **(header or {})}
        return jwt.encode(self.claims(**changed), key or own, algorithm=algorithm, headers=headers)

    def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        """What it says there."""
        self.asked[path] += 1
        if self.is_away:
            return 503, {}
        if path == DISCOVERY:
            return 200, {"issuer": self.url, "jwks_uri": self.url + JWKS, **self.metadata}
        if path == JWKS:
            return 200, {"keys": [_public(kid, *key) for kid, key in self.keys.items()]}
        return self.answers.get(path, (404, {}))


def _public(kid: str, algorithm: str, key: Any) -> dict[str, Any]:
    kind: Any = {"R": RSAAlgorithm, "P": RSAAlgorithm, "E": ECAlgorithm}[algorithm[0]]
    if algorithm == "EdDSA":
        kind = OKPAlgorithm
    return {**kind.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}


def unsigned(claims: dict[str, Any], header: dict[str, Any]) -> str:
    """A token without a signature."""
    parts = (json.dumps(part).encode() for part in (header, claims))
    return ".".join([*(urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts), ""])


@contextmanager
def stub_issuer() -> Generator[StubIssuer]:
    """One on a free loopback port, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, answer = issuer.answer(self.path)
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        issuer = StubIssuer(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield issuer
        finally:
            server.shutdown()
            thread.join()
