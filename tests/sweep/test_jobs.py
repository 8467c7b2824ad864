"""Submitting the runs of a sweep: arrays that fit, topped up while runs end, and what to do when SLURM takes none."""

from pathlib import Path

import pytest

from sia_runner.compute.jobs import JobState
from sia_runner.compute.submission import SubmissionError
from sia_runner.store.run_directory import RunDirectoryError
from sia_runner.sweep import jobs, runner
from sia_runner.sweep.plan import PlannedRun, SweepDir, SweepPlan, SweepRun
from tests.compute.test_submission import ARRAY, FULL, MEMORY, UNNAMED


class Site:
    """A cluster that refuses what exceeds its limits; each job ends as soon as it is looked at."""

    def __init__(self, folder: Path, largest_array: int = 1000, submitted_at_most: int = 1000) -> None:
        self.sweep = SweepDir(folder)
        self.largest_array, self.submitted_at_most = largest_array, submitted_at_most
        self.batches, self.refusal = [], ""

    def submit(self, runs):
        waiting = sum(self.sweep.ended(run) is None for batch in self.batches for run in batch)
        if self.refusal:
            raise SubmissionError(self.refusal)
        if len(runs) > self.largest_array:
            raise SubmissionError(ARRAY)
        if waiting + len(runs) > self.submitted_at_most:
            raise SubmissionError(FULL)
        self.batches.append([run.name for run in runs])
        return [f"7_{run.name}" for run in runs]

    @property
    def submitted(self):
        return [name for batch in self.batches for name in batch]

    def waiting(self, state, seconds):
        return ""

    def state(self, job):
        self.sweep.end(job.partition("_")[2], 0)
        return JobState("COMPLETED")


@pytest.fixture
def carry_out(tmp_path, monkeypatch):
    """Run a sweep of `count` runs on a site, of which the launcher may have `max_jobs` submitted."""
    clock = iter(float(second) for second in range(10**6))
    monkeypatch.setattr(jobs.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(jobs.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(jobs, "compose_run", lambda loader, config, overrides: (overrides, None))
    monkeypatch.setattr(jobs, "sweep_run_of", lambda name, _: SweepRun(tmp_path, name, {}, ()))

    def carry_out(site, count=8, max_jobs=32):
        queue = jobs._JobQueue(max_jobs, 15.0, site.submit, site)
        monkeypatch.setattr(jobs, "_on_slurm", lambda keys, sweep: queue)
        jobs.run_jobs("slurm", {}, None, None, [str(number) for number in range(count)])

    return carry_out


def test_an_array_that_is_too_large_for_the_site_is_divided(tmp_path, carry_out):
    site = Site(tmp_path, largest_array=5)
    carry_out(site)
    assert [len(batch) for batch in site.batches] == [4, 4]


def test_no_more_jobs_are_submitted_than_may_run_at_once(tmp_path, carry_out):
    site = Site(tmp_path)
    carry_out(site, max_jobs=3)
    assert len(site.batches[0]) == 3 and sorted(site.submitted) == [str(number) for number in range(8)]


def test_a_queue_that_takes_four_jobs_is_topped_up(tmp_path, carry_out):
    site = Site(tmp_path, submitted_at_most=4)
    carry_out(site)
    assert len(site.batches[0]) == 4 and sorted(site.submitted) == [str(number) for number in range(8)]
    assert set(site.sweep.recorded_jobs("slurm")) == {str(number) for number in range(8)}


def test_a_queue_that_is_full_at_the_start_is_waited_for_in_a_few_lines(tmp_path, carry_out, capsys):
    site = Site(tmp_path)
    site.refusal, tries, submit = FULL, [], site.submit

    def relent(runs):
        tries.append(len(runs))
        site.refusal = "" if len(tries) > 100 else FULL
        return submit(runs)

    site.submit = relent
    carry_out(site)
    lines = [line for line in capsys.readouterr().out.splitlines() if "AssocMaxSubmitJobLimit" in line]
    assert site.submitted and 2 <= len(lines) <= 6


def test_a_queue_that_stays_full_ends_the_sweep_and_names_the_key_that_may_be_at_fault(tmp_path, carry_out):
    site = Site(tmp_path)
    site.refusal = UNNAMED
    with pytest.raises(RunDirectoryError, match="may never pass: lower hydra.launcher.timeout_min"):
        carry_out(site)


@pytest.mark.parametrize("refusal", [MEMORY, FULL.replace("AssocMaxSubmitJob", "QOSMaxWallDurationPerJob")])
def test_what_never_passes_is_a_refusal_with_all_that_sbatch_said(tmp_path, carry_out, refusal):
    site = Site(tmp_path)
    site.refusal = refusal
    with pytest.raises(RunDirectoryError, match="hydra/launcher=submitit_slurm: sbatch says: (This cluster|QOSMax)"):
        carry_out(site)


class Refusing:
    def launch(self, *_, **__):
        raise RunDirectoryError("sbatch says: no")


def test_a_sweep_none_of_whose_jobs_was_taken_may_be_started_again_by_the_same_line(tmp_path, monkeypatch):
    plan = SweepPlan(("-m",), str(tmp_path), (PlannedRun("a", (), "smoke", "SIA-H", 0),))
    monkeypatch.setattr(runner, "_new_plan", lambda *_: plan)
    monkeypatch.setattr(runner, "_checked_overrides", lambda *_: ["task=smoke"])
    config = type("Config", (), {})()
    config.hydra = type("Hydra", (), {"sweep": type("Sweep", (), {"dir": str(tmp_path / "sweep")})})
    for _ in range(2):
        with pytest.raises(RunDirectoryError, match="sbatch says: no"):
            runner.run_sweep(None, config, Refusing(), (), [[]])
