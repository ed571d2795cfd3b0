"""Take a screenshot of a report page.

    python scripts/screenshot_report.py runs/<id>/report.html -o docs/images/report.png

Needs Debian's `chromium` and Python's `playwright` (in the `test` extra). Uses no network.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from playwright.sync_api import sync_playwright

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--force-color-profile=srgb",
)  # fmt: skip


def screenshot(page: Path, picture: Path, options: argparse.Namespace) -> None:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=options.browser, args=list(FLAGS))
        context = browser.new_context(
            offline=True,
            viewport={"width": options.width, "height": options.height},
            color_scheme="dark" if options.dark else "light",
        )
        tab = context.new_page()
        tab.goto(page.resolve().as_uri())
        if options.at:
            tab.locator(options.at).scroll_into_view_if_needed()
            tab.locator(options.at).evaluate("element => element.scrollIntoView()")
        tab.screenshot(path=picture, full_page=options.whole)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("docs/images/report.png"))
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=1400)
    parser.add_argument("--whole", action="store_true", help="the full page")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--at", help="scroll to this selector first, e.g. '#pictures'")
    parser.add_argument("--browser", default="/usr/bin/chromium")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    screenshot(options.page, options.out, options)


if __name__ == "__main__":
    main()
