"""The scene of the gateway's tests."""

import pytest

from tests.gateway.gateway_kit import Scene


@pytest.fixture
def scene(tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_TEST_KEY", "test-key")
    running = Scene(tmp_path)
    with running.server:
        yield running
        running.models.close()
    assert running.server.errors == []
