"""Faces at the frames' own resolution within training, against what dubbing makes of the same networks' output."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stsa_lightning.data.windows import planes
from stsa_lightning.face.native_resolution import FaceWarp, for_reading, native_face
from stsa_lightning.losses.cil import CILSettings
from stsa_lightning.losses.native_resolution import native_faces
from stsa_lightning.losses.objective import LossSettings, LossWeights, Objective
from stsa_lightning.losses.term import GeneratorStep

S, FRAMES, COUNT = 64, 2, 2
NONE = dict.fromkeys(LossWeights.__dataclass_fields__, 0.0)


def pictures(count: int, size: int, seed: int) -> np.ndarray:
    """(count, size, size, 3) uint8: smooth colours with edges."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 9, 9, 3), dtype=np.uint8)
    return np.stack([cv2.resize(picture, (size, size), interpolation=cv2.INTER_CUBIC) for picture in coarse])


def as_floats(made: np.ndarray) -> Tensor:
    return planes(made).float() / 255


def output(size: int) -> tuple[Any, np.ndarray, Tensor]:
    """What a network may have made of references, these (FRAMES * COUNT, size, size, 3), and their transforms."""
    torch.manual_seed(0)
    references = pictures(FRAMES * COUNT, size, 1)
    faces = [cv2.resize(face, (S, S), interpolation=cv2.INTER_AREA) for face in references[::COUNT]]
    faces[0][40:50, 20:40] = (200, 40, 40)  # what no reference shows
    flow = F.interpolate(2 * torch.randn(FRAMES * COUNT, 2, 6, 6), (S, S), mode="bicubic")
    confidence = torch.rand(FRAMES, COUNT, 1, S, S) * 0.2 + torch.rand(FRAMES, COUNT, 1, 1, 1)
    theta = torch.eye(2, 3) + 0.03 * torch.randn(FRAMES, COUNT, 2, 3)
    made = SimpleNamespace(
        face=as_floats(np.stack(faces)), flow=flow.unflatten(0, (FRAMES, COUNT)), confidence=confidence
    )
    return made, references, theta


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("size", [80, 128, 150])
def test_faces_are_those_of_a_dub(size: int, aligned: bool) -> None:
    made, references, theta = output(size)
    theta = theta if aligned else torch.eye(2, 3).expand_as(theta)
    seen = as_floats(references).unflatten(0, (FRAMES, COUNT))
    _, found = native_faces(made, seen, theta if aligned else None)
    assert found.shape == (FRAMES, 3, size, size)
    for frame in range(FRAMES):
        warp = FaceWarp(made.flow[frame].numpy(), made.confidence[frame, :, 0].numpy(), theta[frame].numpy())
        own = [for_reading(face) for face in references[frame * COUNT : (frame + 1) * COUNT]]
        small = (255 * made.face[frame]).permute(1, 2, 0).byte().numpy()
        dubbed = native_face(small, warp, own, (size, size))
        apart = np.abs(255 * found[frame].permute(1, 2, 0).numpy() - dubbed)
        assert apart.mean() < 0.5  # a dub rounds
        assert np.quantile(apart[8:-8, 8:-8], 0.999) < 2.5


def test_gradients_reach_flow_confidence_and_face() -> None:
    made, references, theta = output(128)
    for name in ("face", "flow", "confidence"):
        getattr(made, name).requires_grad_()
    warped, face = native_faces(made, as_floats(references).unflatten(0, (FRAMES, COUNT)), theta)
    warped.square().mean().backward(retain_graph=True)
    assert made.face.grad is None
    assert made.flow.grad.abs().sum() > 0
    face.square().mean().backward()
    assert all(getattr(made, name).grad.abs().sum() > 0 for name in ("face", "confidence"))


@pytest.mark.parametrize("frames", [1, 3], ids=["centres", "every frame"])
def test_terms_compare_lower_halves_of_the_frames_that_were_rendered(frames: int) -> None:
    weights = LossWeights(**{**NONE, "native_warp": 1.0})
    objective = Objective(LossSettings(weights), (4, 8, 8), CILSettings(weight=0.0))
    references = as_floats(pictures(2 * COUNT, 128, 2)).unflatten(0, (2, COUNT))
    # Both references alike, read where each pixel is: the warped reference is the reference.
    references[:, 1] = references[:, 0]
    places = (np.arange(S, dtype=np.float32) + 0.5) * (S - 1) / S - np.arange(S, dtype=np.float32)
    still = torch.from_numpy(np.stack(np.broadcast_arrays(places[None, :], places[:, None])))
    count = 2 * frames
    made: Any = SimpleNamespace(
        face=torch.rand(count, 3, S, S),
        flow=still.expand(count, COUNT, 2, S, S),
        confidence=torch.ones(count, COUNT, 1, S, S),
    )
    true = references[:, :1].repeat(1, 3, 1, 1, 1)
    true[:, :, :, :64] = 0.0  # upper halves are not looked at
    true[:, 1] += 0.1  # the centre
    batch = {
        "native_faces": true,
        "native_references": references,
        "theta": torch.eye(2, 3).expand(2, 3, COUNT, 2, 3),
    }
    step = GeneratorStep(batch, synthesis=made, frames=frames)
    found = objective.native_terms(step, True, True)
    assert found.keys() == {"native_warp"}
    assert found["native_warp"].item() == pytest.approx(0.1 if frames == 1 else 0.1 / 3, abs=2e-3)
    assert objective.native_terms(GeneratorStep(batch), True, True) == {}
    none = Objective(LossSettings(LossWeights(**NONE)), (4, 8, 8), CILSettings(weight=0.0))
    assert none.native_terms(step, True, True) == {}
