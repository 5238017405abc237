"""Fixtures of the network tests: seeded stand-in weights."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from tests.data.parity import seeded_weights


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def seeded() -> ModuleType:
    """Weights and inputs of the parity records, drawn from generators seeded by their names."""
    return seeded_weights
