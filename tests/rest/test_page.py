"""The pages under /tasks as they come: how things stand, made on the server, with nothing in it that is not ours."""

import re
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from holdfast_core.errors import StoreUnavailable
from rest.harness import Api, holder, on_job, open_api

pytestmark = pytest.mark.anyio

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;{main}{0}%s"
VOID = {"meta", "link", "br", "img", "input"}


class Page(HTMLParser):
    """What a browser makes of it: elements with their attributes, and text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.inline = ""
        self.script = ""
        self.feed(html)
        self.close()
        assert not self.open, "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.script += data
        self.text += data

    @property
    def header(self) -> dict[str, str | None]:
        (found,) = [attributes for tag, attributes in self.elements if tag == "header"]
        return found


async def page_of(api: Api, status: int = 200, path: str = "/tasks") -> Page:
    answer = await api.ask("GET", path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Page(answer.text)
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert scripts == [{"type": "module", "src": "/tasks/assets/app.js"}]
    assert page.script == "", "a script within the page"
    for tag, attributes in page.elements:
        assert tag not in {"style", "img", "iframe", "object", "form", "base"}, tag
        assert not [name for name in attributes if name == "style" or name.startswith("on")], attributes
        assert not (attributes.get("href") or "").startswith(("http", "//", "javascript:", "data:"))
    return page


async def test_the_page_says_how_things_stand(database_url: str) -> None:
    async with open_api(database_url) as api:
        page = await page_of(api)
        assert "Workers: Running" in page.text
        assert page.header["class"] == "running"
        assert "Nobody has paused anything yet" in page.text
        await api.enqueue()
        await api.enqueue()
        job = await api.claimed()
        await api.pause("drain", "an upgrade")
        page = await page_of(api)
        assert "Workers: Paused (Drain)" in page.text
        assert page.header["class"] == "paused"
        assert "an upgrade" in page.text
        assert "paused by local operator since" in page.text
        assert "Safe to upgrade" not in page.text
        await api.pause("quiesce", "an upgrade")
        page = await page_of(api)
        assert "Workers: Paused (Quiesce)" in page.text
        assert "All parked" not in page.text
        await api.post(on_job(job, "heartbeat"), holder(job, leaseSeconds=60, phase="parked"))
        assert "All parked" in (await page_of(api)).text
        await api.post(on_job(job, "complete"), holder(job))
        page = await page_of(api)
        assert "Safe to upgrade" in page.text
        assert "All parked" not in page.text
        await api.resume("done")
        page = await page_of(api)
        assert "Workers: Running" in page.text
        assert "Safe to upgrade" not in page.text
        assert "resume (quiesce)" in page.text
        assert page.text.index("resume (quiesce)") < page.text.index("pause (drain)")


async def test_counts_are_those_of_the_snapshot(sqlite_url: str) -> None:
    async with open_api(sqlite_url) as api:
        for _ in range(3):
            await api.enqueue()
        await api.enqueue(runAt="2099-01-01T00:00:00Z")
        await api.claimed()
        answer = (await api.ask("GET", "/tasks")).text
        shown = dict(re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)</dd>", answer))
        metrics = (await api.get("/api/system/worker-pause"))["metrics"]
        assert shown["Running"] == str(metrics["running"]) == "1"
        assert shown["Queued"] == str(metrics["queued"]) == "2"
        assert shown["Scheduled"] == str(metrics["scheduled"]) == "1"
        assert (shown["Parked"], shown["Stale"]) == ("0", "0")


async def test_what_people_wrote_is_shown_as_text_and_nothing_in_it_hides(database_url: str) -> None:
    hidden = "a\u202eb\u0007c\u001b[31md\u200be\u2028f\u00adg\ufeffh\0i\nj"
    async with open_api(database_url) as api:
        for reason in (HOSTILE, hidden):
            await api.pause("drain", reason)
        page = await page_of(api)
        assert HOSTILE in page.text
        raw = (await api.ask("GET", "/tasks")).text
        assert HOSTILE not in raw
        for character in "\u202e\u0007\u001b\u200b\u2028\u00ad\ufeff\0":
            assert character not in raw, repr(character)
        assert r"a\u202eb\x07c\x1b[31md\u200be\u2028f\xadg\ufeffh" in page.text
        assert r"i\nj" in page.text


async def test_ordinary_letters_of_any_language_stay_as_they_are(sqlite_url: str) -> None:
    async with open_api(sqlite_url) as api:
        await api.pause("drain", "Wartung: größer, 升级, обновление, ترقية 😀")
        assert "Wartung: größer, 升级, обновление, ترقية 😀" in (await page_of(api)).text


async def test_a_store_that_is_away_is_said_and_nothing_is_guessed(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_api(sqlite_url) as api:

        async def away(*_: object) -> None:
            raise StoreUnavailable("The database <b>does</b> not answer.")

        monkeypatch.setattr(api.services.pause, "status", away)
        page = await page_of(api, 503)
        assert "Workers: Unknown" in page.text
        assert page.header["class"] == "unknown"
        assert "The database <b>does</b> not answer." in page.text
        assert "Running" not in page.text
        answer = await api.ask("GET", "/tasks")
        assert "<dd>" not in answer.text
        assert int(answer.headers["retry-after"]) >= 1


async def test_links_of_the_page_lead_somewhere(sqlite_url: str) -> None:
    async with open_api(sqlite_url) as api:
        page = await page_of(api)
        links = {attributes["href"] for tag, attributes in page.elements if attributes.get("href")}
        assert {"/tasks/jobs", "/tasks/workers", "/tasks/history", "#page"} <= links
        links.remove("#page")
        for link in links:
            assert link is not None
            assert (await api.ask("GET", link)).status_code == 200, link


async def test_every_page_says_the_state_and_which_page_it_is(sqlite_url: str) -> None:
    async with open_api(sqlite_url) as api:
        job = await api.enqueue()
        await api.pause("drain", "an upgrade")
        pages = {
            "overview": "/tasks",
            "jobs": "/tasks/jobs",
            "job": f"/tasks/jobs/{job['id']}",
            "workers": "/tasks/workers",
            "history": "/tasks/history",
        }
        for name, path in pages.items():
            page = await page_of(api, path=path)
            assert "Workers: Paused (Drain)" in page.text
            assert "an upgrade" in page.text
            assert page.header["class"] == "paused"
            (body,) = [attributes for tag, attributes in page.elements if tag == "body"]
            assert body["data-page"] == name
            assert body["data-job"] == (str(job["id"]) if name == "job" else "")
            # Without authentication nobody has a name, and everybody may do everything.
            assert body["data-user"] == ""
            assert {"toggle", "requeue", "produce"} <= set((body["data-permissions"] or "").split())
            here = [attributes["href"] for _, attributes in page.elements if "aria-current" in attributes]
            assert here == [pages["jobs" if name == "job" else name]]


@pytest.mark.parametrize(
    "given", ["%22%3E%3Cscript%3Ealert(1)%3C", "a%22b", "'", "%26quot%3B", "%24page", "7"]
)
async def test_whatever_stands_in_the_place_of_a_job_s_id_stays_text(sqlite_url: str, given: str) -> None:
    async with open_api(sqlite_url) as api:
        page = await page_of(api, path=f"/tasks/jobs/{given}")
        (body,) = [attributes for tag, attributes in page.elements if tag == "body"]
        assert (body["data-page"], body["data-job"]) == ("job", unquote(given))
        assert set(body) == {
            f"data-{name}" for name in ("page", "job", "user", "roles", "permissions", "sla")
        }


async def test_the_address_of_mcp_is_the_one_that_was_asked(sqlite_url: str) -> None:
    async with open_api(sqlite_url) as api:
        answer = await api.ask("GET", "/tasks", headers={"host": "localhost:8790"})
        assert "http://localhost:8790/mcp" in Page(answer.text).text
