"""Who may do what over REST: the wire answers what the policy table says, whoever asks for what."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from typing import Any, Final

import anyio
import httpx2
import pytest
from sqlalchemy import update

from holdfast_core.db.tables import users
from holdfast_core.db.types import Now
from holdfast_core.policy import PERMISSIONS, ROUTES, Permission, effective, may
from holdfast_core.services.logins import FRESH_SECONDS
from holdfast_core.states import Role
from rest.harness import Socket, open_api, open_socket, operations
from rest.test_bad_bodies import good_request
from support.proxy import proxy
from support.tokens import bearer, create_token, role_token

pytestmark = pytest.mark.anyio

JOB_ID: Final = "0199f0c2-8a3e-7c41-9f52-3b1d6a7e8c90"
WORKER: Final = "w-1"  # the one that the good requests name
PAUSE: Final = {"action": "pause", "mode": "drain", "reason": "a test"}
#: What is open, and answers in its own way to whom it does not know.
ENTRIES: Final = ("POST /login", "GET /login/oidc", "GET /login/oidc/callback")


def filled(path: str) -> str:
    for name in ("jobId", "artifactId", "tokenId", "job_id"):
        path = path.replace(f"{{{name}}}", JOB_ID)
    return path.replace("{worker_id}", WORKER)


def asked(route: str) -> tuple[str, str, dict[str, Any]]:
    """Method, address and the rest of a request to this route that is fine."""
    method, path = route.split(" ")
    operation = next((op for op in operations() if (op.method, op.path) == (method, path)), None)
    more = {} if operation is None else good_request(operation)
    if "body" in more:
        more = {"json": more["body"]}
    if "data" in more:
        more["data"]["workerId"] = WORKER
    if path.endswith("/wait"):
        more = {"params": {"for": "running", "timeoutSeconds": "1"}}
    return method, filled(path), more


async def status(http: httpx2.AsyncClient, route: str, headers: dict[str, str]) -> tuple[int, str]:
    """What a request to this route is answered: the status, and the code where it is refused."""
    method, path, more = asked(route)
    with anyio.fail_after(30):
        async with http.stream(method, path, headers=headers, **more) as answer:
            if "problem+json" not in answer.headers.get("content-type", ""):
                return answer.status_code, ""  # a page, or a stream that does not end
            await answer.aread()
            return answer.status_code, answer.json()["code"]


@asynccontextmanager
async def guarded(url: str, **settings: Any) -> AsyncGenerator[Socket]:
    async with open_socket(url, auth_provider="token", **settings) as api:
        yield api


@asynccontextmanager
async def plain(api: Socket) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client without the harness's check, which would read streams to their end."""
    async with httpx2.AsyncClient(base_url=api.http.base_url, timeout=30) as http:
        yield http


REST: Final = [
    route
    for route in ROUTES
    if not route.startswith(("WS ", "* ")) and route not in {*ENTRIES, "GET /", "GET /tasks/assets"}
]


@pytest.mark.requirement("SEC-01")
@pytest.mark.parametrize("role", [*Role, None], ids=str)
async def test_for_every_role_and_route_the_wire_answers_what_the_table_says(
    sqlite_url: str, role: Role | None
) -> None:
    headers = {} if role is None else bearer(await role_token(sqlite_url, role, WORKER))
    roles = frozenset() if role is None else effective({role})
    async with guarded(sqlite_url) as api, plain(api) as http:
        for route in REST:
            permission = ROUTES[route]
            found, code = await status(http, route, headers)
            if permission is Permission.OPEN:
                assert found not in {401, 403}, route
            elif role is None:
                assert found == (303 if route.startswith("GET /tasks") else 401), route
            elif may(roles, permission):
                assert found not in {401, 403}, (route, code)
            else:
                page = route.startswith("GET /tasks")
                assert (found, code) == (403, "" if page and not code else "not_allowed"), route
        async with http.stream("GET", f"/api/queue/workers/{WORKER}/connect", headers=headers) as answer:
            assert answer.status_code == (401 if role is None else 426 if role is Role.WORKER else 403)


def test_every_permission_is_somebody_s_and_each_role_holds_the_one_below_it() -> None:
    assert set(PERMISSIONS) == set(Permission)
    assert all(PERMISSIONS.values())
    ladder = [Role.VIEWER, Role.PRODUCER, Role.OPERATOR, Role.ADMIN]
    held = {role: {p for p in Permission if may(effective({role}), p)} for role in Role}
    for below, above in pairwise(ladder):
        assert held[below] < held[above]
    assert held[Role.WORKER] - held[Role.VIEWER] == {Permission.WORK}
    assert Permission.TOGGLE not in held[Role.WORKER]
    assert Permission.WORK not in held[Role.ADMIN]


def test_every_route_of_the_app_is_in_the_table_and_the_other_way_round() -> None:
    from rest.test_openapi import served_routes

    table = {route for route in ROUTES if not route.startswith(("WS ", "* "))} - {"GET /tasks/assets"}
    assert {f"{method} {path}" for method, path in served_routes()} == table


@pytest.mark.requirement("SEC-01")
@pytest.mark.parametrize("role", [Role.VIEWER, Role.PRODUCER, Role.WORKER], ids=str)
async def test_who_may_not_toggle_is_refused_and_the_attempt_is_in_the_audit_log(
    database_url: str, role: Role
) -> None:
    token = await role_token(database_url, role, WORKER)
    admin = bearer(await role_token(database_url, "admin"))
    async with open_api(database_url, auth_provider="token") as api:
        for body in (PAUSE, {"action": "resume", "reason": "mine"}):
            await api.refused(
                403, "not_allowed", "POST", "/api/system/worker-pause", body, headers=bearer(token)
            )
        log = (await api.ask("GET", "/api/system/control-events", headers=admin)).json()["items"]
        assert [(e["action"], e["outcome"], e["code"]) for e in log] == [
            ("resume", "refused", "not_allowed"),
            ("pause", "refused", "not_allowed"),
        ]
        who = (WORKER, None) if role is Role.WORKER else (str(role), str(token.user_id))
        assert {(e["actor"], e["actorUserId"]) for e in log} == {who}
        system = (await api.ask("GET", "/api/system/worker-pause", headers=admin)).json()["system"]
        assert (system["workersPaused"], system["version"]) == (False, 1)


async def test_the_audit_log_names_the_person_behind_a_token_and_one_id_for_all_their_tokens(
    database_url: str,
) -> None:
    laptop = await create_token(database_url, role="operator", user="ana", name="laptop")
    phone = await create_token(database_url, role="operator", user="ana", name="phone")
    assert laptop.user_id == phone.user_id
    async with open_api(database_url, auth_provider="token") as api:
        paused = await api.ask("POST", "/api/system/worker-pause", PAUSE, headers=bearer(laptop))
        resumed = await api.ask(
            "POST", "/api/system/worker-pause", {"action": "resume", "reason": "done"}, headers=bearer(phone)
        )
    for answer in (paused, resumed):
        system = answer.json()["system"]
        assert (system["requestedBy"], system["requestedByUserId"]) == ("ana", str(laptop.user_id))


async def test_a_worker_s_token_binds_its_id_types_and_capabilities(database_url: str) -> None:
    token = bearer(await create_token(database_url, workerId="w-1", types=["a", "b"], capabilities=["gpu"]))
    producer = bearer(await role_token(database_url, "producer"))
    claim = {"workerId": "w-1", "leaseSeconds": 60}
    async with open_api(database_url, auth_provider="token") as api:
        for job_type in ("c", "b"):
            await api.ask("POST", "/api/queue/jobs", {"type": job_type}, headers=producer)
        for beyond in (
            {"workerId": "w-2"},
            {"allowedTypes": ["a", "c"]},
            {"workerCapabilities": ["gpu", "root"]},
        ):
            problem = await api.refused(
                403, "not_allowed", "POST", "/api/queue/jobs/claim", {**claim, **beyond}, headers=token
            )
            assert "bound to" in problem["detail"]
        # Of no types named, the token's: the job of another type, though older, is not for it.
        answer = await api.ask("POST", "/api/queue/jobs/claim", claim, headers=token)
        job = answer.json()["job"]
        assert job["type"] == "b"
        empty = await api.ask("POST", "/api/queue/jobs/claim", claim, headers=token)
        assert empty.json()["job"] is None
        for verb, more in (
            ("heartbeat", {"leaseSeconds": 60}),
            ("complete", {}),
            ("fail", {"errorMessage": "x"}),
            ("release", {"leaseToken": job["leaseToken"]}),
            ("cancel/ack", {}),
            ("events", {"level": "info", "message": "m"}),
        ):
            path = f"/api/queue/jobs/{job['id']}/{verb}"
            await api.refused(403, "not_allowed", "POST", path, {"workerId": "w-2", **more}, headers=token)
        for body in ({"workerId": "w-2"}, {"workerId": "w-1", "types": ["c"]}):
            said = {"autoEnabled": True, **body}
            await api.refused(403, "not_allowed", "POST", "/api/queue/workers/heartbeat", said, headers=token)
        done = await api.ask(
            "POST",
            f"/api/queue/jobs/{job['id']}/complete",
            {"workerId": "w-1", "leaseToken": job["leaseToken"]},
            headers=token,
        )
        assert done.json()["status"] == "succeeded"


async def test_a_worker_sees_its_own_jobs_and_no_others(sqlite_url: str) -> None:
    mine = bearer(await create_token(sqlite_url, workerId="w-1"))
    theirs = bearer(await create_token(sqlite_url, workerId="w-2"))
    producer = bearer(await role_token(sqlite_url, "producer"))
    async with open_api(sqlite_url, auth_provider="token") as api:
        for _ in range(3):
            await api.ask("POST", "/api/queue/jobs", {"type": "t"}, headers=producer)
        claim = {"workerId": "w-1", "leaseSeconds": 60}
        job = (await api.ask("POST", "/api/queue/jobs/claim", claim, headers=mine)).json()["job"]
        path = f"/api/queue/jobs/{job['id']}"
        assert (await api.ask("GET", path, headers=mine)).json()["id"] == job["id"]
        await api.refused(404, "job_not_found", "GET", path, headers=theirs)
        listed = (await api.ask("GET", "/api/queue/jobs", headers=mine)).json()["items"]
        assert [one["id"] for one in listed] == [job["id"]]
        assert (await api.ask("GET", "/api/queue/jobs", headers=theirs)).json()["items"] == []
        await api.refused(403, "not_allowed", "GET", "/api/queue/jobs?claimedBy=w-1", headers=theirs)


async def test_the_worker_header_counts_under_the_queue_alone_and_for_workers_alone(sqlite_url: str) -> None:
    worker = await create_token(sqlite_url, workerId="w-1")
    viewer = await role_token(sqlite_url, "viewer")
    claim = {"workerId": "w-1", "leaseSeconds": 60}
    header = {"X-MoonMind-Worker-Token": worker.token}
    async with open_api(sqlite_url, auth_provider="token") as api:
        answer = await api.ask("POST", "/api/queue/jobs/claim", claim, headers=header)
        assert answer.status_code == 200
        await api.refused(401, "not_authenticated", "GET", "/api/system/worker-pause", headers=header)
        await api.refused(
            401,
            "not_authenticated",
            "GET",
            "/api/queue/jobs",
            headers={"X-MoonMind-Worker-Token": viewer.token},
        )
        both = header | bearer(worker)
        assert (await api.ask("POST", "/api/queue/jobs/claim", claim, headers=both)).status_code == 200
        for other in (header | bearer(viewer), header | {"Cookie": f"holdfast={viewer.token}"}):
            await api.refused(401, "not_authenticated", "POST", "/api/queue/jobs/claim", claim, headers=other)


async def test_what_is_no_credential_of_ours_is_401_and_says_how_to_come_in(sqlite_url: str) -> None:
    good = (await role_token(sqlite_url, "admin")).token
    revoked = await role_token(sqlite_url, "viewer")
    prefix, token_id, secret = good.split("_", 2)
    flipped = "A" if secret[0] != "A" else "B"
    wrong = [
        "",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        f"Basic {good}",
        good,
        f"Bearer {good} {good}",
        f"Bearer {good}x",
        f"Bearer {good[:-1]}",
        f"Bearer {prefix}_{token_id}_{flipped}{secret[1:]}",
        f"Bearer hfw_{token_id}_{secret}",
        f"Bearer hfs_{token_id}_{secret}",
        f"Bearer {prefix}_{'0' * 32}_{secret}",
        f"Bearer {good.upper()}",
        f"Bearer {prefix}_{token_id}_{'é' * 43}",
        "Bearer a.b.c",
        "Bearer eyJhbGciOiJub25lIn0.eyJyb2xlcyI6WyJhZG1pbiJdfQ.",
        "Bearer " + "x" * 20_000,
        "Bearer '; DROP TABLE users; --",
        "Bearer \x00",
    ]
    async with open_api(sqlite_url, auth_provider="token") as api:
        path = "/api/system/worker-pause"
        assert (await api.ask("GET", path, headers={"Authorization": f"Bearer {good}"})).status_code == 200
        await api.ask("DELETE", f"/api/tokens/{revoked.id}", headers={"Authorization": f"Bearer {good}"})
        for text in [*wrong, f"Bearer {revoked.token}"]:
            headers = [("Authorization", text.encode())]
            answer = await api.http.request("GET", path, headers=headers)  # type: ignore[arg-type]
            assert answer.status_code in {401, 429}, text
            if answer.status_code == 401:
                assert answer.headers["www-authenticate"].startswith("Bearer ")
                assert secret not in answer.text
        # Who guesses holds nobody up who is known.
        assert (await api.ask("GET", path, headers={"Authorization": f"Bearer {good}"})).status_code == 200


async def test_guessing_from_one_address_is_slowed_down(sqlite_url: str) -> None:
    late = await role_token(sqlite_url, "viewer")
    async with open_api(sqlite_url, auth_provider="token") as api:
        found = []
        for number in range(25):
            answer = await api.ask(
                "POST", "/login", {"token": f"guess-{number}"}, headers={"Origin": "http://127.0.0.1"}
            )
            found.append(answer.status_code)
        assert found[0] == 401
        assert found[-1] == 429
        answer = await api.ask("GET", "/api/session", headers=bearer(late))
        assert answer.status_code == 429  # not known here yet, so it might be one more guess
        assert int(answer.headers["retry-after"]) >= 1


async def test_one_caller_s_haste_is_refused_and_another_s_requests_go_on(sqlite_url: str) -> None:
    hasty, other = await role_token(sqlite_url, "viewer"), await role_token(sqlite_url, "operator")
    async with open_api(sqlite_url, auth_provider="token", rate_limit_per_second=3) as api:
        answers = [await api.ask("GET", "/api/session", headers=bearer(hasty)) for _ in range(30)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert answers[0].status_code == 200
        assert refused
        assert refused[0].json()["code"] == "too_many_requests"
        assert (await api.ask("GET", "/api/session", headers=bearer(other))).status_code == 200


async def test_one_caller_s_open_requests_are_bounded(sqlite_url: str) -> None:
    token = bearer(await role_token(sqlite_url, "viewer"))
    other = bearer(await role_token(sqlite_url, "operator"))
    async with guarded(sqlite_url, max_connections_per_caller=2) as api, plain(api) as http:
        async with AsyncExitStack() as streams:
            for _ in range(2):
                answer = await streams.enter_async_context(
                    http.stream("GET", "/api/system/events", headers=token)
                )
                assert answer.status_code == 200
            assert (await http.get("/api/session", headers=token)).status_code == 429
            assert (await http.get("/api/session", headers=other)).status_code == 200
        with anyio.fail_after(10):
            while (await http.get("/api/session", headers=token)).status_code != 200:
                await anyio.sleep(0.05)


async def test_headers_beyond_all_measure_are_431(sqlite_url: str) -> None:
    async with open_api(sqlite_url) as api:
        for headers in ({f"x-{n}": "1" for n in range(120)}, {"x-large": "x" * 40_000}):
            await api.refused(431, "headers_too_large", "GET", "/api/system/worker-pause", headers=headers)


async def test_a_cookie_acts_only_for_our_own_pages(sqlite_url: str) -> None:
    token = await role_token(sqlite_url, "operator")
    async with open_api(sqlite_url, auth_provider="token") as api:
        answer = await api.ask("POST", "/login", {"token": token.token})
        cookie = answer.headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
        assert "Domain" not in cookie
        assert (await api.ask("GET", "/api/session")).json()["name"] == "operator"
        path = "/api/system/worker-pause"
        await api.refused(403, "foreign_origin", "POST", path, PAUSE)
        for origin in ("https://evil.example", "http://127.0.0.1:1", "http://localhost", "null"):
            await api.refused(403, "foreign_origin", "POST", path, PAUSE, headers={"Origin": origin})
        for site in ("cross-site", "same-site", "none"):
            await api.refused(403, "foreign_origin", "POST", path, PAUSE, headers={"Sec-Fetch-Site": site})
        form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": "http://127.0.0.1"}
        answer = await api.ask("POST", path, headers=form, content=b"action=pause&mode=drain&reason=x")
        assert answer.status_code == 415
        rebound = {"Host": "evil.example", "Origin": "http://evil.example"}
        await api.refused(421, "misdirected_request", "POST", path, PAUSE, headers=rebound)
        assert (await api.ask("GET", path)).json()["system"]["version"] == 1
        good = await api.ask("POST", path, PAUSE, headers={"Origin": "http://127.0.0.1"})
        assert good.json()["system"]["requestedBy"] == "operator"


async def test_by_https_the_cookie_is_secure_and_no_other_host_of_the_domain_can_set_it(
    sqlite_url: str,
) -> None:
    token = await role_token(sqlite_url, "viewer")
    settings = {"auth_provider": "token", "public_url": "https://holdfast.example.org"}
    async with open_api(sqlite_url, **settings) as api:
        answer = await api.ask("POST", "/login", {"token": token.token})
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-holdfast=")
        assert "Secure" in {part.strip() for part in cookie.split(";")}


async def test_a_worker_s_token_is_no_way_into_the_dashboard(sqlite_url: str) -> None:
    worker = await create_token(sqlite_url, workerId="w-1")
    async with open_api(sqlite_url, auth_provider="token") as api:
        await api.refused(403, "not_allowed", "POST", "/login", {"token": worker.token})
        assert (await api.ask("GET", "/tasks", headers=bearer(worker))).status_code == 403


async def test_a_token_s_value_is_shown_once_and_kept_nowhere(
    database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    admin = bearer(await role_token(database_url, "admin"))
    async with open_api(database_url, auth_provider="token") as api:
        made = await api.ask("POST", "/api/tokens", {"role": "viewer", "user": "vic"}, headers=admin)
        value = made.json()["token"]
        worker = await api.ask("POST", "/api/queue/worker-tokens", {"workerId": "w-9"}, headers=admin)
        listed = await api.ask("GET", "/api/tokens", headers=admin)
        workers = await api.ask("GET", "/api/queue/worker-tokens", headers=admin)
        assert [one["workerId"] for one in workers.json()["items"]] == ["w-9"]
        assert {one["id"] for one in listed.json()["items"]} >= {made.json()["id"], worker.json()["id"]}
        from rest.harness import dump

        kept = repr(await dump(api.database))
        for secret in (value, worker.json()["token"]):
            assert secret.partition("_")[2][:20] not in kept + listed.text + workers.text
        await api.refused(
            404, "token_not_found", "DELETE", f"/api/queue/worker-tokens/{made.json()['id']}", headers=admin
        )
        assert (await api.ask("GET", "/api/session", headers=bearer(value))).json()["name"] == "vic"
    said = "".join(capsys.readouterr())
    assert value[-20:] not in said


async def test_an_ill_made_token_request_is_refused_in_words(sqlite_url: str) -> None:
    admin = bearer(await role_token(sqlite_url, "admin"))
    async with open_api(sqlite_url, auth_provider="token") as api:
        for body in (
            {},
            {"role": "worker", "user": "x"},
            {"role": "root", "user": "x"},
            {"role": "viewer"},
            {"role": "viewer", "user": "x", "workerId": "w"},
            {"role": "viewer", "user": "x", "types": ["a"]},
            {"workerId": "w", "user": "x"},
            {"role": "viewer", "user": ""},
            {"role": "viewer", "user": "x", "expiresInSeconds": 0},
        ):
            await api.refused(422, "invalid_request", "POST", "/api/tokens", body, headers=admin)


async def test_a_disabled_user_s_tokens_and_sessions_are_refused(database_url: str) -> None:
    token = await role_token(database_url, "operator")
    async with open_api(database_url, auth_provider="token") as api:
        await api.ask("POST", "/login", {"token": token.token})
        assert (await api.ask("GET", "/api/session")).status_code == 200
        disable = update(users).where(users.c.id == token.user_id).values(disabled_at=Now())
        await api.database.write(lambda c: c.execute(disable))
        await api.services.logins.refresh()
        assert (await api.ask("GET", "/api/session")).status_code == 401
        api.http.cookies.clear()
        await api.refused(401, "not_authenticated", "GET", "/api/session", headers=bearer(token))


async def test_while_the_database_is_away_a_known_worker_is_told_that_the_system_is_paused(
    postgres_database_url: str,
) -> None:
    worker = bearer(await create_token(postgres_database_url, workerId="w-1"))
    stranger = bearer(await create_token(postgres_database_url, workerId="w-2"))
    operator = bearer(await role_token(postgres_database_url, "operator"))
    claim = {"workerId": "w-1", "leaseSeconds": 60}
    async with proxy(postgres_database_url) as way, open_api(way.url, auth_provider="token") as api:
        paused = (await api.ask("POST", "/api/system/worker-pause", PAUSE, headers=operator)).json()
        assert (await api.ask("POST", "/api/queue/jobs/claim", claim, headers=worker)).status_code == 200
        await way.cut()
        for login in api.services.logins._known.values():
            login.checked_at -= FRESH_SECONDS  # so it is looked up anew
        answer = await api.ask("POST", "/api/queue/jobs/claim", claim, headers=worker)
        assert answer.json() == {"job": None, "system": paused["system"]}
        unknown = {**claim, "workerId": "w-2"}
        await api.refused(
            503, "store_unavailable", "POST", "/api/queue/jobs/claim", unknown, headers=stranger
        )
        await way.restore()


async def test_a_link_from_elsewhere_leads_to_our_pages_and_to_nothing_else(sqlite_url: str) -> None:
    token = await role_token(sqlite_url, "viewer")
    visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    async with open_api(sqlite_url, auth_provider="token") as api:
        # Without the cookie, which browsers keep back: our page then asks once more, and so brings it.
        answer = await api.ask("GET", "/tasks/jobs?type=a%22b", headers=visit)
        assert answer.status_code == 200
        assert 'content="0;url=/tasks/jobs?type=a%22b"' in answer.text
        assert "Workers" not in answer.text
        assert (await api.ask("GET", "/login", headers=visit)).status_code == 200
        await api.ask("POST", "/login", {"token": token.token})
        page = await api.ask("GET", "/tasks", headers={**visit, "Sec-Fetch-Site": "same-origin"})
        assert "Workers: Running" in page.text
        for path in ("/api/session", "/api/system/events", "/metrics", "/mcp", "/openapi.json"):
            await api.refused(403, "foreign_origin", "GET", path, headers=visit)
        for other in (
            {"Sec-Fetch-Dest": "iframe"},
            {"Sec-Fetch-Mode": "no-cors"},
            {"Sec-Fetch-Mode": "cors"},
        ):
            await api.refused(403, "foreign_origin", "GET", "/tasks", headers=visit | other)
        await api.refused(403, "foreign_origin", "POST", "/login", {"token": token.token}, headers=visit)


@pytest.mark.parametrize("trusted", ["127.0.0.1", "127.0.0.0/8", "10.1.2.3", ""])
async def test_what_a_proxy_says_counts_from_those_that_are_trusted_alone(
    sqlite_url: str, trusted: str
) -> None:
    token = await role_token(sqlite_url, "viewer")
    counts = trusted.startswith("127.")
    async with open_api(sqlite_url, auth_provider="token", trusted_proxies=trusted) as api:
        for number in range(25):  # all from one address, as the proxy has it
            guess = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}
            await api.ask("POST", "/login", {"token": f"guess-{number}"}, headers=guess)
        another = {"X-Forwarded-For": "192.0.2.2", "X-Forwarded-Proto": "https"}
        answer = await api.ask("POST", "/login", {"token": token.token}, headers=another)
        assert answer.status_code == (200 if counts else 429)
        if counts:
            assert answer.headers["set-cookie"].startswith("__Host-holdfast=")
