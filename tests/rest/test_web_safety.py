"""No web page can drive a local server, on any address of it (CONTRACT section 7)."""

import json
from typing import Any, Final

import anyio
import pytest

from holdfast_core.errors import ConfigurationError
from holdfast_core.settings import load_settings
from rest.harness import PAGES, SECURITY, Api, Socket, dump, open_api, open_socket, operations

pytestmark = pytest.mark.anyio

JOB_ID: Final = "0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90"
ADDRESSES: Final = (
    "/",
    *PAGES,
    "/tasks/assets/tasks.css",
    "/tasks/assets/app.js",
    "/tasks/assets/nothing",
    "/openapi.json",
    "/mcp",
    "/nothing",
    "/api",
    "/api/queue/jobs/a/b/c",
)
#: Every address of the app, each method of it, and some that are none.
EVERYWHERE: Final = [
    *((op.method, op.at(JOB_ID)) for op in operations()),
    *(("GET", path) for path in ADDRESSES),
    ("POST", "/mcp"),
    ("DELETE", "/mcp"),
    ("OPTIONS", "/mcp"),
    ("OPTIONS", "/api/queue/jobs"),
    ("DELETE", "/api/queue/jobs"),
    ("POST", "/tasks"),
    ("HEAD", "/healthz"),
    ("TRACE", "/tasks"),
]
KNOWN: Final = (
    "127.0.0.1",
    "127.0.0.1:1",
    "127.0.0.1:",
    "localhost:65535",
    "LocalHost:8790",
    "[::1]",
    "[::1]:8790",
)
FOREIGN: Final = (
    "evil.example",
    "evil.example:8790",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil.example:127.0.0.1",
    "evil-localhost",
    "xlocalhost",
    "localhostx",
    "127.0.0.2",
    "0.0.0.0",
    "2130706433",
    "[::2]",
    "[::ffff:127.0.0.1]",
)
MALFORMED: Final = (
    "",
    " ",
    ":8790",
    "localhost:x",
    "localhost:99999",
    "localhost:-1",
    "localhost:80:80",
    "localhost,evil.example",
    "localhost evil.example",
    "evil.example@localhost",
    "localhost@evil.example",
    "localhost/evil.example",
    "evil.example#localhost",
    "localhost?x",
    "localhost\\evil.example",
    "http://localhost",
    "::1",
    "[::1",
    "::1]",
    "[::1]evil.example",
    "evil.example[::1]",
    "[localhost]",
    "loc\talhost",
    "\tlocalhost",
    "localhost\x85",
    "\uff4cocalhost",
    "localhost\0",
    "<b>localhost</b>",
    'localhost"',
    "localhost%00",
    "localhost.",
)


def body_for(method: str) -> dict[str, Any]:
    if method in {"GET", "HEAD", "OPTIONS", "TRACE"}:
        return {}
    return {"content": b"{}", "headers": {"content-type": "application/json"}}


async def ask(api: Api, method: str, path: str, *headers: tuple[str, str | bytes]) -> Any:
    said = body_for(method)
    sent = [*said.pop("headers", {}).items(), *headers]
    return await api.ask(
        method, path, headers=[(k, v if isinstance(v, bytes) else v.encode()) for k, v in sent], **said
    )


async def test_a_host_that_is_not_ours_is_misdirected_on_every_address(sqlite_url: str) -> None:
    async with open_api(sqlite_url) as api:
        before = await dump(api.database)
        for method, path in EVERYWHERE:
            for host in ("evil.example", "localhost.evil.example:8790", ""):
                answer = await ask(api, method, path, ("host", host))
                assert answer.status_code == 421, (method, path, host)
                assert method == "HEAD" or answer.json()["code"] == "misdirected_request"
        assert await dump(api.database) == before


async def test_hosts_that_are_foreign_malformed_or_doubled_are_misdirected(sqlite_url: str) -> None:
    async with open_api(sqlite_url) as api:
        for host in (*FOREIGN, *MALFORMED):
            answer = await ask(api, "GET", "/healthz", ("host", host))
            assert answer.status_code == 421, host
            assert host.strip() not in answer.text or not host.strip(" <>:"), host
        for first, second in (
            ("localhost", "evil.example"),
            ("evil.example", "localhost"),
            ("localhost", "localhost"),
        ):
            answer = await ask(api, "GET", "/healthz", ("host", first), ("host", second))
            assert answer.status_code == 421


async def test_our_own_hosts_are_answered_on_any_port_and_in_any_case(sqlite_url: str) -> None:
    async with open_api(sqlite_url) as api:
        for host in KNOWN:
            assert (await ask(api, "GET", "/healthz", ("host", host))).status_code == 200, host
            assert (await ask(api, "GET", "/tasks", ("host", host))).status_code == 200, host


async def test_hosts_of_the_settings_are_answered_and_no_others(sqlite_url: str) -> None:
    settings = {
        "allowed_hosts": "queue.example, Other.Example,, fd00::7",
        "public_url": "https://Holdfast.Example:8443/base",
        "host": "10.1.2.3",
        "allow_insecure": True,
    }
    async with open_api(sqlite_url, **settings) as api:
        for host in (
            *KNOWN,
            "queue.example",
            "QUEUE.example:1",
            "other.example",
            "[fd00::7]:80",
            "holdfast.example:8443",
            "holdfast.example",
            "10.1.2.3:8790",
        ):
            assert (await ask(api, "GET", "/healthz", ("host", host))).status_code == 200, host
        for host in (
            *FOREIGN,
            "example",
            "a.queue.example",
            "queue.example.evil.example",
            "fd00::7",
            "10.1.2.4",
        ):
            assert (await ask(api, "GET", "/healthz", ("host", host))).status_code == 421, host


async def test_an_address_that_means_all_addresses_is_no_host_of_ours(sqlite_url: str) -> None:
    async with open_api(sqlite_url, host="0.0.0.0", allow_insecure=True) as api:
        for host in ("0.0.0.0:8790", "0", "evil.example"):
            assert (await ask(api, "GET", "/healthz", ("host", host))).status_code == 421, host


async def test_on_a_socket_a_host_that_is_missing_doubled_or_spread_is_misdirected(sqlite_url: str) -> None:
    async with open_socket(sqlite_url) as api:
        for path in ("/healthz", "/api/system/worker-pause", "/mcp", "/tasks", "/nothing"):
            for lines in (
                "",
                "Host: localhost\r\nHost: localhost\r\n",
                "Host: localhost\r\nHost: evil.example\r\n",
                "Host: evil.example\r\nX-Forwarded-Host: localhost\r\nForwarded: host=localhost\r\n",
                "Host:\r\n",
                "X-Host: localhost\r\n",
            ):
                answer = await api.exchange(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode(), "GET", path)
                assert answer.status_code == 421, (path, lines)
            answer = await api.exchange(f"GET {path} HTTP/1.0\r\n\r\n".encode(), "GET", path)
            assert answer.status_code == 421
        assert (await api.exchange(b"GET /healthz HTTP/1.1\r\nhOST: LOCALHOST\r\n\r\n")).status_code == 200


async def test_a_page_of_another_origin_is_refused_on_every_address(sqlite_url: str) -> None:
    async with open_api(sqlite_url) as api:
        before = await dump(api.database)
        for method, path in EVERYWHERE:
            for name, value in (
                ("origin", "https://evil.example"),
                ("origin", "null"),
                ("sec-fetch-site", "cross-site"),
            ):
                answer = await ask(api, method, path, (name, value))
                assert answer.status_code == 403, (method, path, value)
                assert method == "HEAD" or answer.json()["code"] == "foreign_origin"
        assert await dump(api.database) == before


async def test_only_the_origin_of_the_address_that_was_asked_is_ours(sqlite_url: str) -> None:
    async with open_api(sqlite_url, public_url="https://holdfast.example/base/") as api:

        async def status(origin: str, host: str = "localhost:8790") -> int:
            answer = await ask(api, "GET", "/healthz", ("host", host), ("origin", origin))
            return int(answer.status_code)

        for origin, host in (
            ("http://localhost:8790", "localhost:8790"),
            ("https://localhost:8790", "localhost:8790"),
            ("HTTP://LOCALHOST:8790", "localhost:8790"),
            ("http://localhost:8790", "LOCALHOST:8790"),
            ("http://localhost", "localhost"),
            ("http://localhost", "localhost:80"),
            ("https://localhost", "localhost:443"),
            ("http://[::1]:8790", "[::1]:8790"),
            ("https://holdfast.example", "localhost:8790"),
            ("https://holdfast.example:443", "holdfast.example"),
        ):
            assert await status(origin, host) == 200, (origin, host)
        for origin in (
            "http://localhost:3000",
            "http://localhost",
            "http://127.0.0.1:8790",
            "http://[::1]:8790",
            "http://holdfast.example",
            "https://holdfast.example:8443",
            "https://a.holdfast.example",
            "https://holdfast.example.evil.example",
            "file://",
            "file://localhost:8790",
            "chrome-extension://localhost:8790",
            "ws://localhost:8790",
            "localhost:8790",
            "http://localhost:8790/",
            "http://localhost:8790?x",
            "http://localhost:8790 http://evil.example",
            "http://localhost:x",
            "",
            "null",
            "NULL",
        ):
            assert await status(origin) == 403, origin
        two = [("origin", "http://127.0.0.1"), ("origin", "http://evil.example")]
        assert (await ask(api, "GET", "/healthz", *two)).status_code == 403


@pytest.mark.parametrize(
    "public_url", ["holdfast.example", "holdfast.example:8443", "//holdfast.example", "x", "ftp://a"]
)
def test_a_public_url_that_is_half_written_is_refused_at_the_start(public_url: str) -> None:
    """Else it would name no origin, and `Origin: null` names none either."""
    with pytest.raises(ConfigurationError, match="HOLDFAST_PUBLIC_URL"):
        load_settings(public_url=public_url)


async def test_what_a_browser_says_of_where_a_request_comes_from_is_heard(sqlite_url: str) -> None:
    async with open_api(sqlite_url) as api:
        for value in ("same-origin", "none", "same-site"):
            assert (await ask(api, "GET", "/healthz", ("sec-fetch-site", value))).status_code == 200, value
        for values in (["cross-site"], ["Cross-Site"], ["none, cross-site"], ["none", "cross-site"]):
            sent = [("sec-fetch-site", value) for value in values]
            assert (await ask(api, "GET", "/healthz", *sent)).status_code == 403, values


async def test_a_form_of_another_site_writes_nothing_on_any_route(sqlite_url: str) -> None:
    """As browsers send it that know neither Origin on forms nor Sec-Fetch-Site."""
    pause = {"action": "pause", "mode": "drain", "reason": "ha"}
    text = json.dumps(pause)
    forms = (
        ("application/x-www-form-urlencoded", f"{text}=".encode()),
        ("application/x-www-form-urlencoded", b"action=pause&mode=drain&reason=ha"),
        ("text/plain", text.encode()),
        ("text/plain;application/json", text.encode()),
        (
            "multipart/form-data; boundary=b",
            f'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n{text}\r\n--b--'.encode(),
        ),
        ("", text.encode()),
    )
    async with open_api(sqlite_url) as api:
        before = await dump(api.database)
        for operation in operations():
            if operation.method != "POST":
                continue
            for content_type, content in forms:
                for extra in ({}, {"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
                    answer = await api.ask(
                        "POST",
                        operation.at(JOB_ID),
                        content=content,
                        headers={"content-type": content_type, **extra},
                    )
                    # Uploads are forms. Who sends one has to know the id of a job, and who holds that.
                    is_upload = operation.id == "upload_artifact" and content_type.startswith("multipart/")
                    expected = 403 if extra else 422 if is_upload else 415
                    assert answer.status_code == expected, (operation.id, content_type)
        assert await dump(api.database) == before


async def test_no_answer_lets_another_site_read_it(sqlite_url: str) -> None:
    """The harness looks for the headers of every answer; here are the ones that must not be there."""
    async with open_api(sqlite_url) as api:
        for method, path in EVERYWHERE:
            if path == "/api/system/events":
                continue  # a stream that is answered does not end
            for headers in ([], [("host", "evil.example")], [("origin", "http://127.0.0.1")]):
                answer = await ask(api, method, path, *headers)
                assert not [name for name in answer.headers if name.startswith("access-control-")], path
                assert "set-cookie" not in answer.headers
                for name, value in SECURITY.items():
                    assert answer.headers.get_list(name) == [value]
        preflight = [("origin", "http://127.0.0.1"), ("access-control-request-method", "POST")]
        answer = await ask(api, "OPTIONS", "/api/system/worker-pause", *preflight)
        assert answer.status_code == 405


async def test_a_page_may_load_its_own_scripts_style_and_data_and_nothing_else(sqlite_url: str) -> None:
    async with open_api(sqlite_url) as api:
        for path in PAGES:
            assert _rules(await api.ask("GET", path)) == {
                "default-src": "'none'",
                "script-src": "'self'",
                "connect-src": "'self'",
                "style-src": "'self'",
                "img-src": "'self'",
                "base-uri": "'none'",
                "form-action": "'none'",
                "frame-ancestors": "'none'",
                "require-trusted-types-for": "'script'",
                "trusted-types": "'none'",
            }


async def test_what_is_no_page_may_run_no_script_at_all(sqlite_url: str) -> None:
    async with open_api(sqlite_url) as api:
        for path in (
            "/",
            "/openapi.json",
            "/nothing",
            "/tasks/nothing",
            "/api/system/worker-pause",
            "/healthz",
        ):
            rules = _rules(await api.ask("GET", path))
            assert rules["default-src"] == "'none'"
            assert rules["frame-ancestors"] == "'none'"
            assert rules["form-action"] == "'none'"
            assert rules["base-uri"] == "'none'"
            assert not {"script-src", "connect-src"} & rules.keys(), path
            assert "unsafe" not in str(rules)


async def test_an_asset_is_asked_for_each_time_and_is_the_same_while_it_has_not_changed(
    sqlite_url: str,
) -> None:
    async with open_api(sqlite_url) as api:
        for path in ("/tasks/assets/app.js", "/tasks/assets/tasks.css"):
            first = await api.ask("GET", path)
            assert first.headers["cache-control"] == "no-cache"
            again = await api.ask("GET", path, headers={"if-none-match": first.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["cache-control"] == "no-cache"
            other = await api.ask("GET", path, headers={"if-none-match": '"of another server"'})
            assert (other.status_code, other.content) == (200, first.content)
        for path in PAGES:
            assert (await api.ask("GET", path)).headers["cache-control"] == "no-store"


def _rules(answer: Any) -> dict[str, str]:
    policy = answer.headers["content-security-policy"]
    return dict(rule.strip().split(" ", 1) for rule in policy.split(";"))


async def test_on_a_socket_what_is_no_http_is_refused(sqlite_url: str) -> None:
    async with open_socket(sqlite_url) as api:
        await _is_closed(api, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100)
        await _is_closed(
            api, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
        )
        await _is_closed(
            api,
            b"POST /api/queue/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
            + b"9" * 5_000
            + b"\r\n\r\n",
        )
        assert (await api.ask("GET", "/healthz")).status_code == 200


async def _is_closed(api: Socket, request: bytes) -> None:
    with anyio.fail_after(10):
        async with await anyio.connect_tcp("127.0.0.1", api.port) as stream:
            await stream.send(request)
            answer = b""
            try:
                while True:
                    answer += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass
    assert answer.startswith(b"HTTP/1.1 400"), answer[:200]
