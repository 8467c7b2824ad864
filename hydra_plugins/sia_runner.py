"""Our plugins for Hydra, which looks for plugins in this namespace.

The work is done in sia_runner/sweep/, which is imported only when a sweep runs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from sia_runner.system import bundled_folder


class SweepsSearchPath(SearchPathPlugin):
    """A search path that makes the folder sweeps/ the group ``+sweeps=NAME``, for our own command only."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the parent of sweeps/, and remove schemas of hydra-submitit-launcher that refuse our keys."""
        if not any(
            Path(item.path.removeprefix("file://")) == bundled_folder("conf") for item in search_path.get_path()
        ):
            return  # another program of this environment
        search_path.append("sia-runner", f"file://{bundled_folder('sweeps').parent}")
        launchers: Any = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
        for name in ("submitit_slurm.yaml", "submitit_local.yaml"):
            launchers.pop(name, None)


class Sweep(BasicSweeper):
    """A sweeper that expands as Hydra's own does and records the planned runs in the sweep's folder.

    It ends the command with the worst exit code of the runs (by SystemExit, since Hydra discards return values).
    """

    def __init__(self, params: dict[str, str] | None = None, resume: bool = False) -> None:
        super().__init__(max_batch_size=None, params=params)
        self.resume = resume

    def expand(self, arguments: Sequence[str]) -> list[list[str]]:
        """Return the overrides of each run; a value on the command line replaces that of the declared sweep."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        assert self.hydra_context is not None  # noqa: S101 - Hydra calls setup() first
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        return self.split_arguments(parser.parse_overrides([*self._parse_config(), *arguments]), None)[0]

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep; raises SystemExit with the worst exit code."""
        from sia_runner.sweep.runner import run_sweep

        assert self.hydra_context and self.config and self.launcher  # noqa: S101 - Hydra calls setup() first
        loader, config = self.hydra_context.config_loader, self.config
        runs = None if self.resume else self.expand(arguments)
        raise SystemExit(run_sweep(loader, config, self.launcher, arguments, runs))


class _Jobs(Launcher):
    """A launcher that runs each run of a sweep as a job of its own.

    The runs are composed in this process, so a job needs no Hydra, and a job that dies does not affect the others.
    """

    cluster = ""

    def __init__(self, **keys: Any) -> None:
        self.keys = {
            key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
            for key, value in keys.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from sia_runner.sweep.jobs import check_launcher_keys

        check_launcher_keys(self.cluster, self.keys)
        self._loader, self._config = hydra_context.config_loader, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from sia_runner.sweep.jobs import run_jobs

        run_jobs(self.cluster, self.keys, self._loader, self._config, job_overrides)
        return []


class Slurm(_Jobs):
    """A launcher that runs the jobs as one SLURM array."""

    cluster = "slurm"


class Local(_Jobs):
    """A launcher that runs the jobs as processes of this machine."""

    cluster = "local"
