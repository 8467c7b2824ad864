"""A run context builds each component once, on first use, and crosses processes without them."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from sia_runner.config.base import ComponentError
from sia_runner.config.experiment import check_experiment
from sia_runner.experiment import context as module
from sia_runner.experiment.context import RunContext
from sia_runner.store.run_directory import RunDir
from tests.config.test_providers import composed


@pytest.fixture
def context(tmp_path):
    return RunContext(check_experiment(composed("task=smoke")), RunDir(tmp_path))


def test_threads_share_what_one_of_them_built(context):
    with ThreadPoolExecutor(8) as pool:
        tasks = set(pool.map(lambda _: id(context.task), range(64)))
    assert len(tasks) == 1


def test_a_component_whose_class_cannot_be_loaded_stops_nothing_but_its_own_use(context):
    sandbox = context.config.sandbox.model_copy(update={"target": "nowhere.Sandbox"})
    broken = RunContext(context.config.model_copy(update={"sandbox": sandbox}), context.run)
    assert broken.task.name == "smoke"
    with pytest.raises(ComponentError, match=r"nowhere\.Sandbox cannot be loaded"):
        broken.build_all()


def test_a_job_gets_the_configuration_and_the_run_directory_only(context):
    context.build_all()
    sent = pickle.loads(pickle.dumps(context))
    assert sent.config == context.config and sent.run == context.run and sent.task is not context.task


def test_a_closed_gateway_is_opened_anew_and_one_that_was_never_used_is_not_opened(tmp_path, monkeypatch):
    provider = ["provider=custom", "provider.base_url=http://127.0.0.1:1/v1", "provider.model=m", "provider.key=null"]
    context = RunContext(check_experiment(composed("task=smoke", "target_agent=model", *provider)), RunDir(tmp_path))
    opened = []
    open_gateway = RunContext._open_gateway
    monkeypatch.setattr(module.RunContext, "_open_gateway", lambda self: opened.append(1) or open_gateway(self))
    context.close_gateway()
    assert not opened
    first = context.gateway
    assert first is context.gateway and len(opened) == 1
    context.close_gateway()
    assert context.gateway is not first
    context.close_gateway()
