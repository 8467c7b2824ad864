"""A resumed run keeps its policy; a run at a service may leave it for a base here that the user vouches for."""

import pytest
import yaml

from sia_runner.config.composition import register_resolvers
from sia_runner.config.experiment import check_experiment
from sia_runner.experiment import runner
from sia_runner.store.run_directory import RunDirectoryError
from tests.config.test_providers import composed

KEY = "target_agent.policy"
SERVER = [f"{KEY}.backend=vllm", f"{KEY}.base_url=http://localhost:8000/v1"]
BASES = {"tinker": "openai/gpt-oss-20b", "vllm": "openai/gpt-oss-20b", "peft": "tiny"}


class Prepared(Exception):
    """The resume got as far as the checks of packages and servers."""


@pytest.fixture
def resume(tmp_path, monkeypatch):
    """`resume(backend, …)` resumes a run of that backend with overrides; returns the policy that it would have."""
    register_resolvers()
    policies = []

    def prepare(context):
        policies.append(context.config.target_agent.policy)
        raise Prepared

    monkeypatch.setattr(runner, "prepare_run", prepare)

    def go(backend, *overrides):
        own = [f"policy={backend}", f"{KEY}.base={BASES[backend]}", "trainer=grpo", "task=lawbench"]
        own += [f"+{SERVER[1]}"] if backend == "vllm" else []
        config = check_experiment(composed(*own))
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(by_alias=True)))
        with pytest.raises(Prepared):
            runner.resume_run(tmp_path, overrides)
        return policies[-1]

    return go


def test_a_run_leaves_its_service_for_a_base_that_is_vouched_for(resume):
    policy = resume("tinker", *SERVER, f"{KEY}.trust_base=true", f"{KEY}.dtype=bfloat16")
    assert (policy.backend, policy.trust_base, policy.dtype) == ("vllm", True, "bfloat16")


@pytest.mark.parametrize("overrides", [SERVER, [f"{KEY}.backend=peft"], [f"{KEY}.base=other"]])
def test_not_without_saying_so(resume, overrides):
    with pytest.raises(RunDirectoryError, match=r"target_agent\.policy\.trust_base=true"):
        resume("tinker", *overrides)


@pytest.mark.parametrize(("backend", "override"), [("vllm", "base=other"), ("peft", "trust_base=true")])
def test_another_run_keeps_its_policy(resume, backend, override):
    with pytest.raises(RunDirectoryError, match="keeps its policy"):
        resume(backend, f"{KEY}.{override}")


def test_what_a_sweep_repeats_of_its_own_settings_changes_nothing(resume):
    assert resume("peft", f"{KEY}.backend=peft", f"{KEY}.base=tiny").base == "tiny"
