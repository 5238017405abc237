"""Fixtures shared by all tests: real material where this machine has it, and a small rendered corpus everywhere."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from stsa_lightning.models.guidance import Guidance
    from stsa_lightning.models.synthesis import Synthesis
    from tests.pair import Pair

# Shells start what runs in the background with Ctrl+C ignored, and processes inherit that, those of the tests too.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).parents[2] / "shared"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Imports make a million objects that stay: they are searched for garbage once, not time and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`STSA_SLOW_UNTIL`, in seconds since 1970: a check with limited time begins no slow test later, and says so."""
    until = os.environ.get("STSA_SLOW_UNTIL")
    if until and item.get_closest_marker("slow") and time.time() > float(until):
        pytest.skip(f"no time is left for {item.name} (STSA_SLOW_UNTIL)")


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


def _made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that whichever of pytest's processes needs it first makes for all of them. Nobody changes it."""
    base = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    folder, done = base / name, base / f"{name}.done"
    with FileLock(base / f"{name}.lock"):
        if not done.exists():
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def sample_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered corpus: 3 speakers x 1 clip x 2 s, 256 px."""
    from stsa_lightning.data.sample import render_sample

    return _made_once(tmp_path_factory, "sample", lambda root: render_sample(root, speakers=3, clips=1, seconds=2.0))


@pytest.fixture(scope="session")
def short_clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two rendered speakers x 1 clip x 16 frames, 256 px: for all that asks a face and no length."""
    from stsa_lightning.data.sample import render_sample

    def make(root: Path) -> None:
        render_sample(root, speakers=2, clips=1, seconds=0.64)

    return sorted(_made_once(tmp_path_factory, "short", make).rglob("*.mp4"))


@pytest.fixture(scope="session")
def prepared_sample(sample_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rendered corpus after preparation."""
    from stsa_lightning.data.corpora import find_sources
    from stsa_lightning.data.prepare import PrepareSettings, prepare

    def make(out: Path) -> None:
        sources = find_sources("sample", sample_root)
        prepare(sources, out, PrepareSettings(), root=sample_root, workers=0, progress=False)

    return _made_once(tmp_path_factory, "prepared", make)


@pytest.fixture(scope="session")
def spoken() -> np.ndarray:
    """Three seconds of synthetic speech, (48000,) float32 at 16 kHz, of even loudness."""
    from stsa_lightning.data.sample.speech import Voice, articulate, script, synthesise

    voice, rng = Voice(), np.random.default_rng(0)
    segments, _ = script(3.0, voice, rng)
    wave = synthesise(segments, articulate(segments), voice, rng)[:48_000]
    return (0.08 * wave / np.sqrt(np.square(wave).mean())).clip(-1, 1).astype(np.float32)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Two processes that are ranks 0 and 1 of one group, for everything distributed."""
    from tests.pair import Pair

    with Pair(tmp_path_factory.mktemp("pair")) as ranks:
        yield ranks


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
