"""The dashboard as people meet it, in a real browser: finished runs."""

import re

import pytest

from tests.browser.conftest import HOSTILE, MISSING, serving

expect = pytest.importorskip("playwright.sync_api", reason=MISSING).expect
pytestmark = pytest.mark.slow


def test_the_list_is_searched_and_filtered_with_the_keyboard(page, served, runs):
    page.goto(served)
    rows = page.locator("#run-table tbody tr")
    rows.nth(2).wait_for()
    page.get_by_role("searchbox", name="Search").focus()
    page.keyboard.type("run-2")
    expect(rows).to_have_count(1)
    page.get_by_role("searchbox").fill("")
    page.get_by_label("Status").select_option("failed")
    expect(rows).to_have_count(1)
    link = page.get_by_role("link", name="run-1")
    link.focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", level=1, name=re.compile("run-1")).wait_for()
    assert page.evaluate("document.activeElement.id") == "main"
    page.go_back()  # to the same list
    expect(rows).to_have_count(1)
    expect(page.get_by_label("Status")).to_have_value("failed")


def test_everything_hostile_is_shown_as_text(page, served, runs):
    page.goto(f"{served}#/run/run-0")
    page.locator("#generation-table").get_by_text(HOSTILE[:30]).wait_for()
    page.locator("#log-text").get_by_text(HOSTILE[:30]).wait_for()
    page.locator("#change-of").select_option("2")
    page.locator(".diff .added").get_by_text("<script>").wait_for()
    page.get_by_role("button", name="wrong 2").click()
    question = page.locator("details.question", has_text="q2")
    question.locator(":scope > summary").click()
    question.locator("details > summary").click()
    question.get_by_text(f"ask {HOSTILE}").wait_for()
    assert page.title() == "run-0 · SIA Runner"
    assert page.locator("main script, main img").count() == 0


def test_a_run_shows_its_chart_levers_curves_and_jobs(page, served, runs):
    page.goto(f"{served}#/run/run-0")
    page.locator("#score-chart .mark").nth(1).wait_for()
    assert page.locator("#score-chart .pulled.harness").count() == 2
    assert page.locator("#score-chart .pulled.weights.other").count() == 1
    expect(page.locator("#training-body svg")).to_have_count(5)
    expect(page.locator("#training-body")).to_contain_text(re.compile(r"Reward\s*0.600 at step 3"))
    expect(page.locator("#training-body")).to_contain_text(re.compile(r"Drift: KL.*1.0e−4 at step 3.*0.030 at step 3"))
    expect(page.locator("#job-table tbody tr")).to_have_count(1)
    expect(page.locator("nav.parts [aria-current]")).to_have_text("Overview")
    page.get_by_role("link", name="Training").click()
    expect(page.locator("nav.parts [aria-current]")).to_have_text("Training")
    assert page.evaluate("document.activeElement.id") == "training-name"


def test_the_policy_stops_scripts_and_markup_that_got_into_the_page_all_the_same(browser, served, runs):
    context = browser.new_context()
    page = context.new_page()
    page.goto(served)
    refused = page.evaluate(
        """async () => {
            const refused = [];
            document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
            const script = document.createElement("script");
            try { script.text = "window.taken = true"; } catch (error) { refused.push(error.name); }
            try { document.body.innerHTML = "<b>x</b>"; } catch (error) { refused.push(error.name); }
            const picture = document.createElement("img");
            picture.src = "http://127.0.0.2:9/x.png";
            document.body.append(script, picture);
            await fetch("http://127.0.0.2:9/x").catch((error) => refused.push("fetch"));
            await new Promise((done) => setTimeout(done, 300));
            return refused;
        }"""
    )
    assert {"TypeError", "require-trusted-types-for", "img-src", "connect-src", "fetch"} <= set(refused)
    assert page.evaluate("window.taken") is None
    context.close()


def test_on_another_address_nothing_is_shown_without_the_token(page, tmp_path):
    (tmp_path / "runs").mkdir()
    with serving(tmp_path / "runs", tmp_path / "said", "host=0.0.0.0") as printed:
        address = printed.replace("0.0.0.0", "127.0.0.1")
        answer = page.goto(address.partition("?")[0])
        assert answer.status == 401
        assert "SIA Runner" not in page.content()
        page.goto(address)
        page.get_by_text("There are no runs here yet").wait_for()
        assert "token" not in page.url
        assert page.evaluate("document.cookie") == ""  # no script can read it
