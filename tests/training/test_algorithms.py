"""The registry of algorithms, and how their options are checked."""

import subprocess
import sys

import pytest

from sia_runner.training.algorithms import MODULES, offline, online
from sia_runner.training.protocol import TrainingError
from tests.training.making import configured, groups

ONLINE = ["ppo", "grpo", "entropic", "reinforce"]


def test_every_algorithm_is_made_by_the_driver_of_its_kind():
    for name in MODULES:
        if name in ONLINE:
            assert online(configured(name)).loss.epsilon == 0.2
        else:
            made = offline(configured(name, kind="offline", kl=0.1 if name == "dpo" else 0.0))
            assert made.trainer in ("sft", "dpo")


@pytest.mark.parametrize("name", MODULES)
def test_the_other_driver_refuses_it(name):
    other = offline if name in ONLINE else online
    with pytest.raises(TrainingError, match=f"algorithm={name} is {'online' if name in ONLINE else 'offline'}"):
        other(configured(name))


def test_loss_settings_come_from_the_configuration():
    loss = online(configured("reinforce", kl=0.05, clip=0.3)).loss
    assert (loss.beta, loss.epsilon, loss.epsilon_high) == (0.05, 0.3, 0.3)
    assert (loss.loss_type, loss.importance_level, loss.iterations) == ("dapo", "token", 1)


def test_only_ppo_has_a_critic():
    assert [name for name in ONLINE if online(configured(name)).critic is not None] == ["ppo"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ppo", {"lambda": 0.9}, "algorithm=ppo has no option 'lambda'; allowed: gamma, lam, value_coefficient"),
        ("entropic", {"beta": 2.0}, "algorithm=entropic has no option 'beta'; it has none"),
        ("ppo", {"gamma": 1.5}, "option gamma of algorithm=ppo: Input should be less than or equal to 1; given: 1.5"),
        ("ppo", {"iterations": "4"}, "option iterations of algorithm=ppo: Input should be a valid integer; given: '4'"),
        ("grpo", {"loss": "gspo"}, "option loss of algorithm=grpo: .*given: 'gspo'"),
    ],
)
def test_wrong_options_are_refused_in_one_line(name, options, message):
    with pytest.raises(TrainingError, match=message) as refused:
        online(configured(name, options=options))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["grpo", "reinforce", "entropic"])
def test_rewards_and_not_the_order_of_arrival_make_the_advantages(name):
    from sia_runner.training.batch import collect

    rolled = groups([0.0, 1.0, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0])
    algorithm = online(configured(name))
    there = algorithm.advantages(collect(rolled)).advantage_bt
    assert (algorithm.advantages(collect(rolled[::-1])).advantage_bt == there).all()


@pytest.mark.parametrize("name", ["grpo", "reinforce", "entropic", "ppo"])
def test_a_step_in_which_every_rollout_failed_has_no_rows(name):
    import numpy as np

    from sia_runner.training.batch import collect

    if name == "ppo":
        pytest.importorskip("torch", reason="PPO's advantages are computed by torch")
    signal = online(configured(name)).advantages(collect(groups([None] * 4)), np.zeros((0, 0)))
    assert signal.advantage_bt.shape == (0, 0)
    assert signal.used_b.shape == (0,)


def test_choosing_and_configuring_need_no_torch():
    code = "import sys, sia_runner.training.rules, sia_runner.training.algorithms.ppo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
