"""What the pages made on the server share: their templates, what they may load, and text in which nothing hides."""

from html import escape
from pathlib import Path
from string import Template
from typing import Final

from starlette.responses import HTMLResponse

__all__ = ["PAGE_POLICY", "STATIC", "template", "text", "told"]

STATIC: Final = Path(__file__).parent / "static"
#: Only our own scripts and data, and no script may make HTML of text.
PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


def template(name: str) -> Template:
    """One of our own files of HTML; what is put into it is HTML, too, so text goes through `text` first."""
    return Template((STATIC / name).read_text("utf-8"))


def text(words: str) -> str:
    """Text as HTML, between tags and in attributes alike: control characters as escapes, so that nothing hides."""
    return escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words))


_TOLD: Final = template("told.html")


def told(
    title: str, words: str, *, href: str, way: str, status: int = 200, at_once: bool = False
) -> HTMLResponse:
    """A page that says one thing and has one way on; `at_once`: the browser takes it by itself. It is our page that
    then asks for the next one, so the session's cookie comes along, which no other site's link brings."""
    head = f'<meta http-equiv="refresh" content="0;url={text(href)}">\n' if at_once else ""
    filled = _TOLD.substitute(title=text(title), words=text(words), href=text(href), way=text(way), head=head)
    return HTMLResponse(filled, status)
