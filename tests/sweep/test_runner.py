"""The arguments and the runs of a resumed sweep."""

from sia_runner.sweep.plan import PlannedRun, SweepDir, SweepPlan
from sia_runner.sweep.runner import _extended_plan, _is_done, _merge_arguments

ARGS = ("-m", "task=smoke", "seed=0,1", "hydra/launcher=submitit_slurm", "hydra.launcher.partition=cpu")


def test_what_is_given_now_replaces_what_was_given_for_that_key():
    resumed = _merge_arguments(ARGS, ["hydra.launcher.partition=gpu", "max_gen=5"])
    assert resumed == [*ARGS[:-1], "hydra.launcher.partition=gpu", "max_gen=5"]


def test_another_launcher_does_not_get_the_keys_of_the_first():
    assert _merge_arguments(ARGS, ["hydra/launcher=basic"]) == ["-m", "task=smoke", "seed=0,1", "hydra/launcher=basic"]


def test_a_declared_sweep_that_named_its_own_mode_is_resumed_as_a_sweep():
    assert _merge_arguments(("+sweeps=first",), []) == ["--multirun", "+sweeps=first"]


def test_overrides_stay_together_because_hydra_takes_no_option_between_them():
    args = ("--config-dir", "mine", "task=smoke", "seed=0,1", "-m")
    assert _merge_arguments(args, ["max_gen=5"]) == [
        "--config-dir",
        "mine",
        "task=smoke",
        "seed=0,1",
        "max_gen=5",
        "-m",
    ]
    assert _merge_arguments(("-m",), ["max_gen=5"]) == ["-m", "max_gen=5"]


def test_what_is_new_is_given_to_every_run_and_kept_for_the_next_resume():
    runs = tuple(PlannedRun(str(seed), ("task=smoke", f"seed={seed}"), "smoke", "SIA-H", seed) for seed in (0, 1))
    plan, changes = _extended_plan(SweepPlan(ARGS, "/", runs), ["task=smoke", "seed=0,1", "max_gen=5"])
    assert changes and [run.overrides[-1] for run in plan.runs] == ["max_gen=5", "max_gen=5"]
    again, changes = _extended_plan(plan, ["task=smoke", "seed=0,1", "max_gen=5"])
    assert again == plan and not changes


def test_a_finished_run_whose_folder_was_deleted_is_not_done(tmp_path):
    sweep, run = SweepDir(tmp_path), PlannedRun("a", (), "smoke", "SIA-H", 0)
    sweep.end("a", 0)
    assert not _is_done(sweep, run)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").touch()
    assert _is_done(sweep, run)
    sweep.end("a", 130)
    assert not _is_done(sweep, run)
