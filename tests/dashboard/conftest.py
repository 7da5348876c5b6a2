"""What tests of the pages share: the browser."""

from collections.abc import Generator

import pytest
from playwright.sync_api import Browser

from support.browser import chromium


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    """A browser for each file; a test has a context of its own (`looking.opened`)."""
    with chromium() as browser:
        yield browser
