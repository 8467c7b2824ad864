"""Keyboard, screen readers, colours, small screens, moving things."""

import os

import pytest

from sia_runner.store.lease import RunLease
from tests.browser.conftest import MISSING

expect = pytest.importorskip("playwright.sync_api", reason=MISSING).expect
pytestmark = pytest.mark.slow


def axe(page):
    package = pytest.importorskip("axe_playwright_python.sync_playwright", reason=MISSING)
    result = package.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        (item["id"], item["nodes"][0]["html"][:200]) for item in result if item["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("where", ["", "#/run/run-0"])
def test_axe_finds_no_serious_fault_and_nothing_is_wider_than_the_page(page, served, runs, scheme, width, where):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(served + where)
    if where:
        page.locator("details.question > summary").nth(1).click()
        page.locator("details.call > summary").click()
        page.locator(".message").first.wait_for()
        page.locator("#training-body svg").first.wait_for()
    page.locator("#run-table, #log-text").first.wait_for()
    if folder := os.environ.get("SIA_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{'run' if where else 'list'}-{scheme}-{width}.png", full_page=True)
    assert axe(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_empty_pages_have_no_serious_fault_either(page, served):
    page.goto(served)
    page.locator("#no-runs").wait_for()
    assert axe(page) == []
    page.goto(f"{served}#/run/nothing")
    page.get_by_role("alert").wait_for()
    assert axe(page) == []


def test_the_keyboard_reaches_everything_in_the_order_of_the_page_and_sees_where_it_is(page, served, runs):
    page.goto(f"{served}#/run/run-0")
    page.locator("details.question").first.wait_for()
    page.locator("#job-table, #log-text").first.wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.evaluate("window.before = null")
    unseen = []
    for _ in range(80):
        page.keyboard.press("Tab")
        now = page.evaluate(
            """() => {
                const now = document.activeElement;
                if (now === document.body) return null;
                const { before } = window;
                const after = !before || before.compareDocumentPosition(now) & Node.DOCUMENT_POSITION_FOLLOWING;
                window.before = now;
                const ring = getComputedStyle(now), place = now.getBoundingClientRect();
                const nav = document.querySelector("nav.parts").getBoundingClientRect();
                const covered = !now.closest("nav, header") && place.bottom <= nav.bottom && nav.top <= 0;
                const ringed = ring.outlineStyle !== "none" && parseFloat(ring.outlineWidth) >= 2;
                return { after: Boolean(after), seen: ringed && !covered, what: now.outerHTML.slice(0, 80) };
            }"""
        )
        if now is None:
            break
        assert now["after"], now["what"]
        if not now["seen"]:
            unseen.append(now["what"])
    assert now is None, "the end of the page was not reached"
    assert unseen == []


def test_the_skip_link_leads_to_the_content(page, served, runs):
    page.goto(f"{served}#/run/run-0")
    page.locator("#generation-table").wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    assert page.url.endswith("#/run/run-0")


@pytest.mark.parametrize(("motion", "moving"), [("reduce", False), ("no-preference", True)])
def test_nothing_moves_for_whom_motion_is_too_much(page, served, runs, motion, moving):
    page.emulate_media(reduced_motion=motion)
    with RunLease(runs / "run-1"):
        page.goto(served)
        expect(page.locator(".badge.is-running")).to_have_count(1)
        assert (page.evaluate("document.getAnimations().length") > 0) is moving


def test_no_state_is_told_by_colour_alone(page, served, runs):
    """Badges have words and signs of their own; what is accepted in the chart is full, what is not is hollow."""
    page.goto(f"{served}#/run/run-0")
    page.locator("#score-chart .mark").nth(1).wait_for()
    fill = "element => getComputedStyle(element).fill"
    accepted, other = page.locator(".column.accepted .mark").first, page.locator(".column.other .mark").first
    panel = page.locator(".panel").evaluate("element => getComputedStyle(element).backgroundColor")
    assert other.evaluate(fill) == panel != accepted.evaluate(fill)
    sign = "element => getComputedStyle(element, '::before').content[1]"
    signs = [page.locator(f".badge.is-{status}").first.evaluate(sign) for status in ("accepted", "rejected")]
    assert signs[0] != signs[1]
