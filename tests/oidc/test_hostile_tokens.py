"""Tokens that look like the provider's and are not, or are not for us, or not good now: 401 at each way in."""

import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from oidc.harness import WAYS, asked, status_of
from support.servers import Server
from support.stub_issuer import StubIssuer, new_key, unsigned


def _part(text: bytes) -> str:
    return urlsafe_b64encode(text).rstrip(b"=").decode()


def _signed_with_the_public_key(issuer: StubIssuer) -> str:
    public = issuer.keys["one"][1].public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256", "kid": "one"}, issuer.claims())]
    signed = ".".join(map(_part, parts))
    return f"{signed}.{_part(hmac.digest(pem, signed.encode(), hashlib.sha256))}"


def _tampered(issuer: StubIssuer) -> str:
    header, claims, signature = issuer.token().split(".")
    said = json.loads(urlsafe_b64decode(claims + "=="))
    return ".".join([header, _part(json.dumps({**said, "roles": ["admin"]}).encode()), signature])


def _of_another_curve(issuer: StubIssuer) -> str:
    claims, key = issuer.claims(), new_key("ES256")
    return jwt.encode(claims, key, algorithm="ES256", headers={"kid": "one"})


def _with_its_own_key(issuer: StubIssuer) -> str:
    key = new_key("RS256")
    own = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    header = {"kid": "one", "jwk": own, "jku": "http://127.0.0.1:1/keys"}
    return issuer.token(key=key, header=header)


def _changed(**claims: Any) -> Callable[[StubIssuer], str]:
    return lambda issuer: issuer.token(**claims)


HOSTILE: Final[dict[str, Callable[[StubIssuer], str]]] = {
    "expired": lambda issuer: issuer.token(exp=int(time.time()) - 1),
    "not yet valid": lambda issuer: issuer.token(nbf=int(time.time()) + 120),
    "issued in the future": lambda issuer: issuer.token(iat=int(time.time()) + 120),
    "without an end": _changed(exp=None),
    "with an end that is no number": _changed(exp="soon"),
    "with an endless end": _changed(exp=10**400),
    "for another service": _changed(aud="https://elsewhere.test"),
    "for nobody": _changed(aud=None),
    "of another issuer": _changed(iss="https://elsewhere.test"),
    "of an issuer with a slash more": lambda issuer: issuer.token(iss=f"{issuer.url}/"),
    "without a subject": _changed(sub=None),
    "with an empty subject": _changed(sub=""),
    "with a long subject": _changed(sub="x" * 256),
    "with a subject that hides": _changed(sub="ada\u202e\x00"),
    "without a signature": lambda issuer: unsigned(issuer.claims(), {"alg": "none", "kid": "one"}),
    "signed with the public key as a secret": _signed_with_the_public_key,
    "tampered with": _tampered,
    "signed by a key that calls itself one of theirs": lambda issuer: issuer.token(key=new_key("RS256")),
    "signed by a key of another type": _of_another_curve,
    "signed by a key that it brings along": _with_its_own_key,
    "signed by an unknown key": lambda issuer: issuer.token(header={"kid": "unknown"}),
    "with a key id that is no text": lambda issuer: issuer.token().replace(
        issuer.token().split(".")[0], _part(b'{"alg":"RS256","kid":[1]}')
    ),
    "with an extension that has to be known": lambda issuer: issuer.token(header={"crit": ["x"], "x": 1}),
    "an ID token": _changed(at_hash="x", nonce="n"),
    "a refresh token": _changed(typ="Refresh"),
    "a logout token": lambda issuer: issuer.token(header={"typ": "logout+jwt"}),
    "bound to a key of its client": _changed(cnf={"jkt": "x"}),
    "nonsense": lambda _: "a.b.c",
    "deep nonsense": lambda _: f"{_part(b'[' * 6_000)}.e30.e30",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_good_token_is_admitted(server: Server, issuer: StubIssuer, way: str) -> None:
    assert status_of(way, server.url, issuer.token()) == WAYS[way][1]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.requirement("SEC-01")
def test_a_token_that_is_not_good_is_refused_everywhere(
    server: Server, issuer: StubIssuer, hostile: str, way: str
) -> None:
    assert status_of(way, server.url, HOSTILE[hostile](issuer)) == 401


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_refusal_says_why_and_repeats_nothing_of_the_token(
    server: Server, issuer: StubIssuer, hostile: str
) -> None:
    token = HOSTILE[hostile](issuer)
    answer = asked(server.url, token)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer ")
    told = answer.json()
    assert told["code"] == "not_authenticated"
    assert 20 < len(told["detail"]) < 200
    assert not any(part in answer.text for part in token.split(".") if len(part) > 3)
    assert "Traceback" not in server.log
    assert token not in server.log


@pytest.mark.parametrize(
    "algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
)
def test_each_asymmetric_algorithm_is_taken(issuer: StubIssuer, server: Server, algorithm: str) -> None:
    kid = algorithm if algorithm in issuer.keys else "one"
    key = issuer.keys[kid][1]
    token = jwt.encode(issuer.claims(), key, algorithm=algorithm, headers={"kid": kid})
    assert asked(server.url, token).status_code == 200


def test_a_clock_of_the_provider_may_be_a_little_ahead(server: Server, issuer: StubIssuer) -> None:
    soon = int(time.time()) + 20
    assert asked(server.url, issuer.token(iat=soon, nbf=soon)).status_code == 200
