"""Turning what Hydra composes for one run of a sweep into a run that can be carried out anywhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sia_runner.compose.hydra_app import absolute
from sia_runner.sweep.one_run import SweepRun


def composed_run(composed: Any, hydra: Any) -> SweepRun:
    """Return the run that Hydra composed; `hydra` is Hydra's own configuration.

    Raises OmegaConfBaseException for missing values.
    """
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    absolute(plain)
    return SweepRun(Path(hydra.sweep.dir).resolve(), str(hydra.sweep.subdir), plain, tuple(hydra.overrides.task))


def compose(loader: Any, config: Any, overrides: Sequence[str], number: int = 0) -> tuple[Any, Any]:
    """Return one run's configuration and Hydra's own. Raises what Hydra raises."""
    from omegaconf import open_dict

    composed = loader.load_sweep_config(config, list(overrides))
    hydra = composed.hydra
    with open_dict(composed):
        hydra.job.num = hydra.job.id = number
        # both interpolate the run's keys, so they are resolved before Hydra's configuration is removed from it
        hydra.sweep.subdir = str(hydra.sweep.subdir)
        hydra.sweep.dir = str(hydra.sweep.dir)
        del composed["hydra"]
    return composed, hydra


def here(composed: Any, hydra: Any) -> int:
    """Carry out one run in this process, as Hydra's own launcher does, and return its exit code.

    Raises KeyboardInterrupt when a signal asked for the whole sweep to end.
    """
    from sia_runner.run.runner import asked_to_stop

    code = composed_run(composed, hydra)()
    if asked_to_stop():
        raise KeyboardInterrupt
    return code
