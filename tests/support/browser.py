"""Chromium without a window: pictures of pages, and what a page is once its scripts have run."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
SECONDS = 90


def find() -> str:
    """Return the browser's path. Without one: skip; in CI: fail, for a test that is skipped there proves nothing."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None and os.environ.get("CI"):
        pytest.fail("no Chromium, and CI is set", pytrace=False)
    if found is None:
        pytest.skip("no Chromium")
    return found


def _run(profile: Path, *arguments: str) -> str:
    command = [find(), *FLAGS, f"--user-data-dir={profile}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True).stdout


def picture(url: str, path: Path, width: int, height: int, *more: str) -> tuple[int, int]:
    """Take a picture of a page into a PNG file, and return its width and height in pixels."""
    profile = path.parent / f"profile-{path.stem}"
    _run(profile, f"--window-size={width},{height}", f"--screenshot={path}", *more, url)
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    wide, tall = struct.unpack(">II", head[16:24])
    return int(wide), int(tall)


def document(url: str, profile: Path, milliseconds: int = 4000) -> str:
    """Return the page's HTML once its scripts have had so many milliseconds of the page's own time."""
    return _run(profile, f"--virtual-time-budget={milliseconds}", "--dump-dom", url)
