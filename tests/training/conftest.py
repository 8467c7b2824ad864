"""One warmed toy model for all tests of training; each test gets a copy."""

import copy
from typing import Any

import pytest

from tests.training import toy


@pytest.fixture(scope="session")
def warmed() -> Any:
    torch = pytest.importorskip("torch", reason="training needs torch")
    torch.set_num_threads(1)
    return toy.warm(toy.small_model())


@pytest.fixture
def policy(warmed: Any) -> toy.ToyPolicy:
    return toy.ToyPolicy(copy.deepcopy(warmed), toy.small_tokenizer())
