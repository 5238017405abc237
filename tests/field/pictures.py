"""Inputs made by code, and what they show by arithmetic of its own."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

WEIGHTS = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}  # of red and blue in luma, by FFmpeg's number
PIXEL = {"yuv420p": (2, 2, 8), "yuv422p": (2, 1, 8), "yuv444p": (1, 1, 8), "yuv420p10le": (2, 2, 10)}


def patches(height: int = 96, width: int = 128, side: int = 16, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 squares of random colours."""
    colours = np.random.default_rng(seed).integers(0, 256, (height // side, width // side, 3), np.uint8)
    return colours.repeat(side, 0).repeat(side, 1)


def inner(picture: np.ndarray, side: int = 16) -> np.ndarray:
    """(n, 3) mean colour of the middle of each square."""
    height, width = (length // side for length in picture.shape[:2])
    squares = picture[: height * side, : width * side].reshape(height, side, width, side, 3)
    return squares[:, 5:11, :, 5:11].mean((1, 3)).reshape(-1, 3)


def yuv_of(rgb: np.ndarray, matrix: int, full: bool, bits: int = 8) -> list[np.ndarray]:
    """Three planes of full resolution, by the definition of the matrix and range."""
    red, blue = WEIGHTS[matrix]
    part = rgb.astype(float) / 255
    luma = part @ [red, 1 - red - blue, blue]
    chroma = [(part[..., 2] - luma) / (2 - 2 * blue), (part[..., 0] - luma) / (2 - 2 * red)]
    scale = 2 ** (bits - 8)
    planes = (
        [luma * 255, *(c * 255 + 128 for c in chroma)] if full else [luma * 219 + 16, *(c * 224 + 128 for c in chroma)]
    )
    return [
        np.clip(np.round(p * scale), 0, 256 * scale - 1).astype(np.uint16 if bits > 8 else np.uint8) for p in planes
    ]


def rgb_of(frame: Any, matrix: int, full: bool) -> np.ndarray:
    """(H, W, 3) floats of a decoded 8-bit planar YUV frame, chroma repeated."""
    planes = [
        np.frombuffer(p, np.uint8).reshape(p.height, p.line_size)[:, : p.width].astype(float) for p in frame.planes
    ]
    luma, *chroma = (p.repeat(frame.height // p.shape[0], 0).repeat(frame.width // p.shape[1], 1) for p in planes)
    red, blue = WEIGHTS[matrix]
    y = luma / 255 if full else (luma - 16) / 219
    u, v = ((c - 128) / (255 if full else 224) for c in chroma)
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    return np.clip(255 * np.stack([r, (y - red * r - blue * b) / (1 - red - blue), b], -1), 0, 255)


def yuv_frame(rgb: np.ndarray, pixel: str, matrix: int, full: bool) -> Any:
    """A frame of these colours in a planar format."""
    across, down, bits = PIXEL[pixel]
    frame = av.VideoFrame(rgb.shape[1], rgb.shape[0], pixel)
    planes = zip(frame.planes, yuv_of(rgb, matrix, full, bits), strict=True)
    for number, (plane, values) in enumerate(planes):
        kept = values[::down, ::across] if number else values
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        raw = np.ascontiguousarray(kept).view(np.uint8)
        rows[:, : raw.shape[1]] = raw
        plane.update(rows.tobytes())
    return frame


def encode(
    path: Path,
    frames: Sequence[Any],
    codec: str = "libx264",
    pixel: str = "yuv420p",
    stamps: Sequence[int] | None = None,
    base: Fraction = Fraction(1, 25),
    aspect: Fraction | None = None,
    tags: tuple[int, int] | None = None,
    options: dict[str, str] | None = None,
    format: str | None = None,
) -> Path:
    """Write frames (arrays of RGB, or av frames) as they are; `tags`: FFmpeg's numbers of matrix and range."""
    with av.open(f"file:{path}", "w", format=format) as container:
        lossless = {"crf": "0"} if codec == "libx264" else {}
        stream: Any = container.add_stream(codec, rate=25, options={**lossless, **(options or {})})
        frames = [av.VideoFrame.from_ndarray(f, "rgb24") if isinstance(f, np.ndarray) else f for f in frames]
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, pixel
        stream.codec_context.time_base, stream.bit_rate = base, 0 if lossless else 4_000_000
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if tags is not None:
            stream.codec_context.colorspace, stream.codec_context.color_range = tags
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = (number if stamps is None else stamps[number]), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    # SVT-AV1 gives the thread that starts it real-time priority where it may (as root), and all processes that this one
    # starts later would have it, too: one that waits in a loop then stops the machine.
    if hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return path


def turn(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Give an mp4's track a display matrix: a stored (x, y) is shown at (a x + c y, b x + d y)."""
    data = bytearray(path.read_bytes())
    a, b, c, d = (65_536 * v for v in matrix)
    at = data.find(b"tkhd") + 4 + 4 + 20 + 16
    data[at : at + 24] = struct.pack(">6i", a, b, 0, c, d, 0)
    path.write_bytes(data)


def corners(width: int, height: int) -> np.ndarray:
    """(H, W, 3): red, green, blue, white quarters from the upper left, row by row: each of 8 orientations differs."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = 200, 30, 30
    picture[: height // 2, width // 2 :] = 30, 180, 30
    picture[height // 2 :, : width // 2] = 30, 30, 200
    picture[height // 2 :, width // 2 :] = 220, 220, 220
    return picture
