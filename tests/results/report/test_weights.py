"""SIA-H against SIA-W+H, both run for real on a tiny policy."""

import csv
import io

import pytest

pytest.importorskip("torch", reason="the weights lever needs the extra `training`")

from sia_runner.results.compare import compare_runs, read_finished_runs
from sia_runner.store.run_directory import RunDir
from tests.arithmetic import SMALL
from tests.conftest import Cli
from tests.results.report.conftest import summary

LITTLE = ["trainer.steps=2", "trainer.prompts_per_step=8", "trainer.group_size=4", "trainer.learning_rate=1e-3"]


@pytest.fixture(scope="module")
def levers(_own_cache, tmp_path_factory):
    cli = Cli(tmp_path_factory.mktemp("levers"))
    for seed in (0, 1):
        for name, trainer in (("h", ["trainer=none", "target_agent=policy"]), ("wh", ["trainer=grpo", *LITTLE])):
            cli.run = cli.folder / "levers" / f"{name}{seed}"
            done = cli(
                "task=arithmetic", *SMALL, *trainer, f"seed={seed}", "max_gen=2", "meta_agent.trials=1", timeout=280
            )
            assert done.returncode == 0, done.stdout + done.stderr
    return cli.folder / "levers"


@pytest.mark.slow
def test_pairs_are_those_of_compare_and_the_update_is_shown(report, levers):
    done = report(levers)
    assert done.returncode == 0, done.stderr
    rows = [row for row in csv.DictReader(io.StringIO(report.file(".pairs.csv"))) if row["kind"] == "arms"]
    for seed, row in enumerate(rows):
        (pair,) = compare_runs(read_finished_runs([RunDir(levers / f"{name}{seed}") for name in ("h", "wh")]))["pairs"]
        assert (row["old"], row["new"], row["seed"]) == (f"h{seed}", f"wh{seed}", str(seed))
        for key in ("difference", "standard_error", "p_value"):
            assert float(row[key]) == pair[key]
        assert (int(row["lost"]), int(row["won"])) == (pair["lost"], pair["won"])
    assert len(rows) == 2
    tests = {name: [summary(levers / f"{name}{k}")["best"]["test"]["value"] for k in (0, 1)] for name in ("h", "wh")}
    page, told = report.file(".html"), report.file(".md")
    for values in tests.values():
        assert f"{50 * sum(values):.1f} ±" in told
    assert "arithmetic · grpo · accuracy (%)" in told and "2 grpo" not in told
    assert "weights grpo" in page and "Holm" in page
