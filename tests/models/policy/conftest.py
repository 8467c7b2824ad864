"""One model for all tests that do not change it."""

import pytest

from tests.models.policy.making import checkpoint, no_texts, spec


@pytest.fixture(scope="session")
def engine(tmp_path_factory):
    pytest.importorskip("torch", reason="the training extra is not installed")
    from sia_runner.models.policy.engine import Engine

    folder = tmp_path_factory.mktemp("policy")
    return Engine(spec(checkpoint(folder / "base")), folder / "cache", no_texts)
