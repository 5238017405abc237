from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stsa_lightning.face.box import crop_face
from stsa_lightning.face.native_resolution import (
    FaceWarp,
    for_reading,
    last_rows,
    native_face,
    native_size,
    sampling_grid,
    shrunk,
)
from stsa_lightning.models.temporal_path import deformation, resize_deformation

S = 64
IDENTITY = np.eye(2, 3, dtype=np.float32)
# The network reads half a pixel off at the rims, see `deformation`: this flow reads each pixel where it is.
OFF = (np.arange(S, dtype=np.float32) + 0.5) * (S - 1) / S - np.arange(S, dtype=np.float32)


def still() -> np.ndarray:
    """(2, S, S) the flow that leaves a face as it is."""
    return np.stack(np.broadcast_arrays(OFF[None, :], OFF[:, None])).astype(np.float32)


def zone_plate(width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8: rings that grow finer outwards, up to a period of five pixels."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    squared = (x - width / 2) ** 2 + (y - height / 2) ** 2
    phase = np.pi * squared / (5 * np.hypot(width, height) / 2)
    return np.stack([127.5 + 100 * np.cos(phase + c) for c in range(3)], axis=-1).round().astype(np.uint8)


def warp_of(*flows: np.ndarray, theta: np.ndarray = IDENTITY, shares: tuple[float, ...] = ()) -> FaceWarp:
    confidence = np.ones((len(flows), S, S), np.float32)
    confidence *= np.asarray(shares or [1.0] * len(flows), np.float32)[:, None, None]
    return FaceWarp(np.stack(flows), confidence, np.stack([theta] * len(flows)))


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.square(a.astype(float) - b).mean(), 1e-9)))


def native(face: np.ndarray, warp: FaceWarp, references: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    return native_face(face, warp, [for_reading(reference) for reference in references], size)


def small(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (S, S), interpolation=cv2.INTER_AREA)


def test_reference_read_where_it_is_comes_back_at_its_own_resolution() -> None:
    reference = zone_plate(210, 250)
    found = native(small(reference), warp_of(still()), [reference], (210, 250))
    enlarged = cv2.resize(small(reference), (210, 250), interpolation=cv2.INTER_CUBIC)
    assert psnr_db(found, reference) > 45
    assert psnr_db(enlarged, reference) < 20


@pytest.mark.parametrize("rows", [S, last_rows(S)])
def test_shift_of_whole_pixels_shifts_the_reference(rows: int) -> None:
    """By 4 pixels of the network's face to the right and 2 up: 16 and 8 of one four times as large."""
    reference = zone_plate(256, 256)
    flow = still() + np.array([4, 2], np.float32)[:, None, None] * (S - 1) / S
    shifted = np.roll(reference, (-8, -16), axis=(0, 1))
    warp = warp_of(flow[:, -rows:])
    warp = FaceWarp(warp.flow, warp.confidence[:, -rows:], warp.theta)
    found = native(small(shifted), warp, [reference], (256, 256))
    inner = np.s_[132:-20, 20:-20]
    assert psnr_db(found[inner], shifted[inner]) > 45


def test_grid_is_that_of_the_similarity_after_the_flow_of_the_network() -> None:
    """Against the network's own operations: its deformation enlarged, the similarity, `grid_sample`."""
    generator = torch.Generator().manual_seed(0)
    flow = 6 * F.interpolate(torch.randn(1, 2, 5, 5, generator=generator), (S, S), mode="bicubic")
    theta = torch.tensor([[0.9, -0.1, 0.05], [0.12, 1.05, -0.08]])
    size, reference = (190, 230), zone_plate(170, 140)
    identity = deformation(torch.zeros(1, 2, S, S))
    centres = [(2 * torch.arange(count) + 1) / count - 1 for count in size]
    own = torch.stack(torch.meshgrid(*centres, indexing="xy"), dim=-1)
    # Places of pixels are linear, and enlarging them would bend at the rims: what is added to them is enlarged.
    small_own = torch.stack(torch.meshgrid(*[(2 * torch.arange(S) + 1) / S - 1] * 2, indexing="xy"), dim=-1)
    apart = (deformation(flow) - small_own).permute(0, 3, 1, 2)
    place = own + F.interpolate(apart, size[::-1], mode="bilinear").permute(0, 2, 3, 1)[0]
    read = place @ theta[:, :2].T + theta[:, 2]
    assert float((identity - small_own).abs().max()) > 0.01  # the half pixel is in it
    grid = sampling_grid(flow[0].numpy(), theta.numpy(), size, (170, 140))
    expected = ((read + 1) * torch.tensor([170, 140]) - 1) / 2
    np.testing.assert_allclose(np.stack(grid, axis=-1), expected.numpy(), atol=2e-3)
    pixels = torch.from_numpy(reference).permute(2, 0, 1)[None].float()
    sampled = F.grid_sample(pixels, read[None], mode="bicubic", padding_mode="border", align_corners=False)[0]
    moved = cv2.remap(reference, *grid, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    assert psnr_db(moved, sampled.permute(1, 2, 0).numpy()) > 35  # another cubic kernel


def test_warp_seen_at_the_networks_size_is_the_networks_own() -> None:
    generator = torch.Generator().manual_seed(0)
    flow = 3 * F.interpolate(torch.randn(1, 2, 4, 4, generator=generator), (S, S), mode="bicubic")
    theta = torch.tensor([[0.95, -0.05, 0.02], [0.05, 0.95, -0.03]])
    coarse = np.random.default_rng(0).integers(0, 255, (9, 9, 3)).astype(np.uint8)
    reference = cv2.resize(coarse, (170, 140), interpolation=cv2.INTER_LINEAR)
    grid = sampling_grid(flow[0].numpy(), theta.numpy(), (190, 230), (170, 140))
    moved = small(cv2.remap(reference, *grid, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))
    expected = network_warp(flow, theta, reference)
    assert psnr_db(moved[8:-8, 8:-8], expected[8:-8, 8:-8]) > 38
    assert psnr_db(small(reference), expected) < 25


def network_warp(flow: torch.Tensor, theta: torch.Tensor, reference: np.ndarray) -> np.ndarray:
    """As the network moves a reference at its own size: the similarity first, then the flow, each bilinearly."""
    image = torch.from_numpy(crop_face(reference, np.array([0, 0, 170, 140]), S)).permute(2, 0, 1)[None].float()
    aligned = F.grid_sample(
        image, F.affine_grid(theta[None], [1, 3, S, S], align_corners=False), padding_mode="border", align_corners=False
    )
    grid = resize_deformation(deformation(flow), S)
    return F.grid_sample(aligned, grid, padding_mode="border", align_corners=False)[0].permute(1, 2, 0).numpy()


def test_references_weigh_as_the_network_trusts_them() -> None:
    dark, light = (np.full((200, 200, 3), level, np.uint8) for level in (100, 140))
    face = np.full((S, S, 3), 130, np.uint8)
    dark[::4] += 16  # detail finer than the small face, in lines of two
    dark[1::4] += 16
    found = native(face, warp_of(still(), still(), shares=(0.2, 0.6)), [dark, light], (200, 200))
    assert found[100:].mean() == pytest.approx(130, abs=0.6)  # the network's level
    lines = found[120:180].astype(float).reshape(15, 4, -1).mean((0, 2))
    stripes = lines[:2].mean() - lines[2:].mean()
    assert stripes == pytest.approx(16 / 4, abs=0.5)


def test_what_no_reference_shows_is_the_networks() -> None:
    reference = np.full((256, 256, 3), 30, np.uint8)
    reference[::2] += 10
    face = np.full((S, S, 3), 200, np.uint8)
    found = native(face, warp_of(still()), [reference], (256, 256))
    assert np.abs(found.astype(int) - 200).max() <= 1


def test_upper_half_is_the_face_enlarged() -> None:
    reference, face = zone_plate(256, 256), small(zone_plate(256, 256)[:, ::-1])
    rows = last_rows(S)
    warp = FaceWarp(still()[None, :, -rows:], np.ones((1, rows, S), np.float32), IDENTITY[None])
    found = native(face, warp, [reference], (256, 256))
    enlarged = cv2.resize(face, (256, 256), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(found[: 4 * (S - rows)], enlarged[: 4 * (S - rows)])


def test_face_just_larger_than_the_networks_hardly_differs() -> None:
    """A face that grows through the networks' size does not change its look in one frame."""
    generator = np.random.default_rng(0)
    face, reference = (cv2.GaussianBlur(generator.uniform(0, 255, (S, S, 3)), (0, 0), 1) for _ in range(2))
    face, reference = (np.clip(0.1 * noise + 110, 0, 255).round().astype(np.uint8) for noise in (face, reference))
    reference = cv2.resize(reference, (S + 1, S + 1), interpolation=cv2.INTER_CUBIC)
    found = native(face, warp_of(still()), [reference], (S + 1, S + 1))
    assert psnr_db(found, cv2.resize(face, (S + 1, S + 1), interpolation=cv2.INTER_CUBIC)) > 42


@pytest.mark.parametrize(
    ("box", "size"),
    [
        ((0, 0, 300, 320), (300, 320)),
        ((10, 20, 610, 1020), (307, 512)),
        ((0, 0, 128, 300), None),
        ((0, 0, 100, 110), None),
    ],
)
def test_native_size_is_the_boxs_own_up_to_the_largest(box: tuple[int, ...], size: tuple[int, int] | None) -> None:
    assert native_size(np.array(box), 128, 512) == size


def test_reference_is_stored_no_larger_than_faces_are_rendered() -> None:
    face = zone_plate(600, 300)
    assert shrunk(face, 512).shape == (256, 512, 3)
    assert shrunk(face, 600) is face
