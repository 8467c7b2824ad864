"""One model for all tests that do not change it."""

import pytest

from tests.policy.checkpoints import checkpoint, no_texts, spec


@pytest.fixture(scope="session")
def engine(tmp_path_factory):
    pytest.importorskip("torch", reason="the training extra is not installed")
    from sia_runner.policy.engine import PolicyEngine

    folder = tmp_path_factory.mktemp("policy")
    return PolicyEngine(spec(checkpoint(folder / "base")), folder / "cache", no_texts)
