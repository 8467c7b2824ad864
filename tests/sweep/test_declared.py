"""Every shipped sweep says what it is for, and expands to configurations that are accepted."""

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from sia_runner.config.composition import register_resolvers
from sia_runner.config.experiment import check_experiment
from sia_runner.system import bundled_folder

SWEEPS = sorted(path.stem for path in bundled_folder("sweeps").glob("*.yaml"))


def expanded(name):
    with initialize_config_dir(version_base="1.3", config_dir=str(bundled_folder("conf"))):
        params = compose("config", [f"+sweeps={name}"], return_hydra_config=True).hydra.sweeper.params
        overrides_given = [f"{key}={value}" for key, value in params.items()]
        (every,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(overrides_given), None)
        for overrides in (item for item in every if f"seed={_seed(every)}" in item):  # seeds are all alike
            yield OmegaConf.to_container(compose("config", [f"+sweeps={name}", *overrides]), resolve=True)


def _seed(every):
    return min(int(text.removeprefix("seed=")) for item in every for text in item if text.startswith("seed="))


@pytest.mark.parametrize("name", SWEEPS)
def test_a_declared_sweep_is_several_runs_that_differ_and_that_the_schema_accepts(name):
    register_resolvers()
    plain = list(expanded(name))
    assert len(plain) > 1 and all(item != other for at, item in enumerate(plain) for other in plain[:at])
    for item in plain:
        check_experiment(item)


@pytest.mark.parametrize("name", SWEEPS)
def test_its_second_line_says_what_it_is_for(name):
    first, second, *_ = (bundled_folder("sweeps") / f"{name}.yaml").read_text().splitlines()
    assert first == "# @package _global_" and second.startswith("# ") and len(second) > 20
