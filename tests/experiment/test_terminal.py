"""The terminal output of a weights update, during it and afterwards, and of a plan that waits."""

import io
import threading
from pathlib import Path

from rich.console import Console

from sia_runner.experiment.summary import context_markdown, update_line
from sia_runner.experiment.terminal import Display, closing_lines, sandbox_lines, wide_console
from sia_runner.store.generations import GenerationRecord

UPDATE = {
    "fault": "",
    "algorithm": {"steps": 16},
    "steps": 12,
    "reward": [0.25, 0.5, 0.75],
    "kl": [0.0, 0.2, 1.25],
    "entropy": [0.9, 0.5, 0.3],
    "stopped": "",
    "tokens": 4096,
    "seconds": 31.2,
}
LINE = "12 of 16 steps, reward 0.250 -> 0.750, KL 1.250, entropy 0.300, 4,096 tokens, 31.2 s"


def generation(**build):
    steps = {
        "propose": {"lever": "weights", "title": "grpo on rollouts", "algorithm": "grpo", "parent": 1, "notes": {}},
        "build": {**UPDATE, **build},
        "accept": {"status": "rejected", "reason": "worse"},
    }
    return GenerationRecord.of(2, steps, {"build": 31.0})


def summary(**changes):
    of = {
        "run": "r",
        "task": "t",
        "mode": "SIA-W+H",
        "status": "interrupted",
        "metric": {"name": "accuracy"},
        "selected_on_test": False,
        "generations": [],
        "best": None,
        "stopped": None,
        "waits": None,
        "usage": {"calls": 0},
    }
    return of | changes


def test_a_log_file_gets_the_newest_step_of_the_training_as_a_line(tmp_path):
    printed = io.StringIO()
    display = Display(3, Console(file=printed, width=160, highlight=False))
    log = tmp_path / "training.log"
    display.show_stage("build", "generation 2 of 3")
    with display.following(log):
        log.write_text("step 1/4 · reward 0.5 · 2.0 s\nstep 2/4 · reward [0.6] · 4.0 s\n")
    last = printed.getvalue().splitlines()[-1]
    assert last == "generation 2 of 3 · build · step 2/4 · reward [0.6] · 4.0 s · about 4 s left"


def test_on_a_terminal_a_training_has_a_bar_of_its_own_while_it_runs(tmp_path):
    printed = io.StringIO()
    with Display(3, Console(file=printed, width=160, force_terminal=True)) as display:
        display.show_stage("build", "generation 2 of 3")
        with display.following(tmp_path / "training.log"):
            (tmp_path / "training.log").write_text("step 3/16 · reward 0.5 · 3.0 s\n")
            event = threading.Event()
            while "3/16 " not in printed.getvalue() and not event.wait(0.05):
                pass
        assert "reward 0.5 · 3.0 s · about 13 s left" in printed.getvalue()


def test_what_was_spent_so_far_is_a_line_where_it_changed():
    printed = io.StringIO()
    display = Display(3, Console(file=printed, width=160, highlight=False))
    for cost in ("", "$0.10 of $1.00", "$0.10 of $1.00", "$0.20 of $1.00"):
        display.show_cost(cost)
    assert printed.getvalue().splitlines() == ["  so far: $0.10 of $1.00", "  so far: $0.20 of $1.00"]


def test_a_judged_generation_shows_what_its_update_did():
    printed = io.StringIO()
    Display(3, Console(file=printed, width=160, highlight=False)).show_generation(generation(), [])
    assert printed.getvalue().splitlines()[1] == f"  update: {LINE}"


def test_the_curves_of_an_update_are_in_the_summary_and_its_figures_in_the_story():
    row = generation().summary_row()
    assert row["training"] == {key: UPDATE[key] for key in UPDATE if key not in ("fault", "algorithm")} | {"asked": 16}
    story = context_markdown(summary(generations=[row]))
    assert f"- update: grpo, {LINE}; adapter gen_2/adapter" in story


def test_an_early_stop_is_told_and_a_harness_edit_has_no_update():
    assert update_line(generation(stopped="kl above 10").training) == f"{LINE}; stopped early: kl above 10"
    assert GenerationRecord.of(1, {"build": {"fault": "", "sha256": "s"}}, {}).training is None
    assert GenerationRecord.of(1, {"build": {"fault": "grpo: no reward"}}, {}).training is None


def test_why_the_weights_were_never_trained_is_said_at_the_end_and_in_the_story():
    idle = summary(status="completed", untrained="generation 3: no call of a model")
    line = "the weights were never trained: generation 3: no call of a model"
    assert line in closing_lines(idle, Path("/r")) and line in context_markdown(idle).replace("The", "the")


def test_a_waiting_run_says_what_it_waits_for_and_an_interrupted_one_how_to_resume():
    assert closing_lines(summary(), Path("/r"))[-1] == "to continue:   python -m sia_runner resume=/r"
    *_, waits, approve, reject = closing_lines(summary(waits=2), Path("/r"))
    assert waits == "generation 2 waits for approval: /r/gen_2/plan.md"
    assert approve == "to approve:    python -m sia_runner approve /r"
    assert reject == 'to reject:     python -m sia_runner approve /r --reject "why"'


def test_a_narrow_terminal_gets_one_line_for_each_generation():
    score = {"value": 0.975, "ci95": [0.929, 0.991], "n": 120}
    rows = [generation().summary_row() | {"n": n, "val": score, "reason": "much " * 40} for n in (1, 2, 3)]
    printed = io.StringIO()
    result = summary(status="completed", generations=rows)
    Display(3, Console(file=printed, width=80, highlight=False)).show_summary(result, Path("/r"))
    table = [line for line in printed.getvalue().splitlines() if "0.975 [0.929, 0.991]" in line]
    assert len(table) == 3 and all(len(line) <= 80 and line.rstrip().endswith("…") for line in table)


def test_columns_counts_where_the_output_is_a_file(monkeypatch):
    monkeypatch.setenv("COLUMNS", "77")
    assert wide_console(160).width == 77
    monkeypatch.delenv("COLUMNS")
    assert wide_console(160).width == 160


def test_a_sandbox_that_shares_only_the_kernel_is_named_calmly_and_each_other_gap_has_a_line():
    kernel, limits = "A hole in the kernel itself is a way out: x.", "No cgroup can be made here."
    assert len(sandbox_lines("bubblewrap", [kernel])) == 1
    assert kernel not in sandbox_lines("bubblewrap", [kernel])[0]
    assert [line.strip() for line in sandbox_lines("bubblewrap", [kernel, limits])[1:]] == [kernel, limits]
