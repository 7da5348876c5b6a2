"""What tests of the pages share: a browser page of their own, which at its end must have complained of nothing."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Request, expect

__all__ = [
    "HOSTILE",
    "LONG",
    "SHOWN_MS",
    "SIZES",
    "STATES",
    "WITHIN_SCREEN",
    "check",
    "focused",
    "opened",
    "refusals",
    "tab_to",
]

#: How long a page may take to show what has changed: it asks every few seconds.
SHOWN_MS = 10_000
#: Text that is markup, that turns the direction around, hides, ends lines and colours a terminal.
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'&amp;\u202ecba\u2066\u200b\x07\x1b[31m"
LONG = "w" * 900
WITHIN_SCREEN = "() => document.documentElement.scrollWidth <= document.documentElement.clientWidth"
RULES: Final = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SIZES: Final = ({"width": 360, "height": 740}, {"width": 1280, "height": 800})
#: What says how things stand: states, and counts.
STATES: Final = re.compile(
    r"Running|Paused|Safe to upgrade|All parked|\d+ (running|parked|stale|queued)|seen by|version \d"
)

expect.set_options(timeout=SHOWN_MS)


def refusals(*statuses: int) -> str:
    """What the browser says of an answer with such a status, which a test has called for."""
    return (
        rf"Failed to load resource: the server responded with a status of ({'|'.join(map(str, statuses))}) .*"
    )


@contextmanager
def opened(browser: Browser, url: str, *, expected: str | None = None, **options: Any) -> Generator[Page]:
    """A page in a context of its own, for the server at `url`.

    At the end of the block the browser has complained of nothing (scripts that fail, what the policy forbids, what
    cannot be loaded) but what is `expected`, a pattern; and has asked nobody else for anything.
    """
    context = browser.new_context(base_url=url, accept_downloads=True, **options)
    complaints: list[str] = []
    elsewhere: list[str] = []

    def ask(request: Request) -> None:
        if not request.url.startswith((f"{url}/", f"blob:{url}/")):
            elsewhere.append(request.url)

    context.on(
        "console", lambda line: complaints.append(line.text) if line.type in {"error", "warning"} else None
    )
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.on("request", ask)
    try:
        yield context.new_page()
        wrong = [line for line in complaints if expected is None or not re.fullmatch(expected, line)]
        assert (wrong, elsewhere) == ([], [])
    finally:
        context.close()


def check(page: Page) -> None:
    """axe-core finds nothing, narrow and wide, and the page does not scroll sideways."""
    for size in SIZES:
        page.set_viewport_size(size)  # type: ignore[arg-type]
        found = Axe().run(page, options={"runOnly": RULES})
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate(WITHIN_SCREEN), f"the page scrolls sideways at {size['width']} px"


def focused(page: Page) -> str:
    """The text or id of what has the focus, which must be seen to have it."""
    has: dict[str, Any] = page.evaluate(
        """() => {
            const one = document.activeElement;
            const style = getComputedStyle(one);
            return {
                name: one.id || one.textContent.trim(),
                seen: one.matches(":focus-visible") && style.outlineStyle !== "none"
                    && parseFloat(style.outlineWidth) >= 2,
            };
        }"""
    )
    assert has["seen"], f"nobody sees that {has['name']!r} has the focus"
    return str(has["name"])


def tab_to(page: Page, wanted: str) -> None:
    """Press Tab until it has the focus."""
    for _ in range(30):
        page.keyboard.press("Tab")
        if focused(page) == wanted:
            return
    raise AssertionError(f"Tab does not lead to {wanted!r}")
