"""Fixtures of the network tests: seeded stand-in weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def seeded(parity: Path) -> ModuleType:
    """`seeded_weights.py` from beside the parity records."""
    spec = importlib.util.spec_from_file_location("seeded_weights", parity / "seeded_weights.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
