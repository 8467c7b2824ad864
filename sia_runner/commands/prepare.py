"""The command `prepare` fetches or makes a task's data now."""

from argparse import Namespace

from sia_runner.config.composition import compose_overrides
from sia_runner.config.experiment import check_task
from sia_runner.config.refusals import EXIT_REFUSED, print_refusals
from sia_runner.experiment.context import build_task
from sia_runner.system import cache_dir


def main(options: Namespace) -> int:
    """Check the task alone (no key or sandbox is needed) and prepare its data; return the exit code."""
    plain = compose_overrides(options.overrides)
    if plain is None:
        return EXIT_REFUSED
    with print_refusals(plain) as outcome:
        spec = check_task(plain)
        build_task(spec, plain["split_seed"]).prepare(lambda text: print(text, flush=True))
        print(f"task {spec.name} is prepared in {cache_dir()}")
        outcome.code = 0
    return outcome.code
