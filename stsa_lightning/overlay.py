"""The heatmaps that drive a dub, drawn onto its frames."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from stsa_lightning.video import VideoReader, VideoWriter

COLOUR = (0, 230, 255)
DIMMED = 0.7  # of the face's light, so that thin lines show


def draw_overlay(
    frame: np.ndarray, heatmap: np.ndarray, box: np.ndarray, colour: tuple[int, int, int] = COLOUR
) -> None:
    """Dim the face and draw its heatmap over it, in place.

    Args:
        frame: (H, W, 3) uint8 RGB.
        heatmap: (S, S) in [0, 1].
        box: (4,) x0, y0, x1, y1 of the face in pixels, within the frame.
        colour: of the lines, RGB.
    """
    x0, y0, x1, y1 = (int(v) for v in box)
    lines = cv2.resize(heatmap.astype(np.float32), (x1 - x0, y1 - y0), interpolation=cv2.INTER_CUBIC)
    share = np.clip(lines, 0, 1)[..., None]
    face = frame[y0:y1, x0:x1]
    face[:] = (DIMMED * face * (1 - share) + np.array(colour, np.float32) * share).round()


class HeatmapFilm:
    """Collects the heatmaps of a dub, and draws them onto its result: `Dubber.dub(..., observe=film)`.

    Holds S^2 bytes a frame.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, number: int, heatmap: np.ndarray, box: np.ndarray) -> None:
        self._seen[number] = (np.round(255 * np.clip(heatmap, 0, 1)).astype(np.uint8), box.copy())

    def write(self, dubbed: Path, out: Path) -> None:
        """A copy of the dubbed video, without sound, with the heatmaps drawn in; frames that were not redrawn stay."""
        with VideoReader(dubbed) as reader:
            size = reader.info.width, reader.info.height
            with VideoWriter(out, reader.fps, size, timestamps=reader.timestamps_s, colours=reader.colours) as writer:
                number = 0
                for frames in reader.blocks(8):
                    for frame in frames:
                        if number in self._seen:
                            heatmap, box = self._seen[number]
                            draw_overlay(frame, heatmap / np.float32(255), box)
                        number += 1
                    writer.write(frames)
