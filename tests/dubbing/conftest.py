"""Fixtures of the dubbing tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stsa_lightning.models.checkpoint import save_networks
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.presets import GUIDANCE, SYNTHESIS
from stsa_lightning.models.synthesis import Synthesis


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny networks with random weights."""
    torch.manual_seed(0)
    guidance, synthesis = Guidance(**GUIDANCE["tiny"]), Synthesis(**SYNTHESIS["tiny"])
    path = tmp_path_factory.mktemp("networks") / "tiny.safetensors"
    return save_networks(path, guidance, synthesis, {"features": "logmel", "num_frames": 5})
