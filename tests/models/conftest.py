"""The scene of the gateway's tests."""

import pytest

from tests.models.gateway_kit import Scene


@pytest.fixture
def scene(tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_TEST_KEY", "test-key")
    made = Scene(tmp_path)
    with made.server:
        yield made
        made.models.close()
    assert made.server.errors == []
