"""The command `run` starts a run or a sweep: Hydra composes the configuration, we check it and start."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sia_runner.commands.arguments import UsageError, as_override
from sia_runner.config import composition
from sia_runner.config.refusals import EXIT_REFUSED, nearest_choice, print_refusals
from sia_runner.system import bundled_folder


def main(args: Sequence[str]) -> int:
    """Compose and run; return the exit code. Raises UsageError for an option that Hydra does not have."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    unknown = next((arg for arg in parser.parse_known_args(args)[1] if arg.startswith("-")), None)
    if unknown:
        if hint := as_override(unknown.lstrip("-"), args[[*args].index(unknown) + 1 :]):
            raise UsageError(f"{unknown}: write it as {hint}")
        options = [name for name in parser._option_string_actions if name.startswith("--")]
        raise UsageError(f"{unknown}: no such option{nearest_choice(unknown, options)}")
    sys.argv[1:] = _one_config_dir(args)  # Hydra reads them there
    return compose_and_run()


def _one_config_dir(args: Sequence[str]) -> list[str]:
    """Return the arguments with one --config-dir, which is all that Hydra reads; others join its search path."""
    from sia_runner.config.help import split_config_dirs

    (_, *folders), others = split_config_dirs(args)
    if len(folders) < 2:
        return list(args)
    first, *more = (folder.expanduser().resolve() for folder in folders)
    if missing := next((folder for folder in more if not folder.is_dir()), None):
        raise UsageError(f"--config-dir={missing}: no such folder")
    path = ",".join(composition.quote_text(f"file://{folder}") for folder in more)
    end = max((at for at, arg in enumerate(others, 1) if "=" in arg and not arg.startswith("-")), default=len(others))
    return [f"--config-dir={first}", *others[:end], f"hydra.searchpath=[{path}]", *others[end:]]  # overrides together


def compose_and_run() -> int:
    """Compose from sys.argv and start a run or a sweep; return the exit code, of a sweep the worst one."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises instead of printing a traceback of its own
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    composition.register_resolvers()
    sys.argv[1:] = composition.quote_overrides(sys.argv[1:])
    if not _may_set_mode(sys.argv[1:]):
        from hydra._internal.hydra import Hydra

        Hydra.get_mode = lambda *_, **__: None  # Hydra's own result; it would compose a first time only for this
    codes = [0]

    @hydra.main(version_base="1.3", config_path=str(bundled_folder("conf")), config_name="config")
    def sia_runner(composed: Any) -> int:
        codes.append(_run_composed(composed))
        return codes[-1]

    try:
        sia_runner()  # pyright: ignore[reportCallIssue] - Hydra gives the argument
    except (HydraException, OmegaConfBaseException) as error:
        return composition.print_hydra_refusal(error)
    except SystemExit as error:  # a sweep's, with its worst exit code; or Hydra's, which refused an option
        return error.code if isinstance(error.code, int) else EXIT_REFUSED
    return codes[-1]


def _may_set_mode(arguments: list[str]) -> bool:
    """Return True if an argument can set hydra.mode: one of `sweeps`, an experiment, or a folder of the user's."""
    others = [argument for argument in arguments if not argument.startswith("hydra.run.dir=")]
    return any(argument.startswith(("-", "+", "~", "hydra", "experiment")) for argument in others)


def _run_composed(composed: Any) -> int:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        from sia_runner.sweep.runner import run_in_this_process

        return run_in_this_process(composed, hydra)
    folder, code = Path(hydra.runtime.output_dir), EXIT_REFUSED
    try:
        plain: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        composition.print_hydra_refusal(error)
    else:
        with print_refusals(plain) as outcome:
            from sia_runner.config.experiment import check_experiment
            from sia_runner.experiment.runner import start_run

            composition.make_paths_absolute(plain, hydra.runtime)
            outcome.code = start_run(check_experiment(plain), folder, list(hydra.overrides.task))
        code = outcome.code
    if code == EXIT_REFUSED and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()  # Hydra made it before our check; nothing was started
    return code
