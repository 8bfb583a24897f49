"""A page as a browser shows it, without a window: its markup after its scripts ran, and what they said."""

import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome installed")


def opened(page: Path, tmp_path: Path, address: str = "", *flags: str) -> tuple[str, list[str]]:
    """The page's markup after its scripts ran, and what they said on the console."""
    assert BROWSER is not None
    every_time = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
        *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=5000", "--window-size=1200,900"),
        f"--user-data-dir={tmp_path / 'browser'}",
    ]
    done = subprocess.run(
        [BROWSER, *every_time, *flags, "--dump-dom", page.as_uri() + address],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
