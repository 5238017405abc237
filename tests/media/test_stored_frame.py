"""What is written is what was read: RGB as files store it, against the formula, FFmpeg's scaler and a round trip."""

from __future__ import annotations

import av
import cv2
import numpy as np
import pytest

from stsa_lightning.media.rgb_converter import (
    ACCURATE_RND,
    BT601,
    BT709,
    BT2020,
    FULL,
    LIMITED,
    _planar_rgb,
    _planes,
    _to_rgb,
    stored_frame,
)

KR_KB = {BT601: (0.299, 0.114), BT709: (0.2126, 0.0722), BT2020: (0.2627, 0.0593)}  # ITU-T H.273


def picture(width: int, height: int) -> np.ndarray:
    """Smooth, of every colour, with noise of a few levels."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (6, 8, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).astype(int)
    return np.clip(smooth + random.integers(-4, 5, smooth.shape), 0, 255).astype(np.uint8)


def by_formula(pixels: np.ndarray, matrix: int) -> list[np.ndarray]:
    red_share, blue_share = KR_KB[matrix]
    red, green, blue = np.moveaxis(pixels.astype(float) / 255, -1, 0)
    luma = red_share * red + (1 - red_share - blue_share) * green + blue_share * blue
    of_u, of_v = (blue - luma) / (2 - 2 * blue_share), (red - luma) / (2 - 2 * red_share)
    return [16 + 219 * luma, 128 + 224 * of_u, 128 + 224 * of_v]


@pytest.mark.parametrize("matrix", KR_KB)
@pytest.mark.parametrize(("width", "height"), [(64, 48), (1000, 150), (65, 48), (64, 7), (66_000, 4)])
def test_stored_frames_are_the_formula(width: int, height: int, matrix: int) -> None:
    pixels = picture(width, height)
    frame = stored_frame(pixels, matrix)
    expected = by_formula(pixels, matrix)
    if width % 2 or height % 2:
        assert frame.format.name == "yuv444p"
    else:
        assert frame.format.name == "yuv420p"
        expected[1:] = (p.reshape(height // 2, 2, width // 2, 2).mean((1, 3)) for p in expected[1:])
    assert (frame.width, frame.height) == (width, height)
    for found, true in zip(_planes(frame), expected, strict=True):
        assert np.abs(found - true).max() <= 1.1  # roundings of a pixel, of the mean of four, of the coefficients
        assert abs((found - true).mean()) < 0.2  # means of four end on halves, which are rounded up


@pytest.mark.parametrize("matrix", KR_KB)
def test_what_was_read_is_written_as_it_was_and_nearer_than_by_the_scaler(matrix: int) -> None:
    source = stored_frame(picture(128, 96), matrix)
    shown = np.empty((96, 128, 3), np.uint8)
    _planar_rgb(_planes(source), _to_rgb(matrix, True), shown)
    bilinear = int(av.video.reformatter.Interpolation.BILINEAR) | ACCURATE_RND
    scaled = av.video.reformatter.VideoReformatter().reformat(
        av.VideoFrame.from_ndarray(shown, format="rgb24"),
        format="yuv420p",
        dst_colorspace=matrix,
        src_color_range=FULL,
        dst_color_range=LIMITED,
        interpolation=bilinear,
    )
    pairs = zip(_planes(stored_frame(shown, matrix)), _planes(scaled), _planes(source), strict=True)
    for found, by_scaler, true in pairs:
        error = np.abs(found.astype(int) - true).mean()
        assert error <= np.abs(by_scaler.astype(int) - true).mean() + 0.005
        assert np.median(np.abs(found.astype(int) - true)) == 0
