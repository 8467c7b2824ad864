"""The benchmark of the levers: its arms are valid runs, and its table says what the run directories say."""

import importlib
import json
import sys
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from sia_runner.config.composition import compose_overrides
from sia_runner.config.experiment import check_experiment
from sia_runner.config.task import Metric
from sia_runner.experiment.costs import planned_rollouts
from sia_runner.experiment.weights.update import HarnessRollouts

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def found(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in [name for name in sys.modules if name.startswith("_levers_") or name == "levers"]:
        del sys.modules[name]


def module(name):
    return importlib.import_module(name)


def write_run(folder, arm, seed, generations, best, tests, cpu=10.0):
    """A finished run as far as the table reads it. `tests`: generation -> answers as "10…", one digit a question."""
    run = folder / f"seed_{seed}" / arm
    summary = {"status": "completed", "generations": generations, "best": {"generation": best}}
    for name, content in (("summary.json", summary), ("cost.json", {"cpu_seconds": cpu})):
        run.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(json.dumps(content), encoding="utf-8")
    for n, answers in tests.items():
        outcomes = [{"unit": f"u{at}", "value": float(digit)} for at, digit in enumerate(answers)]
        place = run / "test" / f"gen_{n}"
        place.mkdir(parents=True)
        (place / "scores.json").write_text(json.dumps({"outcomes": outcomes}), encoding="utf-8")


def generation(lever, status):
    return {"lever": lever, "status": status}


def three(last):
    return [generation("harness", "accepted"), generation("harness", "accepted"), last]


def experiment_of(task, *settings, steps=48, questions=64):
    return module("_levers_arms").Experiment(task, settings, steps, questions, samples=8, learning_rate=2e-3)


def composed(experiment, folder) -> dict[str, Any]:
    """arm -> its checked configuration, after a SIA-H arm whose candidates answered 300 questions each."""
    arms = module("_levers_arms")
    (folder / "gen_1").mkdir(parents=True)
    (folder / "gen_1" / "scores.json").write_text(json.dumps({"outcomes": [{}] * 300}), encoding="utf-8")
    plain = {arm: compose_overrides(arms.overrides(experiment, arm, 3, folder)) for arm in arms.ARMS}
    return {arm: check_experiment(one) for arm, one in plain.items() if one is not None}


@pytest.mark.parametrize("task", ["lawbench", "arithmetic"])
def test_every_arm_is_a_valid_run_from_the_same_policy_and_differs_in_how_the_last_generation_is_spent(task, tmp_path):
    arms = module("_levers_arms")
    checked = composed(experiment_of(task), tmp_path)
    assert list(checked) == list(arms.ARMS)
    for name in ("task", "target_agent", "split_seed", "seed", "search", "lever"):
        assert len({repr(getattr(one, name)) for one in checked.values()}) == 1, name
    candidates = round(48 * 64 * 8 / 300)
    generations = {arm: 2 + candidates if arm == arms.MANY else 3 for arm in arms.ARMS}
    assert {arm: one.max_gen for arm, one in checked.items()} == generations
    assert {arm: one.trainer.name for arm, one in checked.items()} == {
        arms.HARNESS: "none",
        arms.MANY: "none",
        **{name: name for name in arms.ALGORITHMS},
        **dict.fromkeys(arms.CONTROLS, "best_of_n"),
    }


@pytest.mark.parametrize(("steps", "questions"), [(48, 64), (2, 8)])
def test_every_algorithm_rolls_out_as_much_and_the_controls_see_as_many_rows_or_questions(steps, questions, tmp_path):
    arms = module("_levers_arms")
    checked = composed(experiment_of("lawbench", steps=steps, questions=questions), tmp_path)
    for arm in arms.ALGORITHMS:
        assert planned_rollouts(checked[arm].trainer)[1] == steps * questions * 8, arm
    seen = {arm: checked[arm].trainer for arm in arms.CONTROLS}
    rows = {arm: trainer.steps * trainer.options["batch"] for arm, trainer in seen.items()}
    assert rows == {arms.CONTROL: steps * questions * 8, arms.CONTROL_OF_VISITS: steps * questions}
    assert {trainer.learning_rate for trainer in seen.values()} == {2e-3}


def test_the_rates_of_the_algorithms_are_their_defaults(tmp_path):
    checked = composed(experiment_of("lawbench"), tmp_path)
    assert checked["dpo"].trainer.learning_rate == checked["best_of_n"].trainer.learning_rate == 1e-3
    assert checked["ppo"].trainer.learning_rate == 2e-3


def test_harnesses_may_be_chosen_in_the_place_of_a_search(tmp_path):
    experiment = replace(experiment_of("arithmetic"), harnesses=str(tmp_path / "chosen"))
    checked = composed(experiment, tmp_path)
    harness, ppo = checked["SIA-H"], checked["ppo"]
    assert (harness.max_gen, harness.meta_agent.name, harness.trainer.name) == (2, "replay", "none")
    assert (ppo.max_gen, ppo.meta_agent.name, ppo.trainer.name) == (3, "replay", "ppo")


def test_settings_hold_for_every_arm(tmp_path):
    checked = composed(experiment_of("arithmetic", "budget.generation.minutes=7"), tmp_path)
    assert {one.budget.generation.minutes for one in checked.values()} == {7}


def test_without_one_right_answer_for_each_question_there_is_no_control():
    arms = module("_levers_arms")
    assert arms.arms_of(Metric(name="accuracy", verifier="numeric"), arms.ARMS) == list(arms.ARMS)
    assert arms.arms_of(Metric(name="score", verifier="python"), arms.ARMS) == list(arms.ARMS[: -len(arms.CONTROLS)])


def test_a_folder_of_other_settings_is_refused(tmp_path, capsys):
    levers, file = module("levers"), tmp_path / "experiment.json"
    assert levers._is_same(file, experiment_of("lawbench"))
    assert levers._is_same(file, experiment_of("lawbench"))
    assert not levers._is_same(file, experiment_of("lawbench", steps=16))
    assert "take another --out" in capsys.readouterr().err


def test_the_control_can_be_made_wherever_rollouts_are():
    signature(module("_levers_gold")._Gold).bind(**dict.fromkeys(signature(HarnessRollouts).parameters))


def test_an_arm_is_compared_with_the_harness_arm_of_its_own_seed(tmp_path):
    table = module("_levers_table")
    for seed in (0, 1):
        harness = three(generation("harness", "rejected"))
        write_run(tmp_path, "SIA-H", seed, harness, 2, {1: "0" * 40, 2: "1" * 10 + "0" * 30})
        trained = three(generation("weights", "accepted"))
        write_run(tmp_path, "grpo", seed, trained, 3, {1: "0" * 40, 3: "0" + "1" * 19 + "0" * 20})
    initial, harness, grpo = table.rows(table.read(tmp_path, [0, 1]))
    assert (initial.arm, initial.mean, harness.arm, harness.mean) == ("Initial", 0.0, "SIA-H", 0.25)
    assert (grpo.mean, grpo.won, grpo.lost, grpo.gain) == (0.475, 20, 2, pytest.approx(22.5))
    assert grpo.p_by_seed == [pytest.approx(2 * 12 / 2**11)] * 2, "11 decided, 1 lost: exact, two-sided"
    assert grpo.p < min(grpo.p_by_seed) and grpo.word == "better"
    assert grpo.accepted == [True, True]


def test_seeds_share_their_questions_so_that_more_of_them_do_not_make_an_interval_of_one_answer_narrower(tmp_path):
    table = module("_levers_table")
    for seed in range(5):
        write_run(tmp_path, "SIA-H", seed, three(generation("harness", "rejected")), 1, {1: "1100" * 10})
    one = table.rows(table.read(tmp_path, [0]))[0].ci95
    assert table.rows(table.read(tmp_path, range(5)))[0].ci95 == pytest.approx(one)


def test_a_tie_is_called_a_tie_and_worse_is_called_worse(tmp_path):
    table = module("_levers_table")
    write_run(tmp_path, "SIA-H", 0, three(generation("harness", "accepted")), 1, {1: "1" * 20 + "0" * 20})
    rejected = three(generation("weights", "rejected"))
    write_run(tmp_path, "ppo", 0, rejected, 1, {1: "1" * 18 + "0" * 19 + "111"})
    write_run(tmp_path, "dpo", 0, rejected, 1, {1: "0" * 40})
    words = {row.arm: (row.word, row.accepted) for row in table.rows(table.read(tmp_path, [0]))}
    assert words["ppo"] == ("tie", [False])
    assert words["dpo"] == ("worse", [False])


def test_what_is_not_finished_is_not_in_the_table(tmp_path):
    table = module("_levers_table")
    write_run(tmp_path, "SIA-H", 0, three(generation("harness", "accepted")), 1, {1: "10"})
    (tmp_path / "seed_0" / "ppo").mkdir()
    assert [row.arm for row in table.rows(table.read(tmp_path, [0]))] == ["Initial", "SIA-H"]


def test_the_control_is_labelled_as_one_that_sees_gold_labels(tmp_path):
    table = module("_levers_table")
    for arm in ("SIA-H", "cross-entropy"):
        write_run(tmp_path, arm, 0, three(generation("harness", "accepted")), 1, {1: "10"})
    assert "| cross-entropy (gold labels) |" in table.markdown(table.rows(table.read(tmp_path, [0])))


def test_answers_of_another_machine_join_the_table_and_what_was_measured_here_stays(tmp_path):
    levers, table = module("levers"), module("_levers_table")
    for place, seed, answers in (("here", 0, "1100"), ("there", 0, "0000"), ("there", 1, "1111")):
        write_run(tmp_path / place, "SIA-H", seed, three(generation("harness", "accepted")), 1, {1: answers})
        write_run(tmp_path / place, "ppo", seed, three(generation("weights", "rejected")), 1, {1: answers})
    origin = {"experiment": {"task": "lawbench"}, "base_sha256": ["ab"]}
    there = table.read(tmp_path / "there", [0, 1])
    file = tmp_path / "answers.jsonl"
    file.write_text(table.to_lines(there, origin), encoding="utf-8")
    assert table.from_lines(file.read_text(encoding="utf-8")) == (origin, there)
    here = table.read(tmp_path / "here", [0])
    assert levers._is_merged(here, origin, [file])
    assert {row.arm: row.test for row in table.rows(here)}["ppo"] == [0.5, 1.0]


def test_answers_of_another_policy_do_not_join_the_table(tmp_path, capsys):
    levers, table = module("levers"), module("_levers_table")
    write_run(tmp_path, "SIA-H", 0, three(generation("harness", "accepted")), 1, {1: "1100"})
    file, origin = tmp_path / "answers.jsonl", {"experiment": {"task": "lawbench"}, "base_sha256": ["ab"]}
    file.write_text(table.to_lines(table.read(tmp_path, [0]), origin | {"base_sha256": ["cd"]}), encoding="utf-8")
    assert not levers._is_merged({}, origin, [file])
    assert str(file) in capsys.readouterr().err
