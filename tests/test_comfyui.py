"""The ComfyUI node, loaded as ComfyUI loads it, with fakes of what it takes from there."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from stsa_lightning.media.video import VideoReader
from stsa_lightning.models.checkpoint import save_networks
from stsa_lightning.models.guidance import Guidance
from stsa_lightning.models.synthesis import Synthesis

FOLDER = Path(__file__).parents[1] / "integrations/comfyui"
RATE = 22_050


class StoppedError(Exception):
    pass


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """ComfyUI's bar and its button that stops a workflow."""
    state = SimpleNamespace(shown=[], stop_after=None)

    def check() -> None:
        if state.stop_after is not None and len(state.shown) >= state.stop_after:
            raise StoppedError

    class ProgressBar:
        def __init__(self, total: int) -> None:
            state.total = total

        def update(self, by: int) -> None:
            state.shown.append(by)

    for name, contents in {
        "comfy": {},
        "comfy.utils": {"ProgressBar": ProgressBar},
        "comfy.model_management": {"throw_exception_if_processing_interrupted": check},
    }.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    return state


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    name = str(FOLDER).replace(".", "_x_")  # as ComfyUI names what it loads
    spec = importlib.util.spec_from_file_location(name, FOLDER / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop(f"{name}.nodes", None)


@pytest.fixture
def node(package: ModuleType) -> Any:
    return package.NODE_CLASS_MAPPINGS["STSADub"]()


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_guidance: Guidance, tiny_synthesis: Synthesis) -> str:
    meta = {"features": "logmel", "num_frames": 5}
    return str(save_networks(tmp_path / "tiny.safetensors", tiny_guidance, tiny_synthesis, meta))


@pytest.fixture(scope="module")
def images(sample_root: Path) -> torch.Tensor:
    """(12, 256, 256, 3): a head, absent from three frames."""
    with VideoReader(min(sample_root.rglob("*.mp4"))) as video:
        frames = torch.from_numpy(np.stack(list(video.get(range(12))))).float() / 255
    frames[7:10] = 0.25
    return frames


def speech(seconds: float, channels: int = 2) -> dict[str, Any]:
    wave = np.random.default_rng(0).normal(0, 0.1, (1, channels, round(seconds * RATE)))
    return {"waveform": torch.from_numpy(wave.astype(np.float32)), "sample_rate": RATE}


def test_node_redraws_the_mouth_and_passes_frames_without_a_face_through(
    node: Any, comfy: SimpleNamespace, images: torch.Tensor, checkpoint: str
) -> None:
    audio = speech(0.48)
    drawn, sound, report = node.dub(images, audio, 25.0, checkpoint=checkpoint, device="cpu")
    assert drawn.shape == images.shape
    assert drawn.dtype == torch.float32
    assert report.startswith("12 frames")
    torch.testing.assert_close(sound["waveform"], audio["waveform"])
    changed = (drawn - images).abs().amax(dim=(1, 2, 3)) * 255
    assert (changed[7:10] <= 0.5).all()
    assert (changed[:5] > 20).all()
    assert ((drawn[:5, :60] - images[:5, :60]).abs() * 255 <= 0.5).all()  # above the face, to the bit
    assert (comfy.total, len(comfy.shown)) == (12, 12)


@pytest.mark.parametrize(("longer", "frames", "seconds"), [("bounce", 15, 0.6), ("cut", 12, 0.48)])
def test_node_with_speech_longer_than_the_images(
    node: Any, images: torch.Tensor, checkpoint: str, longer: str, frames: int, seconds: float
) -> None:
    drawn, sound, _ = node.dub(images, speech(0.6), 25.0, longer, checkpoint=checkpoint, device="cpu")
    assert len(drawn) == frames
    assert sound["waveform"].shape == (1, 2, round(seconds * RATE))


def test_node_without_any_face_passes_all_through(node: Any, images: torch.Tensor, checkpoint: str) -> None:
    empty = torch.full_like(images, 0.5)
    drawn, _, report = node.dub(empty, speech(0.6), 25.0, checkpoint=checkpoint, device="cpu")
    assert len(drawn) == 15
    assert ((drawn - 0.5).abs() * 255 < 0.51).all()
    assert "no face was found" in report


def test_node_stops_with_the_workflow(node: Any, comfy: SimpleNamespace, images: torch.Tensor, checkpoint: str) -> None:
    comfy.stop_after = 3
    with pytest.raises(StoppedError):
        node.dub(images, speech(0.48), 25.0, checkpoint=checkpoint, device="cpu")
    assert len(comfy.shown) == 3


def test_the_example_workflow_fits_the_node(package: ModuleType) -> None:
    steps = json.loads((FOLDER / "workflow.json").read_text())
    (step,) = [step for step in steps.values() if step["class_type"] == "STSADub"]
    inputs = package.NODE_CLASS_MAPPINGS["STSADub"].INPUT_TYPES()
    known = inputs["required"] | inputs["optional"]
    assert set(inputs["required"]) <= set(step["inputs"]) <= set(known)
    for name, value in step["inputs"].items():
        kinds = known[name][0]
        assert not isinstance(kinds, list) or value in kinds
    links = [value for step in steps.values() for value in step["inputs"].values() if isinstance(value, list)]
    assert {source for source, _ in links} <= set(steps)
