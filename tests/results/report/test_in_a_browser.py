"""The page in Debian's Chromium, opened from disk: nothing is fetched or refused, nothing is wider than a phone."""

import pytest

from sia_runner.results.report.analysis import report_sections
from sia_runner.results.report.page import render_page
from tests.results.report.making import HALF, MORE, both

WIDE, PHONE = 1200, 400


@pytest.fixture(scope="module")
def address(smoke_sweep, trapped, tmp_path_factory):
    """Return the address of a page with hostile texts, refused runs, ties, differences and weights."""
    from sia_runner.results.report.runs import find_sources, read_run

    runs = [read_run(result) for result in find_sources([smoke_sweep, trapped])]
    runs += [*both(0, HALF, MORE), *both(1, HALF, HALF), *both(2, HALF, MORE[::-1])]
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page(report_sections(runs), runs, []), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(params=[("light", WIDE), ("dark", WIDE), ("dark", PHONE), ("light", PHONE)], ids=str)
def page(browser, address, request):
    """Open the page with everything unfolded. Fail if it requests anything or the browser reports anything."""
    scheme, width = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened, output, asked = context.new_page(), [], []
    opened.on("console", lambda message: output.append(message.text))
    opened.on("pageerror", lambda error: output.append(str(error)))
    opened.on("dialog", lambda dialog: output.append(dialog.message))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(address)
    for summary in opened.query_selector_all("summary"):
        summary.click()
    yield opened
    context.close()
    assert (output, asked) == ([], [address])


def test_it_is_as_wide_as_the_window_and_its_charts_have_a_size(page):
    assert page.evaluate("document.documentElement.scrollWidth") == page.viewport_size["width"]
    boxes = [chart.bounding_box() for chart in page.query_selector_all("svg[role=img]")]
    assert len(boxes) >= 8 and all(box["width"] > 200 and box["height"] > 100 for box in boxes)


def test_texts_in_a_chart_do_not_touch(page):
    """Check charts of real size: labels are positioned by arithmetic, which knows no fonts."""
    overlaps = page.evaluate(
        """[...document.querySelectorAll('svg[role=img]')].flatMap(svg => {
          const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()])
            .filter(([text]) => text);
          return boxes.flatMap(([a, p], i) => boxes.slice(i + 1)
            .filter(([, q]) => p.left < q.right - 1 && q.left < p.right - 1)
            .filter(([, q]) => p.top < q.bottom - 3 && q.top < p.bottom - 3)
            .map(([b]) => a + ' | ' + b)); })"""
    )
    assert overlaps == []


def test_axe_finds_nothing_serious(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the extra `browser` is not installed")
    result = axe.Axe().run(page).response["violations"]
    assert [
        (item["id"], item["nodes"][0]["html"][:120]) for item in result if item["impact"] in ("serious", "critical")
    ] == []
