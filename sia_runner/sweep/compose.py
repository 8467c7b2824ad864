"""What Hydra composes for one run of a sweep, as something that can be carried out anywhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sia_runner.compose.hydra_app import absolute
from sia_runner.sweep.one_run import SweepRun


def composed_run(composed: Any, hydra: Any) -> SweepRun:
    """The run as Hydra composed it; `hydra` is its configuration. Raises OmegaConfBaseException for what is missing."""
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    absolute(plain)
    return SweepRun(Path(hydra.sweep.dir).resolve(), str(hydra.sweep.subdir), plain, tuple(hydra.overrides.task))


def compose(loader: Any, config: Any, overrides: Sequence[str], number: int = 0) -> tuple[Any, Any]:
    """One run's configuration and Hydra's own. Raises what Hydra raises."""
    from omegaconf import open_dict

    composed = loader.load_sweep_config(config, list(overrides))
    hydra = composed.hydra
    with open_dict(composed):
        hydra.job.num = hydra.job.id = number
        hydra.sweep.subdir = str(hydra.sweep.subdir)  # made of the run's keys, which it is parted from here
        hydra.sweep.dir = str(hydra.sweep.dir)
        del composed["hydra"]
    return composed, hydra


def here(composed: Any, hydra: Any) -> int:
    """One run in this process, as Hydra's own launcher does it. KeyboardInterrupt when somebody wants it all to end."""
    from sia_runner.run.runner import asked_to_stop

    code = composed_run(composed, hydra)()
    if asked_to_stop():
        raise KeyboardInterrupt
    return code
