"""A weights update that fails is a failed candidate: the run says why in one line and goes on."""

import pytest

from tests.scripts.riddles import make

pytest.importorskip("torch", reason="the weights lever needs the extra `training`")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_failed_update_is_one_line_and_the_run_goes_on(cli):
    """Every call is longer than the trainer may take."""
    little = ["trainer.steps=2", "trainer.prompts_per_step=8", "trainer.group_size=4", "trainer.max_length=1"]
    done = cli("task=arithmetic", "trainer=grpo", "max_gen=2", *little, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    second = cli.summary["generations"][1]
    assert (second["lever"], second["status"], second["training"]) == ("weights", "failed", None)
    assert second["reason"] == "grpo: all 32 calls exceed max_length=1 tokens"
    assert cli.summary["best"]["generation"] == 1
    here = cli.run / "gen_2"
    assert not any((here / name).exists() for name in ("adapter", "training", "rollouts"))


def test_a_metric_that_rewards_no_single_question_is_refused_before_anything_starts(cli, tmp_path):
    """Only a pair of answers is better or worse by AUC."""
    riddles = make(tmp_path)
    task = tmp_path / "conf" / "task" / "riddles.yaml"
    text = task.read_text().replace("verifier: exact_match", "verifier: auc, choices: [yes it is, no it is not]")
    task.write_text(text.replace("val: 0.4, test: 0.4, rollout: 0,", "val: 0.2, test: 0.2, rollout: 0.3,"))
    labelled = tmp_path / "riddles" / "labelled.csv"
    rows = [f"r{k},Is {k} even?,{'no it is not' if k % 2 else 'yes it is'}" for k in range(80)]
    labelled.write_text("\n".join(["id,question,answer", *rows]) + "\n")
    done = cli(*riddles, "trainer=grpo")
    assert done.returncode == 2 and not cli.run.exists()
    assert done.stderr.startswith("refused: metric.verifier=auc ranks all questions together")
