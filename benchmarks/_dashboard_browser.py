"""Measures how long a page takes in a real browser until it can be used: Debian's Chromium, driven by Playwright."""

import importlib.util
import shutil
import statistics
import time

ROUNDS = 5


def shown(name: str, address: str, selector: str) -> dict[str, str]:
    """Return the seconds from requesting the address until `selector` is visible, each time in a new browser profile.

    Returns nothing where there is no browser.
    """
    if not (chromium := shutil.which("chromium")) or not importlib.util.find_spec("playwright"):
        print("no figures of a browser: needs Debian's chromium and the extra `browser`")
        return {}
    from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

    times = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(ROUNDS):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            page = context.new_page()
            began = time.perf_counter()
            page.goto(address, wait_until="commit")
            page.locator(selector).first.wait_for()
            times.append(time.perf_counter() - began)
            context.close()
        browser.close()
    first, *later = times
    return {f"{name}, first / later (s)": f"{first:.2f} / {statistics.median(later):.2f} (≤ {max(later):.2f})"}
