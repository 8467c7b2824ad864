"""Lever and algorithm choice in whole runs with a tiny policy: when weights are trained, with what, and when not."""

import json
import os
import random

import pytest

from tests.conftest import ROOT, Cli
from tests.scripts.serving import KEY, Served

pytest.importorskip("torch", reason="the weights lever needs the extra `training`")
pytestmark = pytest.mark.slow

ASKING = (ROOT / "tasks" / "arithmetic" / "reference" / "target_agent.py").read_text()
TIES = [ASKING, *(f"{ASKING}\n# the same, version {n}\n" for n in (2, 3, 4))]
UNTAGGED = ASKING.replace(', "user": row["id"]}  # user: whose call it is', "}")
LITTLE = [f"trainer.algorithms.{name}.{key}" for name in ("grpo", "ppo") for key in ("steps=1", "prompts_per_step=32")]
LITTLE += [
    "trainer.algorithms.grpo.group_size=4",
    "trainer.algorithms.ppo.group_size=4",
]
PLATEAU_ALONE = "lever.latest_fraction=1"  # so that nothing else pulls the weights lever


def decision(cli, n):
    return json.loads((cli.run / f"gen_{n}" / "decision.json").read_text())


def finished(cli, *overrides, **given):
    done = cli(*overrides, timeout=400, **given)
    assert done.returncode == 0, done.stdout + done.stderr
    return cli.summary["generations"]


def rollouts_of_probes(cli):
    """Probes that the ledger knows -> calls made."""
    lines = [json.loads(line) for path in (cli.run / "ledger").glob("*.jsonl") for line in path.open()]
    names = [line["candidate"] for line in lines if str(line.get("candidate", "")).startswith("probe_")]
    return {name: names.count(name) for name in names}


@pytest.fixture(scope="module")
def harmful(tmp_path_factory):
    """Run trainer=auto on a 0/1 verifier: a tie, a learning rate that destroys the policy, another harness."""
    cli = Cli(tmp_path_factory.mktemp("harmful"))
    rate = ["trainer.algorithms.grpo.learning_rate=0.015", "++target_agent.policy.max_tokens=8"]
    finished(cli, "task=arithmetic", "trainer=auto", *cli.replay(*TIES), *LITTLE, *rate, PLATEAU_ALONE)
    return cli


def test_a_terminal_verifier_gives_grpo_and_a_plateau_pulls_the_lever(harmful):
    generations = harmful.summary["generations"]
    assert [g["lever"] for g in generations] == ["harness", "harness", "weights", "harness"]
    assert generations[1]["status"] == "rejected"
    decided = decision(harmful, 3)
    assert (decided["lever"], decided["algorithm"], decided["trainer"]) == ("weights", "grpo", "auto")
    evidence = decided["evidence"]
    assert evidence["plateau"] == 1
    assert evidence["due"] == "harness plateau 1 >= 1"
    assert evidence["rule"]["rule"] == "rollouts are cheap and the verifier is terminal"
    shape = evidence["shape"]
    assert (shape["groups"], shape["samples"], shape["calls"]) == (16, 4, 1)
    assert shape["variance"] == pytest.approx(shape["mean"] * (1 - shape["mean"])), "rewards are 0 or 1"
    assert {"skew", "zero_groups", "tokens", "seconds"} <= set(shape)
    assert evidence["probe"]["calls"] == 64
    assert sum(evidence["probe"]["outcomes"].values()) == 64
    assert evidence["cost"]["calls"] > 32 * 4, "training, gate and run"


def test_an_update_that_harms_val_is_reverted_and_its_adapter_kept_out_of_the_lineage(harmful):
    first, _, update, after = harmful.summary["generations"]
    assert update["status"] == "rejected"
    assert update["val"]["value"] < first["val"]["value"] - 0.1
    assert (harmful.run / "gen_3" / "adapter" / "adapter_model.safetensors").is_file()
    assert harmful.summary["best"]["generation"] == 1
    assert after["parent"] == 1
    assert after["val"] == first["val"], "the same program on the same weights as the first"
    assert not (harmful.run / "gen_4" / "adapter").exists(), "it goes on from the base"
    assert not (harmful.run / "gen_4" / "rollouts").exists()


def test_the_proposer_is_shown_what_became_of_the_update(harmful):
    weights = json.loads((harmful.run / "gen_4" / "evidence" / "summary.json").read_text())["weights"]
    (update,) = weights["updates"]
    assert (update["generation"], update["algorithm"], update["status"]) == (3, "grpo", "rejected")
    assert len(update["reward"]) == len(update["kl"]) == 1
    assert "| 3 | grpo | rejected" in (harmful.run / "gen_4" / "evidence" / "overview.md").read_text()


VERIFIER = """
import csv
from collections import Counter
from sia_runner.records import Outcome, OutcomeKind

def verify(submission, answers):
    '''The share of the letters that are there, in any order.'''
    with (submission / "submission.csv").open() as stream:
        given = {row["id"]: row["answer"] for row in csv.DictReader(stream)}
    return [outcome(unit, given.get(unit, ""), gold) for unit, gold in answers.items()]

def outcome(unit, text, gold):
    value = sum((Counter(text[: len(gold)]) & Counter(gold)).values()) / len(gold)
    kind = OutcomeKind.CORRECT if value == 1 else OutcomeKind.PARTIAL if value else OutcomeKind.WRONG
    return Outcome(unit, kind, value, text[:50])
"""
TASK = """
name: letters
_target_: sia_runner.tasks.table.TableTask
dir: {folder}
needs_model: true
data: {{labelled: labelled.csv}}
columns: {{answer: answer}}
metric: {{name: letters, verifier: python}}
splits: {{dev: 0.1, val: 0.15, test: 0.15, rollout: 0.5, stratify: false}}
gate: {{questions: 4}}
limits: {{run: 60, gate: 30, verify: 20}}
tiny: {{epochs: 8}}
"""


@pytest.fixture
def letters(tmp_path):
    """A task with dense rewards: each letter of eight becomes the next one of four."""
    folder, conf, rng = tmp_path / "letters", tmp_path / "conf" / "task", random.Random(0)
    (folder / "reference").mkdir(parents=True)
    conf.mkdir(parents=True)
    (conf / "letters.yaml").write_text(TASK.format(folder=folder))
    (folder / "task.md").write_text("Each letter becomes the next one, and d becomes a.\n")
    (folder / "verifier.py").write_text(VERIFIER)
    reading = "def number(text: str) -> str:\n"
    program = ASKING.replace(reading, f'{reading}    return "".join(re.findall("[a-d]+", text)[-1:])\n')
    (folder / "reference" / "target_agent.py").write_text(program)
    words = sorted({"".join(rng.choices("abcd", k=8)) for _ in range(400)})
    rows = [f"{n},{word}=,{word.translate(str.maketrans('abcd', 'bcda'))}" for n, word in enumerate(words)]
    (folder / "labelled.csv").write_text("\n".join(["id,question,answer", *rows]) + "\n")
    return ["--config-dir", str(conf.parent), "task=letters"]


def test_dense_rewards_give_ppo(cli, letters):
    finished(
        cli,
        *letters,
        "trainer=auto",
        *LITTLE,
        "++target_agent.policy.max_tokens=16",
        "max_gen=2",
        f"hydra.run.dir={cli.run}",
    )
    decided = decision(cli, 2)
    assert (decided["lever"], decided["algorithm"]) == ("weights", "ppo"), decided
    assert decided["evidence"]["rule"]["rule"] == "rewards are dense scalars"
    assert decided["evidence"]["shape"]["distinct"] >= 5
    assert decided["evidence"]["shape"]["graded_share"] >= 0.5
    assert decided["evidence"]["due"] == "generation 2 of 2, and no weights were trained yet"


def test_a_harness_that_names_no_question_is_told_and_keeps_the_harness_lever(cli):
    programs = [UNTAGGED, *(f"{UNTAGGED}\n# version {n}\n" for n in (2, 3))]
    generations = finished(cli, "task=arithmetic", "trainer=grpo", "lever.latest_fraction=0", *cli.replay(*programs))
    assert [g["lever"] for g in generations] == ["harness"] * 3
    for n in (2, 3):
        evidence = decision(cli, n)["evidence"]
        assert "no model call of the harness names its question" in evidence["skipped"]
        assert evidence["probe"]["calls"] == 64, "it called the policy"
        assert evidence["shape"]["calls"] == 0, "but nobody knows for what"
        told = (cli.run / f"gen_{n}" / "evidence" / "overview.md").read_text()
        assert "It is due now, and is not done: no model call of the harness names its question" in told
    assert list(rollouts_of_probes(cli).values()) == [64], "rolled once, for both generations"


def test_an_update_that_cannot_fit_the_budget_is_not_begun(cli):
    endless = ["trainer=grpo", "trainer.steps=100000", "budget.minutes=30"]
    generations = finished(cli, "task=arithmetic", *endless, *cli.replay(*TIES[:2]))
    assert [g["lever"] for g in generations] == ["harness", "harness"]
    evidence = decision(cli, 2)["evidence"]
    assert evidence["skipped"].startswith("an update is estimated to take")
    assert evidence["cost"]["minutes"] > evidence["left"]["minutes"]


def test_a_language_model_measures_and_chooses_an_algorithm_of_its_own(cli):
    seen = cli.folder / "seen.jsonl"
    env = {"SIA_TEST_SEEN": str(seen), "SIA_TEST_ALGORITHM": "best_of_n"}
    served = Served("training:reply", {**os.environ, **env})
    few = [f"trainer.algorithms.best_of_n.{key}" for key in ("steps=2", "prompts=16", "group_size=4")]
    few += ["trainer.algorithms.best_of_n.options.rounds=1"]
    try:
        overrides = [
            "task=arithmetic",
            "trainer=auto",
            "meta_agent=llm",
            "max_gen=2",
            PLATEAU_ALONE,
            "lever.plateau=9",
        ]
        generations = finished(cli, *overrides, *few, *served.overrides, env=KEY)
    finally:
        served.end()
    assert (generations[1]["lever"], generations[1]["algorithm"]) == ("weights", "best_of_n")
    evidence = decision(cli, 2)["evidence"]
    assert evidence["chosen_by"] == "proposer"
    assert evidence["rule"]["algorithm"] == "grpo"
    assert "best_of_n is the proposer's choice; by the rules" in decision(cli, 2)["rationale"]
    told = seen.read_text()
    assert "by the rules: rollouts are cheap and the verifier is terminal" in told
    assert "there is no algorithm of that name; there are: ppo, grpo" in told
    assert list(rollouts_of_probes(cli).values()) == [64], "measured once, and held against the same figures"
