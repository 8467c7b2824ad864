"""Figures of others: where they come from, and when there are none."""

from omegaconf import OmegaConf

from sia_runner.results.report.runs import published_figures
from sia_runner.system import bundled_folder

SHIPPED = OmegaConf.to_container(OmegaConf.load(bundled_folder("conf") / "task" / "lawbench.yaml"))


def test_those_of_the_runs_own_configuration_count():
    assert (
        published_figures({"task": {"name": "lawbench", "published": {"source": "mine", "prior": 0.2}}})["source"]
        == "mine"
    )


def test_a_run_that_declares_none_has_none():
    assert published_figures({"task": {"name": "lawbench", "data": SHIPPED["data"], "published": None}}) == {}


def test_an_older_run_on_the_same_data_has_those_that_are_shipped():
    given = {"task": {"name": "lawbench", "data": SHIPPED["data"]}}
    assert published_figures(given) == SHIPPED["published"]
    assert {key: SHIPPED["published"][key] for key in ("initial", "prior", "sia_h", "sia_wh")} == {
        "initial": 0.135,
        "prior": 0.45,
        "sia_h": 0.5,
        "sia_wh": 0.701,
    }  # arXiv:2605.27276
    assert SHIPPED["published"]["protocol"]


def test_other_data_of_the_same_name_have_none():
    assert published_figures({"task": {"name": "lawbench", "data": {"sha256": "0" * 64}}}) == {}


def test_a_name_is_no_path():
    for name in ("../task/lawbench", "", "x" * 5000, "no_such_task", None, ["lawbench"]):
        assert published_figures({"task": {"name": name, "data": SHIPPED["data"]}}) == {}
    assert published_figures({"task": "lawbench"}) == {} == published_figures({})
