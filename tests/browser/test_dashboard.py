"""The dashboard as people meet it, in a real browser."""

import os
import re
import subprocess
import sys

import pytest

from tests.harnesses import MAJORITY, RAREST, WORDS
from tests.reading import writing
from tests.reading.writing import done, generation, journal, start, summary

pytestmark = pytest.mark.slow
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=document.title='taken'>"


@pytest.fixture
def runs(tmp_path, served):
    """Three finished runs; the first has changes, calls, curves and logs, all of them hostile."""
    del served
    root = tmp_path / "runs"
    for number, status in enumerate(("completed", "failed", "budget")):
        summary(root / f"run-{number}", status=status)
    one = root / "run-0"
    trained = done(3, "build", reward=[0.1, 0.4, 0.6], kl=[0, 0.1, 0.2], entropy=[1, 0.8, 0.5], algorithm={"steps": 3})
    job = ("job", {"step": "gen_2/run", "kind": "run", "job": "7", "folder": "jobs/gen_2/run"})
    journal(
        one,
        *generation(1, title=f"first {HOSTILE}"),
        start(2, "run"),
        job,
        *generation(2, "rejected", 0.4, rationale=HOSTILE),
        start(3, "propose"),
        done(3, "propose", lever="weights", algorithm="grpo", title="train", parent=1),
        trained,
        done(3, "accept", status="rejected", reason="worse"),
    )
    for n, text in ((1, "a = 1\n"), (2, f"a = 2\n# {HOSTILE}\n")):
        harness = one / f"gen_{n}" / "harness" / "target_agent.py"
        harness.parent.mkdir(parents=True)
        harness.write_text(text)
        (one / f"gen_{n}" / "stdout.log").write_text(f"{HOSTILE}\n")
    writing.scores(one, 1, {"q1": "correct", "q2": "wrong", f"q3 {HOSTILE}": "wrong"})
    writing.call(one, 1, "id-q2", HOSTILE)
    return root


def until(locator):
    from playwright.sync_api import expect

    return expect(locator)


def axe(page):
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")]


def test_the_list_is_searched_and_filtered_with_the_keyboard(page, served, runs):
    page.goto(served)
    rows = page.locator("#run-table tbody tr")
    rows.nth(2).wait_for()
    page.get_by_role("searchbox", name="Search").focus()
    page.keyboard.type("run-2")
    until(rows).to_have_count(1)
    page.get_by_role("searchbox").fill("")
    page.get_by_label("Status").select_option("failed")
    until(rows).to_have_count(1)
    link = page.get_by_role("link", name="run-1")
    link.focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", level=1, name=re.compile("run-1")).wait_for()
    assert page.evaluate("document.activeElement.id") == "main"


def test_everything_hostile_is_shown_as_text(page, served, runs):
    page.goto(f"{served}#/run/run-0")
    page.locator("#generation-table").get_by_text(HOSTILE[:30]).wait_for()
    page.locator("#log-text").get_by_text(HOSTILE[:30]).wait_for()
    page.locator("#change-of").select_option("2")
    page.locator(".diff .added").get_by_text("<script>").wait_for()
    page.get_by_role("button", name="wrong 2").click()
    question = page.locator("details", has_text="q2 · 1 calls").first
    question.locator(":scope > summary").click()
    question.locator("details > summary").click()
    question.get_by_text(f"ask {HOSTILE}").wait_for()
    assert page.title() == "run-0 · SIA Runner"
    assert page.locator("main script, main img").count() == 0


def test_a_run_shows_its_chart_curves_jobs_and_spending(page, served, runs):
    page.goto(f"{served}#/run/run-0")
    page.locator("#score-chart circle").nth(1).wait_for()
    assert page.locator("#training-body svg").count() == 3
    assert "reward by step: 0.600 at step 3" in page.locator("#training-body").inner_text()
    assert page.locator("#job-table tbody tr").count() == 1
    assert page.locator(".levers li").all_inner_texts()[2].startswith("3 weights")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("where", ["", "#/run/run-0"])
def test_axe_finds_no_serious_fault_and_nothing_is_wider_than_the_page(page, served, runs, scheme, width, where):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(served + where)
    page.locator("#answers-found details, #run-table").first.wait_for()
    page.wait_for_timeout(500)
    if folder := os.environ.get("SIA_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{'run' if where else 'list'}-{scheme}-{width}.png", full_page=True)
    assert axe(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_generations_appear_while_a_run_goes_on(page, served, tmp_path):
    harnesses = tmp_path / "harnesses"
    said = f"print({HOSTILE!r}, flush=True)\n"
    for n, text in enumerate(
        (said + MAJORITY, "import time; time.sleep(3)\n" + WORDS, "import time; time.sleep(3)\n" + RAREST), 1
    ):
        folder = harnesses / f"gen_{n}"
        folder.mkdir(parents=True)
        (folder / "target_agent.py").write_text(text)
    page.goto(served)
    page.get_by_text("There are no runs here yet").wait_for()
    command = [
        sys.executable,
        "-m",
        "sia_runner",
        "task=smoke",
        "max_gen=3",
        "meta_agent=replay",
        f"meta_agent.dir={harnesses}",
    ]
    with (tmp_path / "run.txt").open("w") as out:
        run = subprocess.Popen([*command, f"hydra.run.dir={tmp_path / 'runs' / 'live'}"], stdout=out, stderr=out)
        try:
            page.get_by_role("link", name="live").click()
            page.evaluate("window.stays = true")
            for n in (1, 2, 3):
                page.locator(f"#open-{n}").wait_for()
            page.locator("h1 .badge", has_text="completed").wait_for()
            assert run.wait(timeout=120) == 0, (tmp_path / "run.txt").read_text()
        finally:
            run.kill()
            run.wait()
    assert page.evaluate("window.stays")  # without a reload
    page.locator("#log").select_option("gen_1/stdout.log")
    page.locator("#log-text").get_by_text("<script>").wait_for()
    assert page.title() == "live · SIA Runner"
    assert page.locator("#generation-table tbody tr").count() == 3
