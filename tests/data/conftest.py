"""Corpora written directly for tests that need no videos."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """The helpers of `synthetic.py` (tests are no package that could import it)."""
    spec = importlib.util.spec_from_file_location("synthetic", Path(__file__).with_name("synthetic.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["synthetic"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def synthetic_root(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5 speakers x 2 clips of 30 frames."""
    root = tmp_path_factory.mktemp("synthetic")
    synthetic.write_synthetic_corpus(root)
    return root
