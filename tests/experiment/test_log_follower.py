"""New lines of a log are shown as they are written, with the remaining time."""

import threading

from sia_runner.experiment.terminal import follow_log, remaining_text


def appended(log, *lines):
    with log.open("a") as stream:
        stream.writelines(lines)


def test_the_newest_whole_line_is_shown_while_the_log_grows(tmp_path):
    log, shown_lines, event = tmp_path / "training.log", [], threading.Event()

    def show(line):
        shown_lines.append(line)
        event.set()

    with follow_log(log, show, every=0.01):
        appended(log, "step 1/4 · 2.0 s\n", "step 2/4 · 4.0 s\n", "step 3/")
        assert event.wait(5)
        appended(log, "4 · 6.0 s\n")
    assert (
        shown_lines[0].startswith(("step 1/4", "step 2/4")) and shown_lines[-1] == "step 3/4 · 6.0 s · about 2 s left"
    )
    assert not any(line.startswith("step 3/ ") or line == "4 · 6.0 s" for line in shown_lines)


def test_the_last_line_is_shown_even_when_nobody_looked_before(tmp_path):
    log, shown_lines = tmp_path / "training.log", []
    with follow_log(log, shown_lines.append, every=60):
        appended(log, "stopped early: the reward is gone\n")
    assert shown_lines == ["stopped early: the reward is gone"]


def test_what_an_earlier_process_wrote_is_not_shown_again(tmp_path):
    log, shown_lines = tmp_path / "training.log", []
    appended(log, "step 1/4 · 2.0 s\n")
    with follow_log(log, shown_lines.append, every=60):
        pass
    assert shown_lines == []


def test_a_stage_without_a_log_shows_nothing(tmp_path):
    shown_lines = []
    with follow_log(tmp_path / "none.log", shown_lines.append, every=0.01):
        pass
    assert shown_lines == []


def test_what_is_left_is_told_at_the_pace_so_far():
    assert remaining_text("step 3/16 · reward 0.5 · 4.5 s") == " · about 20 s left"
    assert remaining_text("step 10/40 · reward 0.5 · 600.0 s") == " · about 30 min left"
    assert remaining_text("step 16/16 · 9.0 s") == "" and remaining_text("resumed after step 2") == ""
