"""Fixtures shared by all tests: real material where this machine has it, and a small rendered corpus everywhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from stsa_lightning.models.guidance import Guidance
    from stsa_lightning.models.synthesis import Synthesis

SHARED = Path(__file__).parents[2] / "shared"


def _folder(variable: str, default: Path) -> Path:
    path = Path(os.environ.get(variable, default))
    if not path.is_dir():
        pytest.skip(f"{variable} is not set and {default.name}/ is not beside the repository: real material is absent")
    return path


@pytest.fixture(scope="session")
def corpus() -> Path:
    """Real talking-head clips: clips/, audio/, hard/, MANIFEST.json."""
    return _folder("STSA_CORPUS", SHARED / "corpus")


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """Pretrained weights: lpips_backbones/, face_landmarker/."""
    return _folder("STSA_WEIGHTS", SHARED / "weights")


@pytest.fixture(scope="session")
def parity() -> Path:
    """Recorded answers of the released networks under seeded weights; `README.md` there says what they are."""
    return Path(__file__).parent / "data" / "parity"


@pytest.fixture(scope="session")
def sample_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered corpus: 3 speakers x 1 clip x 2 s, 256 px."""
    from stsa_lightning.data.sample import render_sample

    root = tmp_path_factory.mktemp("sample")
    render_sample(root, speakers=3, clips=1, seconds=2.0)
    return root


@pytest.fixture(scope="session")
def prepared_sample(sample_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rendered corpus after preparation."""
    from stsa_lightning.data.corpora import find_sources
    from stsa_lightning.data.prepare import PrepareSettings, prepare

    out = tmp_path_factory.mktemp("prepared")
    sources = find_sources("sample", sample_root)
    prepare(sources, out, PrepareSettings(), root=sample_root, workers=0, progress=False)
    return out


@pytest.fixture
def tiny_guidance() -> Guidance:
    from stsa_lightning.models.guidance import Guidance
    from stsa_lightning.models.presets import GUIDANCE

    return Guidance(**GUIDANCE["tiny"]).eval()


@pytest.fixture
def tiny_synthesis() -> Synthesis:
    from stsa_lightning.models.presets import SYNTHESIS
    from stsa_lightning.models.synthesis import Synthesis

    return Synthesis(**SYNTHESIS["tiny"]).eval()
