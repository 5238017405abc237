"""The heatmaps that drive a dub, drawn onto its frames."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from stsa_lightning.face.upright_box import UprightBox
from stsa_lightning.media.video import VideoReader, VideoWriter

COLOUR = (0, 230, 255)
DIMMED = 0.7  # of the face's light, so that thin lines show


def draw_overlay(
    frame: np.ndarray, heatmap: np.ndarray, place: UprightBox, colour: tuple[int, int, int] = COLOUR
) -> None:
    """Dim the face and draw its heatmap (S, S) in [0, 1] over it, in place: `frame` is (H, W, 3) uint8 RGB."""
    face = place.read(frame).astype(np.float32)
    lines = cv2.resize(heatmap.astype(np.float32), face.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    share = np.clip(lines, 0, 1)[..., None]
    place.add(frame, DIMMED * face * (1 - share) + np.array(colour, np.float32) * share - face)


class HeatmapFilm:
    """Collects the heatmaps of a dub, and draws them onto its result: `Dubber.dub(..., observe=film)`.

    Holds S^2 bytes a frame.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[np.ndarray, UprightBox]] = {}

    def __call__(self, number: int, heatmap: np.ndarray, place: UprightBox) -> None:
        self._seen[number] = (np.round(255 * np.clip(heatmap, 0, 1)).astype(np.uint8), place)

    def write(self, dubbed: Path, out: Path) -> None:
        """A copy of the dubbed video, without sound, with the heatmaps drawn in where it was re-rendered."""
        with VideoReader(dubbed) as reader:
            size = reader.info.width, reader.info.height
            with VideoWriter(out, reader.fps, size, timestamps=reader.timestamps_s, colours=reader.colours) as writer:
                number = 0
                for frames in reader.blocks(8):
                    for frame in frames:
                        if number in self._seen:
                            heatmap, place = self._seen[number]
                            draw_overlay(frame, heatmap / np.float32(255), place)
                        number += 1
                    writer.write(frames)
