"""`python -m tests.screenshots`: makes docs/page-*.png from a demo that has run for some minutes.

It needs Debian's Chromium, as the page's tests do, and servers and a port of its own: nothing else has to run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright
from playwright.sync_api import Error as PlaywrightError

from settings import Settings
from tests.browser import CHROMIUM

_ROOT = Path(__file__).parents[1]
_PORT = 8765
_SHOTS = (("page-light", 1280, "light"), ("page-dark", 1280, "dark"), ("page-phone", 360, "light"))
_WIDE = 1000
_HEIGHT, _PHONE_HEIGHT = 2180, 1560


def main() -> None:
    """Run a demo, and take the pictures."""
    parser = argparse.ArgumentParser(prog="python -m tests.screenshots", description=__doc__)
    parser.add_argument(
        "--minutes",
        type=float,
        default=5.5,
        metavar="M",
        help="minutes for which the demo runs before the screenshots are taken (default 5.5)",
    )
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory(prefix="tp-") as home:
        demo = subprocess.Popen(
            [sys.executable, "-m", "producer", "serve", "--demo", "--json", "--port", str(_PORT)],
            cwd=_ROOT,
            env=Settings.child_environment(DATA_DIR=home),
            stdout=subprocess.PIPE,
        )
        try:
            assert demo.stdout is not None
            _take(json.loads(demo.stdout.readline())["url"], minutes)
        finally:
            demo.terminate()
            demo.wait()


def _take(url: str, minutes: float) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        watching = _open(browser, url, 1280, "light")  # the queue has a history only while somebody looks
        watching.wait_for_timeout(minutes * 60_000)
        for name, width, scheme in _SHOTS:
            page = _open(browser, url, width, scheme)
            page.get_by_role("radio", name="Rejected").check()
            expect(page.locator("#jobs tbody tr").nth(5)).to_be_visible()
            page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
            page.wait_for_timeout(1500)
            path = _ROOT / "docs" / f"{name}.png"
            height = _PHONE_HEIGHT if width < _WIDE else _HEIGHT
            page.screenshot(path=path, full_page=True, clip={"x": 0, "y": 0, "width": width, "height": height})
            print(f"{path.relative_to(_ROOT)}: {path.stat().st_size // 1000} kB")
        browser.close()


def _open(browser: Browser, url: str, width: int, scheme: str) -> Page:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    while True:
        try:
            page.goto(url)
            break
        except PlaywrightError:  # it says its address a moment before it listens
            time.sleep(0.1)
    expect(page.locator("#link")).to_have_attribute("data-state", "live")
    return page


if __name__ == "__main__":
    main()
