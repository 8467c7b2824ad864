"""Every shipped sweep says what it is for, and expands to configurations that are accepted."""

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from sia_runner.compose.resolvers import register
from sia_runner.config import check
from sia_runner.ground.resources import bundled

SWEEPS = sorted(path.stem for path in bundled("sweeps").glob("*.yaml"))


def expanded(name):
    with initialize_config_dir(version_base="1.3", config_dir=str(bundled("conf"))):
        params = compose("config", [f"+sweeps={name}"], return_hydra_config=True).hydra.sweeper.params
        given = [f"{key}={value}" for key, value in params.items()]
        (every,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(given), None)
        for overrides in (one for one in every if f"seed={_seed(every)}" in one):  # seeds are all alike
            yield OmegaConf.to_container(compose("config", [f"+sweeps={name}", *overrides]), resolve=True)


def _seed(every):
    return min(int(text.removeprefix("seed=")) for one in every for text in one if text.startswith("seed="))


@pytest.mark.parametrize("name", SWEEPS)
def test_a_declared_sweep_is_several_runs_that_differ_and_that_the_schema_accepts(name):
    register()
    plain = list(expanded(name))
    assert len(plain) > 1 and all(one != other for at, one in enumerate(plain) for other in plain[:at])
    for one in plain:
        check(one)


@pytest.mark.parametrize("name", SWEEPS)
def test_its_second_line_says_what_it_is_for(name):
    first, second, *_ = (bundled("sweeps") / f"{name}.yaml").read_text().splitlines()
    assert first == "# @package _global_" and second.startswith("# ") and len(second) > 20
