"""The registry of algorithms, and how their options are checked."""

import subprocess
import sys

import pytest

from sia_runner.errors import TrainingError
from sia_runner.training.algorithms.base import ALGORITHMS, offline_algorithm, online_algorithm
from tests.training.trajectories import configured, groups

ONLINE = ["ppo", "grpo", "entropic", "reinforce"]


def test_every_algorithm_is_made_by_the_driver_of_its_kind():
    for name in ALGORITHMS:
        if name in ONLINE:
            assert online_algorithm(configured(name)).loss.epsilon == 0.2
        else:
            made = offline_algorithm(configured(name, kind="offline", kl_coefficient=0.1 if name == "dpo" else 0.0))
            assert made.trainer in ("sft", "dpo")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_other_driver_refuses_it(name):
    other = offline_algorithm if name in ONLINE else online_algorithm
    with pytest.raises(TrainingError, match=f"algorithm={name}.*{'online' if name in ONLINE else 'offline'}"):
        other(configured(name))


def test_loss_settings_come_from_the_configuration():
    loss = online_algorithm(configured("reinforce", kl_coefficient=0.05, clip=0.3)).loss
    assert (loss.beta, loss.epsilon, loss.epsilon_high) == (0.05, 0.3, 0.3)
    assert (loss.loss_type, loss.importance_level, loss.iterations) == ("dapo", "token", 1)


def test_a_correction_of_drift_belongs_to_rollouts_at_each_step():
    assert configured("grpo").correction == "none"
    assert configured("dpo", kind="offline", kl_coefficient=0.1).correction is None
    with pytest.raises(ValueError, match="algorithm=dpo trains offline: correction has to be null"):
        configured("dpo", kind="offline", kl_coefficient=0.1, correction="truncate")
    with pytest.raises(ValueError, match="correction"):
        configured("grpo", correction="some")


def test_only_ppo_has_a_critic():
    assert [name for name in ONLINE if online_algorithm(configured(name)).critic is not None] == ["ppo"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ppo", {"lambda": 0.9}, "algorithm=ppo.*'lambda'.*gamma, lam, value_coefficient"),
        ("entropic", {"beta": 2.0}, "algorithm=entropic.*'beta'"),
        ("ppo", {"gamma": 1.5}, "gamma of algorithm=ppo.*given: 1.5"),
        ("ppo", {"iterations": "4"}, "iterations of algorithm=ppo.*given: '4'"),
        ("grpo", {"loss": "gspo"}, "loss of algorithm=grpo.*given: 'gspo'"),
    ],
)
def test_wrong_options_are_refused_in_one_line(name, options, message):
    with pytest.raises(TrainingError, match=message) as refused:
        online_algorithm(configured(name, options=options))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["grpo", "reinforce", "entropic"])
def test_rewards_and_not_the_order_of_arrival_make_the_advantages(name):
    from sia_runner.training.batch import collect_batch

    rolled = groups([0.0, 1.0, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0])
    algorithm = online_algorithm(configured(name))
    there = algorithm.advantages(collect_batch(rolled)).advantage_bt
    assert (algorithm.advantages(collect_batch(rolled[::-1])).advantage_bt == there).all()


@pytest.mark.parametrize("name", ["grpo", "reinforce", "entropic", "ppo"])
def test_a_step_in_which_every_rollout_failed_has_no_rows(name):
    import numpy as np

    from sia_runner.training.batch import collect_batch

    signal = online_algorithm(configured(name)).advantages(collect_batch(groups([None] * 4)), np.zeros((0, 0)))
    assert signal.advantage_bt.shape == (0, 0)
    assert signal.used_b.shape == (0,)


def test_choosing_and_configuring_need_no_torch():
    modules = "sia_runner.selection.algorithm_choice, sia_runner.training.algorithms.ppo"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
