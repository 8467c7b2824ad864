"""Kill -9 in the middle of a weights update: the resumed run trains the same adapter and ends with the same scores."""

import json
import os
import signal
import time

import psutil
import pytest

from tests.arithmetic import SMALL
from tests.conftest import Cli
from tests.e2e.test_approve import command

pytest.importorskip("torch", reason="the weights lever needs the extra `training`")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

EXPERIMENT = ["task=arithmetic", "trainer=grpo", "max_gen=2", "seed=4", *SMALL]
LITTLE = ["trainer.steps=6", "trainer.prompts_per_step=8", "trainer.group_size=4", "trainer.checkpoint_every=2"]
FAST = ["trainer.learning_rate=1e-3"]  # so that a wrong step shows in the weights
# Requests that arrive together are answered together, and a batch of another size differs in the last bits of its
# logprobs: the order in which they arrive is fixed by answering one at a time.
ONE_AT_A_TIME = ["target_agent.policy.max_batch_size=1"]
PATIENCE = 500.0  # seconds until the moment to kill at has to come


@pytest.fixture(scope="module")
def peaceful(tmp_path_factory):
    """The run that was left in peace."""
    cli = Cli(tmp_path_factory.mktemp("peaceful"))
    done = cli(*EXPERIMENT, *LITTLE, *FAST, *ONE_AT_A_TIME, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return cli


def kill_when(runner, moment):
    """Kill -9 of the whole process group as soon as `moment()` is true."""
    deadline = time.monotonic() + PATIENCE
    while not moment():
        assert runner.poll() is None, runner.stdout.read()
        assert time.monotonic() < deadline, "the moment to kill at never came"
        time.sleep(0.002)
    os.killpg(runner.pid, signal.SIGKILL)
    runner.communicate()


def started(cli):
    return cli.start(*EXPERIMENT, *LITTLE, *FAST, *ONE_AT_A_TIME, process_group=0)


def resumed(cli):
    return cli.start(f"resume={cli.run}", process_group=0)


def end_in_peace(cli):
    done = cli(f"resume={cli.run}", timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr


def log_of(cli):
    path = cli.run / "gen_2" / "training.log"
    return path.read_text() if path.is_file() else ""


def checkpoints(cli):
    saved = (cli.run / "gen_2" / "training").glob("step-*/checkpoint.json")
    return sorted(path.parent.name.rpartition("-")[0] for path in saved)


def built(cli):
    return [e["result"] for e in cli.journal if e["event"] == "done" and e["step"] == "gen_2/build"]


def assert_same(cli, peaceful):
    """Byte for byte the same adapter with the same origin, and the same scores; nothing counted twice or left over."""
    ours, theirs = cli.run / "gen_2" / "adapter", peaceful.run / "gen_2" / "adapter"
    for name in ("adapter_model.safetensors", "adapter_config.json", "sia_adapter.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    (now,), (then,) = built(cli), built(peaceful)
    assert {**now, "seconds": 0} == {**then, "seconds": 0}
    keep = ("n", "lever", "status", "reason", "val", "outcomes")
    assert [[g[key] for key in keep] for g in cli.summary["generations"]] == [
        [g[key] for key in keep] for g in peaceful.summary["generations"]
    ]
    assert cli.summary["best"] == peaceful.summary["best"]
    assert not (cli.run / "gen_2" / "training").exists() and not (cli.run / "gen_2" / "rollouts").exists()
    assert command("verify", cli.run)[0] == 0
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(cli.run) in " ".join(p.info["cmdline"] or [])]


def test_between_two_steps_and_again_in_the_resumed_process_while_the_harness_is_rolled_out(peaceful, tmp_path):
    cli = Cli(tmp_path)
    rollouts = cli.run / "gen_2" / "rollouts"
    kill_when(started(cli), lambda: "step 3/6" in log_of(cli))
    assert checkpoints(cli) and not built(cli)
    kill_when(
        resumed(cli),
        lambda: "resumed after step" in log_of(cli) and "step 5/6" in log_of(cli) and list(rollouts.glob("*/work")),
    )
    assert not built(cli)
    end_in_peace(cli)
    assert log_of(cli).count("resumed after step") == 2
    assert_same(cli, peaceful)


def test_when_the_adapter_is_written_and_not_yet_journaled(peaceful, tmp_path):
    """The finished training is not done again: its last checkpoint holds the result."""
    cli = Cli(tmp_path)
    kill_when(started(cli), lambda: (cli.run / "gen_2" / "adapter").is_dir())
    assert "step-000006" in checkpoints(cli) and not built(cli)
    steps = log_of(cli)
    end_in_peace(cli)
    assert log_of(cli) == f"{steps}resumed after step 6\n"
    assert_same(cli, peaceful)


def test_with_batched_requests_scores_are_equal_and_weights_differ_in_their_last_bits(tmp_path_factory):
    """As it is by default. What was sampled is the same (its hash says so); only sums over batches of other sizes
    round otherwise."""
    from safetensors.torch import load_file

    runs = []
    for name in ("peaceful", "killed"):
        cli = Cli(tmp_path_factory.mktemp(name))
        runs.append(cli)
        if name == "peaceful":
            assert cli(*EXPERIMENT, *LITTLE, *FAST, timeout=PATIENCE).returncode == 0
        else:
            runner = cli.start(*EXPERIMENT, *LITTLE, *FAST, process_group=0)
            kill_when(runner, lambda cli=cli: "step 3/6" in log_of(cli))
            end_in_peace(cli)
    peaceful, killed = runs
    origins = [json.loads((cli.run / "gen_2" / "adapter" / "sia_adapter.json").read_text()) for cli in runs]
    assert origins[0]["data_sha256"] == origins[1]["data_sha256"]
    tensors = [load_file(cli.run / "gen_2" / "adapter" / "adapter_model.safetensors") for cli in runs]
    assert max(float((tensors[0][name] - tensors[1][name]).abs().max()) for name in tensors[0]) < 1e-3
    assert peaceful.summary["best"] == killed.summary["best"]
