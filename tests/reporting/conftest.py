import re
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture
def screenshot(tmp_path):
    """Function that opens a page in headless Chromium: (page, picture, width, *flags) -> URLs.

    What the browser asks its maker's hosts for on its own account is not among the URLs.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"needs a browser to open the page in: {' or '.join(BROWSERS)}")

    def open_page(page: Path, picture: Path, width: int, *flags: str) -> set[str]:
        net_log = tmp_path / f"{picture.stem}.netlog.json"
        command = [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--hide-scrollbars",
            f"--user-data-dir={tmp_path / picture.stem}",
            f"--log-net-log={net_log}",
            f"--window-size={width},2400",
            f"--screenshot={picture}",
            *flags,
            page.as_uri(),
        ]
        subprocess.run(command, capture_output=True, timeout=120, check=True)
        log = net_log.read_text(errors="replace")
        urls = set(re.findall(r'"url":"(https?://[^"]+)"', log))
        return {u for u in urls if not re.match(r"https?://[^/]*(google|gstatic|gvt1)", u)}

    return open_page
