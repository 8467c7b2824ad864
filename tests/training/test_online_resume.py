"""A training that is killed goes on from its last checkpoint and ends with the same adapter."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("peft", reason="adapters are PEFT's")

from tests.training import toy, training_program

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}
# Its processes are forked from one that has loaded the libraries, which takes longer than a training here.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["peft", "sia_runner.training.drivers", "tests.training.toy_learner"])
# Dropout draws from random numbers in each pass, so that these, too, have to go on where they were.
DROPOUT = {"rank": 4, "alpha": 8, "dropout": 0.1}
CASES = {
    "grpo": {"steps": 12, "prompts_per_step": 3, "checkpoint_every": 4, "kl_coefficient": 0.02, "lora": DROPOUT},
    "ppo": {"steps": 12, "prompts_per_step": 3, "checkpoint_every": 2, "options": {"iterations": 3}, "lora": DROPOUT},
    "best_of_n": {
        "steps": 12,
        "prompts": 64,
        "checkpoint_every": 4,
        "options": {"rounds": 2, "epochs": 9},
        "lora": DROPOUT,
    },
    "dpo": {
        "steps": 12,
        "prompts": 64,
        "checkpoint_every": 4,
        "kl_coefficient": 0.1,
        "options": {"rounds": 2, "epochs": 9},
        "lora": DROPOUT,
    },
}


@pytest.fixture(scope="module")
def model(warmed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    warmed.save_pretrained(folder)
    return folder


def begin(model, folder, algorithm, changes) -> BaseProcess:
    """One training in a process of its own."""
    child = PROCESSES.Process(
        target=training_program.into, args=(f"{folder}.out", str(model), str(folder), algorithm, as_text(changes))
    )
    child.start()
    return child


def run(model, folder, algorithm, changes) -> str:
    child = begin(model, folder, algorithm, changes)
    child.join(240)
    assert child.exitcode == 0
    return Path(f"{folder}.out").read_text()


def run_two(model, folder, algorithm, changes) -> str:
    """As `accelerate launch` starts two processes."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    command = [sys.executable, *launcher, "-m", "tests.training.training_program", str(model), str(folder), algorithm]
    done = subprocess.run(
        [*command, as_text(changes)], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def as_text(changes) -> str:
    return json.dumps({**changes, "lora": changes.get("lora", {"rank": 4, "alpha": 8})})


def result(output: str):
    return json.loads(next(line for line in output.splitlines() if line.startswith("done")).removeprefix("done"))


def kill_when_under_way(folder: Path, child: BaseProcess) -> None:
    """SIGKILL as soon as there is a checkpoint from the middle of the training."""
    while not any((folder / "work").glob("step-00000[4-9]-*/checkpoint.json")):
        assert child.is_alive(), "it ended before it could be killed"
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL, "it ended before it could be killed"


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", list(CASES))
def test_killed_and_resumed_is_the_same_as_uninterrupted(algorithm, model, tmp_path):
    whole = result(run(model, tmp_path / "whole", algorithm, CASES[algorithm]))
    cut = tmp_path / "cut"
    kill_when_under_way(cut, begin(model, cut, algorithm, CASES[algorithm]))
    assert not (cut / "adapter").exists()
    output = run(model, cut, algorithm, CASES[algorithm])
    assert "resumed after step" in output
    assert "resumed after step 0" not in output
    assert result(output) == whole
    same = [(folder / "adapter" / "adapter_model.safetensors").read_bytes() for folder in (tmp_path / "whole", cut)]
    assert same[0] == same[1]
    said = [json.loads((folder / "adapter" / "sia_adapter.json").read_text()) for folder in (tmp_path / "whole", cut)]
    assert said[0] == said[1]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "dpo"])  # one of each driver; PPO has a value head besides
def test_two_processes_give_the_result_of_one(algorithm, model, tmp_path):
    from safetensors.torch import load_file

    changes = {**CASES[algorithm], "steps": 6, "lora": {"rank": 4, "alpha": 8}, "learning_rate": 1e-4}
    single = result(run(model, tmp_path / "one", algorithm, changes))
    double = result(run_two(model, tmp_path / "two", algorithm, changes))
    assert double[0] == single[0]
    assert double[1] == pytest.approx(single[1])
    assert double[2] == pytest.approx(single[2], abs=1e-3)
    one, two = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two"))
    moved = max(float((one[name]).abs().max()) for name in one if "lora_B" in name)
    apart = max(float((one[name] - two[name]).abs().max()) for name in one)
    assert apart < 0.05 * moved, (apart, moved)


def test_a_finished_training_is_not_done_again(policy, tmp_path):
    from sia_runner.training import drivers

    settings = toy.settings("grpo", steps=2, prompts_per_step=2, group_size=4)
    first = drivers.train(toy.assignment(policy, settings, tmp_path))
    weights = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()
    roll = toy.ToyRoll(policy)
    again = drivers.train(toy.assignment(policy, settings, tmp_path, roll=roll))
    assert roll.asked == []
    assert again.reward == first.reward
    assert (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes() == weights


def test_checkpoints_of_another_seed_are_not_gone_on_from(policy, tmp_path):
    from sia_runner.training import drivers

    settings = toy.settings("grpo", steps=2, prompts_per_step=2, group_size=4)
    drivers.train(toy.assignment(policy, settings, tmp_path))
    roll = toy.ToyRoll(policy)
    drivers.train(toy.assignment(policy, settings, tmp_path, roll=roll, seed=7))
    assert len(roll.asked) == 2


def test_an_update_that_an_earlier_version_began_starts_anew_and_says_so(policy, tmp_path):
    from sia_runner.training import drivers

    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "step-000001.pt").write_bytes(b"of an earlier version")
    settings = toy.settings("grpo", steps=2, prompts_per_step=2, group_size=4)
    lines: list[str] = []
    drivers.train(toy.assignment(policy, settings, tmp_path, say=lines.append))
    assert lines[0] == "checkpoints of an earlier version: the update starts anew"
    assert lines[1].startswith("step 1/2")
