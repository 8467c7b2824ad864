"""The weights lever in a language model's hands: it measures, chooses, and is held to what is possible."""

from dataclasses import replace

import pytest

from sia_runner.records import Lever, PastGeneration, Trial
from tests.proposers.llm.scripted import (
    ENTRY,
    PARENT,
    REWARDS,
    SETTINGS,
    SUBMIT,
    WEIGHTS,
    Bench,
    evidence,
    later,
    propose,
    said,
)

EDIT = ("edit_file", {"path": f"harness/{ENTRY}", "old": "RATE = 0.1", "new": "RATE = 0.2"})
MEASURE = ("measure_rewards", {})


def train(**given):
    return "train_weights", {**SUBMIT, **given}


def proposed(tmp_path, bench, **brief):
    return propose(tmp_path, bench, later(evidence(tmp_path), weights=WEIGHTS, **brief))


def test_without_the_lever_the_tools_are_absent(tmp_path):
    bench = Bench([said("", EDIT, ("submit", SUBMIT))])
    propose(tmp_path, bench, later(evidence(tmp_path)))
    assert {"measure_rewards", "train_weights"}.isdisjoint(bench.tools)
    bench = Bench([said("", EDIT, ("submit", SUBMIT))])
    proposed(tmp_path, bench)
    assert {"measure_rewards", "train_weights"} <= set(bench.tools)


def test_it_sees_the_statistics_and_trains_the_harness_as_it_is(tmp_path):
    bench = Bench([said("", MEASURE), said("", train(algorithm="grpo"))])
    proposal = proposed(tmp_path, bench)
    (shown,) = bench.answers()
    assert "mean 0.41, zero_share 0.59" in shown
    assert "by the rules: the verifier is terminal (seconds 1 <= 60): grpo" in shown
    assert "- grpo: about 3.5 minutes" in shown
    assert "- best_of_n: not possible now: an update is estimated to take 90 minutes, and 20 are left" in shown
    assert (proposal.lever, proposal.algorithm, proposal.files) == (Lever.WEIGHTS, "grpo", {ENTRY: PARENT})
    assert "the weights: trained with grpo" in proposal.improvement
    assert "reference harness" not in proposal.improvement


def test_a_changed_draft_makes_it_both_levers_and_the_rules_may_choose(tmp_path):
    bench = Bench([said("", EDIT, train())])
    proposal = proposed(tmp_path, bench)
    assert (proposal.lever, proposal.algorithm) == (Lever.BOTH, "grpo")
    assert bench.measured == [dict(proposal.files)] != [{ENTRY: PARENT}]


@pytest.mark.parametrize(
    ("algorithm", "rewards", "why"),
    [
        ("ppo", REWARDS, "there is no algorithm of that name; there are: grpo, best_of_n"),
        ("best_of_n", REWARDS, "best_of_n is not possible now: an update is estimated to take 90 minutes"),
        ("", replace(REWARDS, suggested="", why="in each of 16 groups"), "the rules take no algorithm: in each of 16"),
        ("grpo", replace(REWARDS, refused={"grpo": "no model call"}), "grpo is not possible now: no model call"),
    ],
)
def test_what_cannot_be_trained_is_sent_back_with_the_reason(tmp_path, algorithm, rewards, why):
    bench = Bench([said("", train(algorithm=algorithm)), said("", EDIT, ("submit", SUBMIT))], rewards=rewards)
    assert proposed(tmp_path, bench).lever is Lever.HARNESS
    assert why in bench.answers()[0]


def test_updates_that_are_sent_back_use_up_the_repairs(tmp_path):
    bench = Bench([said("", train(algorithm="ppo"))])
    assert proposed(tmp_path, bench).title == "no submission"
    assert len(bench.sent) == SETTINGS["repairs"] + 1


def test_measuring_a_changed_draft_uses_a_trial_once_and_the_start_none(tmp_path):
    bench = Bench([said("", MEASURE), said("", EDIT, MEASURE), said("", MEASURE), said("", ("submit", SUBMIT))])
    proposed(tmp_path, bench)
    assert len(bench.measured) == 2
    assert "trials left: 2" in str(bench.sent[1][-1]["content"])
    assert "trials left: 1" in str(bench.sent[2][-1]["content"])
    assert "trials left: 1" in str(bench.sent[3][-1]["content"])


def test_files_that_failed_on_trained_weights_may_be_proposed_alone(tmp_path):
    both = proposed(tmp_path, Bench([said("", EDIT, train())]))
    history = (PastGeneration(2, both.lever, both.title, "rejected", "worse", None, both.notes),)
    again = proposed(tmp_path, Bench([said("", EDIT, ("submit", SUBMIT))]), n=3, history=history)
    assert (again.lever, again.files) == (Lever.HARNESS, both.files)


@pytest.mark.parametrize(("status", "shown"), [("rejected", True), ("accepted", False)])
def test_a_trial_of_the_start_on_other_weights_is_no_comparison(tmp_path, status, shown):
    tried = Bench([said("", EDIT, ("try_harness", {}), ("submit", SUBMIT))], lambda files: Trial(0.25, 4, 1.0))
    first = proposed(tmp_path, tried)
    folder = evidence(tmp_path, {f"harness/{ENTRY}": first.files[ENTRY]})
    history = (
        PastGeneration(2, first.lever, first.title, "accepted", "better", None, first.notes),
        PastGeneration(3, Lever.WEIGHTS, "grpo", status, "", None),
    )
    second = ("edit_file", {"path": f"harness/{ENTRY}", "old": "RATE = 0.2", "new": "RATE = 0.3"})
    bench = Bench([said("", second, ("try_harness", {})), said("", ("submit", SUBMIT))])
    propose(tmp_path, bench, later(folder, n=4, history=history, parent=2, weights=WEIGHTS))
    assert ("the harness you started from had 0.250" in bench.answers()[-1]) is shown
