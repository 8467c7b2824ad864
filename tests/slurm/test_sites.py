"""conf/compute/site/*.yaml: profiles of clusters, shipped ones and a user's own."""

import pytest

from sia_runner.config.experiment import check_experiment
from sia_runner.system import bundled_folder
from tests.config.test_providers import composed

SITES = sorted(path.stem for path in (bundled_folder("conf") / "compute" / "site").glob("*.yaml"))
ACCOUNT = "compute.resources.default.account=mine"


def resources(site, kind, *overrides):
    return check_experiment(composed("compute=slurm", f"compute/site={site}", *overrides)).compute.resources.of(kind)


@pytest.mark.parametrize("site", SITES)
def test_every_profile_is_a_valid_configuration_that_names_itself(site):
    config = check_experiment(
        composed("compute=slurm", f"compute/site={site}", ACCOUNT.replace("compute", "++compute", 1))
    )
    assert config.compute.site == site and config.compute.resources.of("train").minutes


def test_a_profile_wins_over_the_defaults_and_the_command_line_over_it():
    assert resources("local", "run").partition == "cpu" and resources("local", "train").partition == "gpu"
    assert resources("local", "run").memory_gb == 1
    assert resources("local", "run", "compute.resources.default.memory_gb=2").memory_gb == 2


def test_what_a_kind_does_not_say_it_takes_from_default():
    train = resources("campus_accounts", "train", ACCOUNT)
    assert (train.account, train.partition, train.gpus) == ("mine", "gpu", "a100:1")
    assert train.setup == resources("campus_accounts", "gate", ACCOUNT).setup != []


def test_an_account_that_has_to_be_given_is_asked_for_in_one_line(cli):
    done = cli("compute=slurm", "compute/site=campus_accounts")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("refused: compute.resources.default.account: a value is needed")


def test_a_profile_of_ones_own_joins_with_config_dir(cli):
    mine = cli.folder / "mine" / "compute" / "site" / "ours.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("# @package compute\n# Ours.\nsite: ours\nresources: {default: {partition: astronomy}}\n")
    given = ("--config-dir", str(cli.folder / "mine"), "compute=slurm", "compute/site=ours")
    done = cli(*given, "--cfg", "job")
    assert done.returncode == 0 and "partition: astronomy" in done.stdout
    assert "ours" in cli("--help", "--config-dir", str(cli.folder / "mine")).stdout
