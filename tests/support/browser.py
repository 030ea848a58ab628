"""The browser that tests look at pages with; not a test file."""

from __future__ import annotations

import os
import shutil

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_browser() -> str:
    """Path of a browser; the test is skipped, visibly, where there is none."""
    chosen = os.environ.get("MPLAT_BROWSER")
    found = chosen or next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no browser: install Chromium, or name one with MPLAT_BROWSER")
    return found
