"""Debian's Chromium, driven by Playwright."""

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from unittest.mock import patch

import pytest
from playwright.sync_api import Browser, sync_playwright

__all__ = ["chromium"]


@contextmanager
def chromium() -> Generator[Browser]:
    """A browser without a window.

    In a short temporary folder of its own: the path of Chromium's socket has to fit into 107 bytes, which a test's
    own folder need not leave it.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("Chromium is not installed (Debian: apt install chromium)")
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="hf-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        with patch.dict(os.environ, TMPDIR=folder):
            playwright = sync_playwright().start()
        try:
            browser = playwright.chromium.launch(executable_path=program, args=arguments)
            yield browser
            browser.close()
        finally:
            playwright.stop()
